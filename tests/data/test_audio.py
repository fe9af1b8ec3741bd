"""Decoding, mixing, resampling, and everything that can be wrong with a sound file."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from speech_files import FORMATS, encoded, tone, write

from distil_whisper_hf.data.audio import AudioError, StoredAudio, audio_digest, audio_seconds, read_audio


def loudest_hertz(samples: np.ndarray, rate: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples)))) * rate / len(samples)


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("rate", [16000, 48000, 44100, 8000])
def test_every_format_comes_as_the_same_sound_at_16_khz(tmp_path, extension: str, rate: int) -> None:
    """Prevents speech at the wrong speed: 48 kHz taken for 16 kHz still makes features."""
    path = write(tmp_path / f"clip.{extension}", 1.5, rate=rate)
    for source in (str(path), path.read_bytes()):
        samples = read_audio(source, sampling_rate=16000)
        assert samples.dtype == np.float32
        assert samples.ndim == 1
        assert len(samples) == pytest.approx(24000, rel=0.02)
        assert loudest_hertz(samples, 16000) == pytest.approx(440, abs=3)
        assert np.abs(samples[1000:-1000]).max() == pytest.approx(0.5, abs=0.05)
        assert audio_seconds(source) == pytest.approx(1.5, rel=0.05)


def test_channels_are_averaged() -> None:
    """Prevents interleaved channels read as one, or one channel thrown away."""
    left, right = tone(1.0), tone(1.0, hertz=880.0)
    samples = read_audio(encoded(np.stack([left, right], axis=1)), sampling_rate=16000)
    np.testing.assert_allclose(samples, (left + right) / 2, atol=1e-4)


def test_audio_in_a_table_is_fetched_by_row(tmp_path) -> None:
    """Prevents the bytes of another row, and a path in the table being taken for its bytes."""
    path = write(tmp_path / "clip.wav", 0.5)
    table = [
        {"sound": {"bytes": encoded(tone(1.0)), "path": "one.wav"}},
        {"sound": {"bytes": None, "path": str(path)}},
        {"sound": {"bytes": None, "path": None}},
    ]
    assert len(read_audio(StoredAudio(table, 0, "sound"), sampling_rate=16000)) == 16000
    assert len(read_audio(StoredAudio(table, 1, "sound"), sampling_rate=16000)) == 8000
    assert audio_digest(StoredAudio(table, 1, "sound")) == audio_digest(str(path))
    with pytest.raises(AudioError, match="bytes or a path in row 2"):
        audio_seconds(StoredAudio(table, 2, "sound"))


def test_the_digest_is_of_the_content(tmp_path) -> None:
    """Prevents one clip under two names from being in train and in test."""
    one = write(tmp_path / "one.wav")
    two = write(tmp_path / "a" / "two.wav")
    other = write(tmp_path / "other.wav", hertz=441.0)
    assert audio_digest(str(one)) == audio_digest(str(two)) == audio_digest(one.read_bytes())
    assert audio_digest(str(one)) != audio_digest(str(other))


@pytest.mark.parametrize("check", [audio_seconds, audio_digest, lambda source: read_audio(source, sampling_rate=16000)])
def test_a_missing_file_is_an_audio_error(tmp_path, check) -> None:
    """Prevents an OSError or a library's own error from going past those who count unreadable clips."""
    with pytest.raises(AudioError, match=r"gone\.wav"):
        check(str(tmp_path / "gone.wav"))


@pytest.mark.parametrize("content", [b"", b"not a sound file" * 50, b"ID3" + bytes(200)])
def test_what_is_no_sound_is_an_audio_error(tmp_path, content: bytes) -> None:
    """Prevents the same, for an error page that was saved as clip.mp3, and for an empty file."""
    path = tmp_path / "clip.mp3"
    path.write_bytes(content)
    for source in (str(path), content):
        with pytest.raises(AudioError, match=r"Expected an audio file, got .* Check that the file is whole"):
            audio_seconds(source)
        with pytest.raises(AudioError, match=r"Expected an audio file, got .* Check that the file is whole"):
            read_audio(source, sampling_rate=16000)


@pytest.mark.parametrize("extension", ["mp3", "flac"])
def test_a_download_that_broke_off_is_an_audio_error(extension: str) -> None:
    """Prevents half a sentence of sound with a whole sentence of text: mp3 decodes the half without a complaint."""
    half = encoded(tone(3.0), extension=extension)
    half = half[: len(half) // 2]
    assert audio_seconds(half) == pytest.approx(3.0, rel=0.05)
    with pytest.raises(AudioError, match="was cut short"):
        read_audio(half, sampling_rate=16000)


def test_samples_that_are_not_finite_are_an_audio_error() -> None:
    """Prevents one nan in a float file from making the weights nan."""
    samples = tone(0.5)
    samples[100] = np.nan
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16000, format="WAV", subtype="FLOAT")
    with pytest.raises(AudioError, match="not finite"):
        read_audio(buffer.getvalue(), sampling_rate=16000)
