"""The one decoder of files: what soundfile knows, what ffmpeg knows, and files whose end is missing."""

from __future__ import annotations

import io
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from ffmpeg_files import FORMATS, make, needs_ffmpeg
from speech_files import encoded, tone, write

from distil_whisper_hf.audio_files import StretchError, decode_blocks, decode_file, file_seconds
from distil_whisper_hf.audio_input import load_audio

RATE = 16000


def written(container: str, subtype: str | None = None, *, seconds: float = 2.0, endian: str = "FILE") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(seconds), RATE, format=container, subtype=subtype, endian=endian)
    return buffer.getvalue()


def with_chunk(wav: bytes, chunk: bytes) -> bytes:
    """A WAV with another chunk before its samples."""
    return wav[:36] + chunk + wav[36:]


def sized(wav: bytes, size: int, *, riff: int | None = None) -> bytes:
    """A WAV that announces so many bytes of samples, and in all."""
    riff = len(wav) - 8 if riff is None else riff
    return wav[:4] + struct.pack("<I", riff) + wav[8:40] + struct.pack("<I", size) + wav[44:]


def pitch(samples: np.ndarray, rate: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples)))) * rate / len(samples)


WAV = encoded(tone(2.0))
UNCOMPRESSED = {
    "wav": WAV,
    "wav, float": written("WAV", "FLOAT"),
    "wav, adpcm": written("WAV", "IMA_ADPCM"),
    "wav, extensible": written("WAVEX"),
    "wav, big-endian": written("WAV", endian="BIG"),
    "wav, chunks before": with_chunk(WAV, b"LIST\x06\x00\x00\x00INFO\x01\x02" + b"junk\x03\x00\x00\x00abc\x00"),
    "wav, many chunks before": with_chunk(WAV, b"bext\x04\x00\x00\x00abcd" * 200),
    "rf64": written("RF64"),
    "w64": written("W64"),
    "aiff": written("AIFF"),
    "8svx": written("SVX"),
    "caf": written("CAF"),
    "au": written("AU"),
    "au, little-endian": written("AU", endian="LITTLE"),
    "nist": written("NIST"),
    "ogg": written("OGG", "VORBIS"),
    "opus": written("OGG", "OPUS"),
}


@pytest.mark.parametrize("share", [0.98, 0.5])
@pytest.mark.parametrize("name", UNCOMPRESSED)
def test_a_file_cut_short_is_found_out(name: str, share: float, tmp_path: Path) -> None:
    """Prevents half a sentence of sound with a whole sentence of text: libsndfile reads what is there."""
    whole = UNCOMPRESSED[name]
    # Blocks of ADPCM are filled up.
    assert file_seconds(whole, name) == pytest.approx(2.0, abs=0.05)
    assert len(decode_file(whole, RATE, name).waveform) == pytest.approx(2 * RATE, abs=800)
    path = tmp_path / "half"
    path.write_bytes(whole[: int(share * len(whole))])
    for cut in (path.read_bytes(), str(path)):
        for look in (lambda cut=cut: file_seconds(cut, name), lambda cut=cut: decode_file(cut, RATE, name)):
            with pytest.raises(ValueError, match=r"cut short: its .* announces \d+ bytes.*, \d+ are there"):
                look()


@pytest.mark.parametrize(
    "wav",
    [
        *(sized(WAV, size, riff=riff) for size in (0xFFFFFFFF, 0x7FFFF000, 0xFFFFFFDB) for riff in (0, 0xFFFFFFFF, 36)),
        *(sized(WAV, 0, riff=riff) for riff in (0, 8, 36, 0xFFFFFFFF)),
        # A header that counts itself, and a byte of padding that is not there.
        sized(WAV, len(WAV)),
        sized(WAV, len(WAV) - 43),
        WAV + b"LIST\x04\x00\x00\x00INFO",
        written("AU")[:8] + b"\xff\xff\xff\xff" + written("AU")[12:],
    ],
)
def test_a_length_that_is_not_known_is_no_fault(wav: bytes) -> None:
    """Prevents whatever was recorded through a pipe, or by a program that crashed, from being lost."""
    assert len(decode_file(wav, RATE, "a stream").waveform) == pytest.approx(2 * RATE, abs=50)
    assert file_seconds(wav, "a stream") == pytest.approx(2.0, abs=0.01)


