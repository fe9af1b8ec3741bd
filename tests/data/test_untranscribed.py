"""Folders of audio without transcripts."""

import pytest
from speech_files import write

from distil_whisper_hf.data.audio import audio_seconds, read_audio
from distil_whisper_hf.data.untranscribed import read_untranscribed


def test_every_recording_in_stretches_that_fit(tmp_path):
    """Silent: the end of a long recording lost or heard twice, files in folders below left out, a table read as audio,
    or all folders taken for one speaker."""
    write(tmp_path / "a" / "long.wav", 7.0, hertz=300.0)
    write(tmp_path / "a" / "short.flac", 1.5)
    write(tmp_path / "b.ogg", 2.0)
    (tmp_path / "metadata.csv").write_text("file_name,text\nb.ogg,hola\n")
    clips, rejected = read_untranscribed(tmp_path, language="ca", expert="ca", max_seconds=3.0)
    assert not rejected
    assert [clip.id for clip in clips] == ["a/long.wav@0", "a/long.wav@3", "a/long.wav@6", "a/short.flac", "b.ogg"]
    assert [clip.seconds for clip in clips] == pytest.approx([3.0, 3.0, 1.0, 1.5, 2.0], abs=0.01)
    assert [audio_seconds(clip.audio) for clip in clips] == pytest.approx([3.0, 3.0, 1.0, 1.5, 2.0], abs=0.01)
    assert [len(read_audio(clip.audio, sampling_rate=16000)) for clip in clips[:3]] == [48000, 48000, 16000]
    assert [clip.speaker for clip in clips] == ["a"] * 4 + ["."]
    assert len({clip.digest for clip in clips}) == 5
    assert {(clip.text, clip.labels, clip.language, clip.expert) for clip in clips} == {("", (), "ca", "ca")}


def test_a_recording_of_whole_stretches_has_no_empty_one(tmp_path):
    """Silent: a last stretch of nothing, which no model can be given."""
    write(tmp_path / "even.wav", 6.0)
    clips, _ = read_untranscribed(tmp_path, language="ca", max_seconds=3.0)
    assert [clip.seconds for clip in clips] == [3.0, 3.0]


def test_what_cannot_be_read_is_said(tmp_path):
    """Silent: one broken file that ends a run, or one that is left out without a word."""
    write(tmp_path / "good.wav", 1.0)
    write(tmp_path / "click.wav", 0.05)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    clips, rejected = read_untranscribed(tmp_path, language="ca")
    assert [clip.id for clip in clips] == ["good.wav"]
    assert sorted(one.id for one in rejected) == ["broken.wav", "click.wav"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"folder of audio files .*got one without any"):
        read_untranscribed(tmp_path / "empty", language="ca")
    with pytest.raises(ValueError, match="got no such folder"):
        read_untranscribed(tmp_path / "nowhere", language="ca")
