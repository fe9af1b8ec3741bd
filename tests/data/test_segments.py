"""Rows that are stretches of a recording."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
from speech_files import FORMATS, encoded, tone, write
from transformers import WhisperFeatureExtractor

from distil_whisper_hf.data.audio import AudioSegment, SegmentError, audio_digest, audio_seconds, read_audio
from distil_whisper_hf.data.clips import Clip
from distil_whisper_hf.data.joining import join_clips
from distil_whisper_hf.data.labels import LabelBuilder
from distil_whisper_hf.data.manifests import read_manifest
from distil_whisper_hf.data.rejections import Rejection
from distil_whisper_hf.data.screening import Screen, screen_clips
from distil_whisper_hf.segments import segment
from distil_whisper_hf.training.datasets import RowMaker

RATE = 16000
# Lengths and pitches of what is spoken one after the other.
PARTS = [(0.5, 300.0), (0.75, 500.0), (1.0, 700.0)]
STARTS = [0.0, 0.5, 1.25]


def recording(path: Path) -> Path:
    samples = np.concatenate([tone(seconds, hertz=hertz) for seconds, hertz in PARTS])
    container, coding = FORMATS[path.suffix[1:]]
    soundfile.write(path, samples, RATE, format=container, subtype=coding)
    return path


def manifest(path: Path, rows: list[dict]) -> Path:
    path.write_text(
        "".join(json.dumps({"text": f"text {n}", "lang": "ca", **row}) + "\n" for n, row in enumerate(rows))
    )
    return path


def pitch(samples: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax()) * RATE / len(samples)


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("names", [("offset", "duration"), ("start", "end"), ("start_time", "end_time")])
def test_each_row_is_its_segment(tmp_path, extension: str, names: tuple[str, str]) -> None:
    """Prevents whole files, or the file's beginning, under the text of every row."""
    audio = recording(tmp_path / f"long.{extension}")
    start_name, second = names
    rows = [
        {
            "audio_filepath": audio.name,
            start_name: str(start),
            second: seconds if second == "duration" else start + seconds,
        }
        for start, (seconds, _) in zip(STARTS, PARTS, strict=True)
    ]
    clips = read_manifest(manifest(tmp_path / "m.jsonl", rows))
    assert [clip.id for clip in clips] == [
        f"long.{extension}@{start:.3f}-{start + seconds:.3f}" for start, (seconds, _) in zip(STARTS, PARTS, strict=True)
    ]
    for clip, (seconds, hertz) in zip(clips, PARTS, strict=True):
        samples = read_audio(clip.audio, sampling_rate=RATE)
        assert audio_seconds(clip.audio) == pytest.approx(seconds, abs=0.06)
        assert len(samples) == pytest.approx(seconds * RATE, abs=1000)
        assert pitch(samples) == pytest.approx(hertz, abs=3)


def test_only_the_stretch_is_decoded(tmp_path, monkeypatch) -> None:
    """Prevents an hour of decoding for each sentence of an hour."""
    audio = recording(tmp_path / "long.flac")
    asked = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda self, n=-1, **kw: asked.append(n) or read(self, n, **kw))
    read_audio(AudioSegment(str(audio), 0.5, 0.75), sampling_rate=RATE)
    assert asked == [12000]


def test_segments_are_screened_joined_and_trained_on_as_clips(tmp_path, tokenizer) -> None:
    """Prevents segments of one file from passing for the same audio, and features of the whole file."""
    audio = recording(tmp_path / "long.wav")
    rows = [
        {"audio": audio.name, "start": s, "end": s + seconds} for s, (seconds, _) in zip(STARTS, PARTS, strict=True)
    ]
    labels = LabelBuilder(tokenizer)
    clips = read_manifest(manifest(tmp_path / "m.jsonl", rows))
    kept, report = screen_clips(clips, Screen(labels, max_seconds=2.0, decode=True))
    assert (report.kept, report.seconds) == (3, 2.25)
    assert len({clip.digest for clip in kept}) == 3
    make_row = RowMaker(WhisperFeatureExtractor(chunk_length=3))
    for clip, (seconds, hertz) in zip(kept, PARTS, strict=True):
        alone = make_row(Clip("alone", str(write(tmp_path / "alone.wav", seconds, hertz=hertz)), clip.text, "ca"))
        np.testing.assert_allclose(make_row(clip)["input_features"], alone["input_features"], atol=1e-3)
    (joined,) = [clip for clip in join_clips(kept, labels=labels, max_seconds=30, seed=3) if "+" in clip.id][:1]
    assert len(read_audio(joined.audio, sampling_rate=RATE)) == pytest.approx(joined.seconds * RATE, abs=2)


def test_the_whole_file_is_the_file(tmp_path) -> None:
    """Prevents the test clip of one table from being trained on as the segment of another."""
    audio = str(recording(tmp_path / "long.wav"))
    assert audio_digest(AudioSegment(audio, 0.0)) == audio_digest(AudioSegment(audio, 0.0, 2.25)) == audio_digest(audio)
    assert audio_digest(AudioSegment(audio, 0.5)) == audio_digest(AudioSegment(audio, 0.5, 1.75)) != audio_digest(audio)
    # Tables round.
    assert audio_seconds(AudioSegment(audio, 1.25, 1.05)) == 1.0


def test_what_is_no_segment_of_its_file_is_left_out(tmp_path, tokenizer) -> None:
    """Prevents silence, or another sentence, under a text: each is one row that is listed with its numbers."""
    audio = recording(tmp_path / "long.wav").name
    write(tmp_path / "clip.wav", 0.5)
    rows = [
        {"offset": 100, "duration": 1},
        {"offset": 1.5, "duration": 1.5},
        {"offset": -1, "duration": 1},
        {"offset": math.nan, "duration": 1},
        {"offset": "1,5", "duration": 1},
        {"offset": "0:01.5"},
        {"offset": True},
        {"offset": 1, "duration": 0},
        {"offset": 1, "duration": -1},
        {"offset": 2, "end": 2},
        {"offset": 2, "end": 1},
        {"end": 1},
        {"offset": 1.25},
        {"offset": 1.25, "end": 1.75, "duration": 2.25},
        {"audio": "clip.wav", "duration": 99},
        {"audio": "clip.wav", "offset": "", "end": None, "duration": "?"},
    ]
    rejected: list[Rejection] = []
    path = manifest(tmp_path / "m.jsonl", [{"audio": audio, **row} for row in rows])
    clips = read_manifest(path, reject=rejected.append)
    kept, report = screen_clips(clips, Screen(LabelBuilder(tokenizer)))
    assert [(clip.row, clip.seconds) for clip in kept] == [(13, 1.0), (14, 0.5), (15, 0.5), (16, 0.5)]
    rejected = [*report.rejections, *rejected]
    assert [one.row for one in rejected] == list(range(1, 13))
    assert {one.reason for one in rejected} == {"bad_segment"}
    assert "lasts 2.25 s, got 100 to 101 s" in rejected[0].detail
    assert "'0:01.5', expected seconds" in rejected[5].detail
    assert rejected[10].detail == "the segment ends at 1 s, not after its start at 2 s"


def test_a_length_alone_is_no_segment() -> None:
    """Prevents clips cut by a column that only says how long they are."""
    assert segment(None, duration=1.33) is None
    assert segment("1.5", end="", duration=None) == (1.5, None)
    with pytest.raises(SegmentError, match=r"which lasts 0\.50 s, got 9 s and further"):
        audio_seconds(AudioSegment(encoded(tone(0.5)), 9.0))