def test_a_wav_without_samples_stays_empty() -> None:
    """Prevents what follows no samples from being heard as samples."""
    empty = encoded(np.zeros(0, np.float32)) + b"LIST\x04\x00\x00\x00INFO" * 1000
    assert len(decode_file(empty, RATE, "empty").waveform) == 0


@pytest.mark.parametrize("name", ["flac", "mp3"])
def test_damage_that_only_decoding_shows_is_not_given_to_ffmpeg(name: str, monkeypatch) -> None:
    """Prevents half a flac as a whole one: ffmpeg decodes what is left without a word."""
    monkeypatch.setattr("distil_whisper_hf.audio_files.decode_with_ffmpeg", lambda *_, **__: tone(1.0))
    whole = encoded(tone(3.0), extension=name)
    with pytest.raises(ValueError, match="was cut short"):
        decode_file(whole[: len(whole) // 2], RATE, name)


@pytest.mark.parametrize("kind", ["mp3", "ogg"])
def test_what_soundfile_reads_in_part_is_not_read_by_it(kind: str, monkeypatch) -> None:
    """Prevents the first half of a recording for the whole: libsndfile guesses the length of an mp3 by its first frame,
    and ends with the first of several Ogg streams."""
    parts = []
    for hertz, level in ((440.0, 0.0), (550.0, 0.9)):
        buffer = io.BytesIO()
        mode = {"bitrate_mode": "CONSTANT"} if kind == "mp3" else {}
        soundfile.write(buffer, tone(2.0, hertz=hertz), RATE, format=kind.upper(), compression_level=level, **mode)
        parts.append(buffer.getvalue())
    one = parts[0].replace(b"Xing", bytes(4)).replace(b"Info", bytes(4))
    both = one + parts[1].replace(b"Xing", bytes(4)).replace(b"Info", bytes(4))
    asked = []
    monkeypatch.setattr("distil_whisper_hf.audio_files.decode_with_ffmpeg", lambda *_, **__: asked.append(1) or tone(4))
    assert len(decode_file(both, RATE, kind).waveform) == len(tone(4)) and asked
    asked.clear()
    for whole in (one, parts[0], parts[1]):
        assert len(decode_file(whole, RATE, kind).waveform) == pytest.approx(2 * RATE, abs=2500) and not asked


def test_a_codec_that_cannot_be_searched_is_decoded_from_its_beginning() -> None:
    """Prevents a WAV of a telephone from being taken for a damaged one."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.concatenate([tone(1.0, rate=8000), tone(1.0, rate=8000, hertz=880.0)]), 8000,
                    format="WAV", subtype="GSM610")  # fmt: skip
    assert len(decode_file(buffer.getvalue(), RATE, "gsm").waveform) == pytest.approx(16000, abs=400)
    stretch = decode_file(buffer.getvalue(), RATE, "gsm", start=1.2, duration=0.5)
    assert len(stretch.waveform) == 4000 and pitch(*stretch) == pytest.approx(880, abs=5)


def test_names_say_nothing_about_content(tmp_path: Path, monkeypatch) -> None:
    """Prevents a TypeError for .raw, and a decoder chosen by a wrong extension."""
    monkeypatch.setenv("PATH", "")
    for name in ("sound.raw", "sound.mp3", "sound", "-i.wav", "http:x.wav", "file:%03d.wav", "ż ó'\"$(x).wav"):
        path = tmp_path / name
        path.write_bytes(written("FLAC") if name == "sound.mp3" else WAV)
        if name != "sound.raw":
            assert len(decode_file(str(path), RATE, name).waveform) == 2 * RATE
    with pytest.raises(ValueError, match=r"sound\.raw"):
        decode_file(str(tmp_path / "sound.raw"), RATE, "sound.raw")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """Prevents a run that hangs on a pipe, and one that reads /dev/zero for ever."""
    os.mkfifo(tmp_path / "pipe.wav")
    for place in (tmp_path / "pipe.wav", tmp_path, "/dev/zero"):
        for look in (lambda p: decode_file(p, RATE, p), lambda p: file_seconds(p, p), lambda p: load_audio(p, RATE)):
            with pytest.raises(ValueError, match="a folder, a pipe or a device"):
                look(str(place))


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
def test_a_stretch_is_decoded_alone(extension: str, monkeypatch) -> None:
    """Prevents the file's beginning in place of a segment, and an hour of decoding for each of its sentences."""
    content = encoded(np.concatenate([tone(1.0), tone(1.0, hertz=880.0), tone(1.0, hertz=300.0)]), extension=extension)
    samples, rate = decode_file(content, RATE, "talk", start=1.1, duration=0.8)
    assert (len(samples), rate) == (12800, RATE) and pitch(samples, rate) == pytest.approx(880, abs=3)
    assert pitch(decode_file(content, RATE, "talk", start=2.1).waveform, RATE) == pytest.approx(300, abs=3)
    assert pitch(decode_file(content, RATE, "talk", duration=0.9).waveform, RATE) == pytest.approx(440, abs=3)
    # Tables round.
    assert len(decode_file(content, RATE, "talk", start=2.5, duration=0.55).waveform) == pytest.approx(8000, abs=2)
    for start, duration in ((3.5, None), (2.5, 1.0), (0.0, 3.5), (100.0, 1.0)):
        with pytest.raises(StretchError, match=rf"talk, which lasts 3\.\d\d s, got {start:g}"):
            decode_file(content, RATE, "talk", start=start, duration=duration)
    for start, duration in ((-1.0, None), (float("nan"), 1.0), (float("inf"), None), (0.0, 0.0), (0.0, float("nan"))):
        with pytest.raises(StretchError, match="in seconds from 0 up"):
            decode_file(content, RATE, "talk", start=start, duration=duration)


def stand_in(folder: Path, script: str) -> None:
    """A program called ffmpeg."""
    program = folder / "ffmpeg"
    program.write_text(f"#!{sys.executable}\n{script}")
    program.chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="a script is no program there")
@pytest.mark.parametrize("name", ["-i.m4a", "http:x.m4a", "concat:a|b.m4a", "%03d.m4a", "plain.m4a"])
def test_ffmpeg_gets_files_and_no_options(tmp_path: Path, monkeypatch, name: str) -> None:
    """Prevents a name that is taken for an option or an address, a pipe that cannot be searched for an index, and a
    playlist that fetches something."""
    script = (
        "import sys, os, array\n"
        "at = sys.argv.index('-i')\n"
        "assert sys.argv[at - 2 : at] == ['-protocol_whitelist', 'file'], sys.argv\n"
        "assert sys.argv[at + 1].startswith('file:'), sys.argv\n"
        "content = open(sys.argv[at + 1].removeprefix('file:'), 'rb').read()\n"
        "sys.stdout.buffer.write(array.array('f', list(content)).tobytes())\n"
    )
    stand_in(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    content = b"\x00\x00\x00\x18ftypM4A "
    Path(name).write_bytes(content)
    expected = np.frombuffer(content, np.uint8).astype(np.float32)
    for audio in (name, content, {"path": name}, {"bytes": content, "path": "gone"}):
        np.testing.assert_array_equal(load_audio(audio, RATE)[0], expected)
    assert file_seconds(name, name) == file_seconds(content, "bytes") == len(content) / RATE


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x00\x00\x00\x18ftypM4A ", r"Expected ffmpeg, to decode talk\.x \(mp4, m4a, mov or 3gp\), found none"),
        (b"\x1a\x45\xdf\xa3" + bytes(9), r"Expected ffmpeg, to decode talk\.x \(webm or mkv\)"),
        (b"#!AMR\n" + bytes(9), r"Expected ffmpeg, to decode talk\.x \(amr\)"),
        (b"\xff\xf1" + bytes(9), r"Expected ffmpeg, to decode talk\.x \(aac\)"),
        (b"OggS" + bytes(30), r"Expected ffmpeg, to decode talk\.x \(ogg of several streams"),
        (b"<html>not found", r"Expected an audio file, got talk\.x \(15 bytes\), .*Check that the file is whole"),
        (b"", r"Expected an audio file, got talk\.x \(0 bytes\)"),
    ],
)
def test_without_ffmpeg_what_is_missing_is_said(monkeypatch, content: bytes, said: str) -> None:
    """Prevents advice to mend a file that is whole, or to install a program for what is no sound."""
    monkeypatch.setenv("PATH", "")
    for look in (lambda: decode_file(content, RATE, "talk.x"), lambda: file_seconds(content, "talk.x")):
        with pytest.raises(ValueError, match=said) as caught:
            look()
        assert "apt install ffmpeg" in str(caught.value) and "\n" not in str(caught.value)


@needs_ffmpeg
@pytest.mark.parametrize("name", FORMATS)
def test_whatever_ffmpeg_reads_is_decoded(tmp_path: Path, name: str) -> None:
    """Prevents m4a with its index at the end from being lost, and what was cut short from passing."""
    path = make(tmp_path / name, tone(3.0))
    for audio in (str(path), path.read_bytes()):
        samples, rate = decode_file(audio, RATE, name)
        assert rate == RATE and len(samples) == pytest.approx(3 * RATE, abs=2000)
        assert pitch(samples, rate) == pytest.approx(440, abs=3)
        assert file_seconds(audio, name) == len(samples) / RATE
        stretch = decode_file(audio, RATE, name, start=2.3, duration=0.5).waveform
        assert len(stretch) == pytest.approx(8000, abs=500) and pitch(stretch, RATE) == pytest.approx(440, abs=5)
    with pytest.raises(StretchError, match=r"which lasts (3|2\.9)\.?\d* s, got 7 to 8 s"):
        decode_file(str(path), RATE, name, start=7.0, duration=1.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"{name}.*(was cut short|neither soundfile nor ffmpeg can decode): "):
        decode_file(str(path), RATE, name)


@needs_ffmpeg
@pytest.mark.parametrize("name", FORMATS)
def test_a_stretch_of_what_ffmpeg_reads_is_the_right_one(tmp_path: Path, name: str) -> None:
    """Prevents segments some tenths beside their text, where a container's index is coarse."""
    times = np.arange(8 * RATE) / RATE
    path = make(tmp_path / name, (0.4 * np.sin(2 * np.pi * (200 + 100 * times) * times)).astype(np.float32))
    whole = decode_file(str(path), RATE, name).waveform
    stretch = decode_file(str(path), RATE, name, start=5.25, duration=0.5).waveform
    around = whole[round(4.75 * RATE) : round(6.25 * RATE)]
    place = 4.75 + int(np.argmax(np.correlate(around, stretch, "valid"))) / RATE
    assert len(stretch) == RATE / 2 and place == pytest.approx(5.25, abs=0.07)


@needs_ffmpeg
def test_a_playlist_is_refused(tmp_path: Path) -> None:
    """Prevents a file that makes ffmpeg fetch or open another one."""
    write(tmp_path / "other.mp3", 2.0)
    for name, content in (
        ("far.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"),
        ("near.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nother.mp3\n#EXT-X-ENDLIST\n"),
        ("near.ffconcat", "ffconcat version 1.0\nfile other.mp3\n"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match="neither soundfile nor ffmpeg"):
            decode_file(str(tmp_path / name), RATE, name)


@pytest.mark.parametrize("extension", ["mp3", "ogg", "flac"])
def test_a_stretch_is_what_the_whole_has_there(extension: str) -> None:
    """Silent: another place of a compressed file under a segment's text, above all near its end; seams."""
    times = np.arange(31 * RATE) / RATE
    content = encoded((0.3 * np.sin(2 * np.pi * (200 + 20 * times) * times)).astype(np.float32), extension=extension)
    whole = decode_file(content, RATE, "sweep").waveform
    for start in (0.5, 7.0, 25.0, 28.5, 29.5, 30.0, 30.9):
        found = decode_file(content, RATE, "sweep", start=start, duration=0.05).waveform
        first = round(start * RATE)
        assert np.abs(found - whole[first : first + len(found)]).max() < 1e-4
    blocks = [block.waveform for block in decode_blocks(content, RATE, "sweep", seconds=3.1)]
    assert len(blocks) == 10 and np.abs(np.concatenate(blocks) - whole).max() < 1e-4


@needs_ffmpeg
def test_what_ffmpeg_reads_comes_in_blocks(tmp_path: Path) -> None:
    """Silent: a video of hours in memory, a block lost, an end that is missing, a program that goes on for nobody."""
    path = make(tmp_path / "end.m4a", tone(9.0))
    whole = decode_file(str(path), RATE, "talk").waveform
    for source in (str(path), path.read_bytes()):
        blocks = [block.waveform for block in decode_blocks(source, RATE, "talk", seconds=2.0)]
        assert [len(block) for block in blocks[:-1]] == [2 * RATE] * 4
        assert np.array_equal(np.concatenate(blocks), whole)
    rest = decode_blocks(str(path), RATE, "talk", seconds=2.0)
    next(rest)
    rest.close()
    start = make(tmp_path / "start.m4a", tone(9.0))
    start.write_bytes(start.read_bytes()[:-9000])
    with pytest.raises(ValueError, match=r"cut short|can decode"):
        list(decode_blocks(str(start), RATE, "talk", seconds=2.0))
