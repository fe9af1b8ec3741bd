"""From clips to batches, in one process and in workers."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from speech_files import encoded, tone, write
from tiny import SPECIAL_IDS, tiny_feature_extractor
from torch.utils.data import DataLoader, get_worker_info

from distil_whisper_hf.data.audio import AudioError, read_audio
from distil_whisper_hf.data.clips import Clip
from distil_whisper_hf.data.joining import join_clips
from distil_whisper_hf.data.labels import LabelBuilder
from distil_whisper_hf.data.screening import Screen, screen_clips
from distil_whisper_hf.training.collator import SpeechCollator
from distil_whisper_hf.training.datasets import RowMaker, SpeechDataset, StreamingSpeechDataset
from distil_whisper_hf.training.features import FeatureCache


@pytest.fixture(scope="module")
def labels(tokenizer) -> LabelBuilder:
    return LabelBuilder(tokenizer)


@pytest.fixture
def clips(tmp_path, labels) -> list[Clip]:
    """Five clips of different lengths, formats and languages, one of them with an expert."""
    kinds = [("wav", "ca"), ("flac", "pl"), ("ogg", "uk"), ("mp3", "el"), ("wav", "it")]
    raw = [
        Clip(
            f"clip{i}",
            str(write(tmp_path / f"clip{i}.{extension}", 0.5 * (i + 1), rate=8000 * (i + 1))),
            "x" * (i + 1),
            language,
            expert="sc" if language == "it" else None,
        )
        for i, (extension, language) in enumerate(kinds)
    ]
    kept, report = screen_clips(raw, Screen(labels))
    assert not report.rejections
    return kept


def broken(clip: Clip, folder: Path) -> Clip:
    """A clip whose header is whole and whose content is not."""
    flac = encoded(tone(2.0), extension="flac")
    path = folder / "broken.flac"
    path.write_bytes(flac[: len(flac) // 2])
    return replace(clip, id="broken", audio=str(path), digest="broken")


def test_a_row_is_what_whisper_hears_and_what_was_said(clips) -> None:
    """Prevents features of one clip with the text of another, and frames counted at the source's rate."""
    extractor = tiny_feature_extractor()
    rows = [SpeechDataset(clips, RowMaker(extractor))[i] for i in range(5)]
    for clip, row in zip(clips, rows, strict=True):
        samples = read_audio(clip.audio, sampling_rate=16000)
        expected = extractor(samples, sampling_rate=16000, return_tensors="np")["input_features"][0]
        np.testing.assert_allclose(row["input_features"], expected, rtol=0, atol=1e-6)
        assert (row["labels"], row["expert"]) == (clip.labels, clip.expert)
        assert row["num_frames"] == pytest.approx(50 * clip.seconds, abs=1)
        assert set(row) == {"input_features", "num_frames", "labels", "expert", "window"}
        assert row["window"] == clip.digest
    unscreened = RowMaker(extractor)(replace(clips[0], labels=None))
    assert (unscreened["text"], unscreened["language"]) == (clips[0].text, clips[0].language)


def test_rows_end_where_clips_end(clips) -> None:
    """Prevents a loop over the rows that never ends, and the last row under every index beyond it."""
    dataset = SpeechDataset(clips, RowMaker(tiny_feature_extractor()))
    assert [row["labels"] for row in dataset] == [clip.labels for clip in clips]
    assert dataset[-1]["labels"] == clips[-1].labels and dataset[-5]["labels"] == clips[0].labels
    for index in (5, 99, -6):
        with pytest.raises(IndexError):
            dataset[index]
    with pytest.raises(IndexError):
        SpeechDataset([], dataset.make_row)[0]


def test_lengths_are_those_of_texts_and_open_no_file(clips, labels, tmp_path) -> None:
    """Prevents an hour of decoding before the first step, for lengths that are all the window's."""
    gone = [replace(clip, audio=str(tmp_path / "gone.wav")) for clip in clips]
    joined = join_clips(clips, labels=labels, max_seconds=30)
    for rows in (gone, joined):
        lengths = SpeechDataset(rows, RowMaker(tiny_feature_extractor())).lengths()
        assert [len(row["input_features"]) for row in lengths] == [len(clip.labels) for clip in rows]
    unscreened = SpeechDataset([replace(clip, labels=None) for clip in clips], RowMaker(tiny_feature_extractor()))
    assert [len(row["input_features"]) for row in unscreened.lengths()] == [1, 2, 3, 4, 5]


def test_a_batch_is_complete(clips, labels) -> None:
    """Prevents labels of another row, padding that is trained on, and a start token that Whisper adds again."""
    dataset = SpeechDataset(clips, RowMaker(tiny_feature_extractor()))
    batch = SpeechCollator(labels)([dataset[i] for i in range(5)])
    assert set(batch) == {"input_features", "labels", "num_frames", "expert", "windows"}
    assert batch["windows"] == [clip.digest for clip in clips]
    assert batch["input_features"].shape == (5, 80, 3000)
    assert batch["input_features"].dtype == torch.float32
    assert batch["labels"].dtype == batch["num_frames"].dtype == torch.int64
    # Prompt (3), space and five letters, end.
    assert batch["labels"].shape == (5, 10)
    assert batch["num_frames"].tolist() == [pytest.approx(25 * (i + 1), abs=3) for i in range(5)]
    for row, clip in zip(batch["labels"].tolist(), clips, strict=True):
        ids = labels(clip.text, language=clip.language)
        assert row == ids + [-100] * (10 - len(ids))
        assert row[0] == SPECIAL_IDS[f"<|{clip.language}|>"]
        assert SPECIAL_IDS["<|startoftranscript|>"] not in row
    assert batch["expert"] == [None, None, None, None, "sc"]
    assert "expert" not in SpeechCollator(labels)([dataset[i] for i in range(4)])


def test_a_teacher_gets_its_own_features_only_if_they_differ(clips, labels) -> None:
    """Prevents large-v3 from hearing the student's 80 bins, and a second copy of the same features in every batch."""
    student = tiny_feature_extractor()
    own = RowMaker(student, teacher_extractor=tiny_feature_extractor(128))
    batch = SpeechCollator(labels)([SpeechDataset(clips, own)[i] for i in (1, 3)])
    assert batch["teacher_input_features"].shape == (2, 128, 3000)
    samples = read_audio(clips[3].audio, sampling_rate=16000)
    expected = tiny_feature_extractor(128)(samples, sampling_rate=16000, return_tensors="pt")["input_features"][0]
    torch.testing.assert_close(batch["teacher_input_features"][1], expected, rtol=0, atol=1e-6)
    same = RowMaker(student, teacher_extractor=tiny_feature_extractor())
    assert "teacher_input_features" not in same(clips[0])


def test_a_cached_row_is_the_same_row(clips, tmp_path) -> None:
    """Prevents a cache that changes values, frames or kinds of features, or that is written and never read."""
    extractors = {"extractor": tiny_feature_extractor(), "teacher_extractor": tiny_feature_extractor(128)}
    plain, cached = RowMaker(**extractors), RowMaker(**extractors, cache=FeatureCache(tmp_path / "cache"))
    for clip in clips:
        expected = plain(clip)
        first, second = cached(clip), cached(replace(clip, audio="/no/longer/there.wav"))
        for row in (first, second):
            assert set(row) == set(expected)
            assert np.array_equal(row["input_features"], expected["input_features"])
            assert np.array_equal(row["teacher_input_features"], expected["teacher_input_features"])
            assert row["num_frames"] == expected["num_frames"]


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_clips_do_not_stop_training(clips, labels, tmp_path, caplog, workers: int) -> None:
    """Prevents one broken file from ending a run of a night, and from being left out without a word."""
    with_trouble = [clips[0], broken(clips[1], tmp_path), clips[2]]
    dataset = SpeechDataset(with_trouble, RowMaker(tiny_feature_extractor()))
    loader = DataLoader(dataset, batch_size=1, num_workers=workers, collate_fn=SpeechCollator(labels))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            first = [int(batch["labels"][0, 0]) for batch in loader]
            assert first == [SPECIAL_IDS["<|ca|>"], SPECIAL_IDS["<|uk|>"], SPECIAL_IDS["<|uk|>"]]
    assert [clip.id for clip in dataset.failures()] == ["broken"]
    if workers == 0:
        assert [record.getMessage()[:22] for record in caplog.records] == ["Left out clip broken: "]


def test_unreadable_clips_stop_an_evaluation(clips, tmp_path) -> None:
    """Prevents a score in which one clip stands for another."""
    dataset = SpeechDataset(
        [broken(clips[1], tmp_path), clips[2]], RowMaker(tiny_feature_extractor()), on_unreadable="raise"
    )
    with pytest.raises(AudioError, match=r"broken\.flac"):
        dataset[0]
    with pytest.raises(AudioError, match="None of 1 clips can be read"):
        SpeechDataset([broken(clips[1], tmp_path)], RowMaker(tiny_feature_extractor()))[0]
    with pytest.raises(ValueError, match="next, raise, got 'skip'"):
        SpeechDataset(clips, RowMaker(tiny_feature_extractor()), on_unreadable="skip")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_give_the_batches_of_one_process(clips, labels, method: str) -> None:
    """Prevents workers (on every platform's way of starting them) from changing values, order or labels."""
    dataset = SpeechDataset(clips, RowMaker(tiny_feature_extractor(), teacher_extractor=tiny_feature_extractor(128)))
    options = {"batch_size": 2, "collate_fn": SpeechCollator(labels)}
    expected = list(DataLoader(dataset, **options))
    context = multiprocessing.get_context(method)
    found = list(DataLoader(dataset, num_workers=2, multiprocessing_context=context, **options))
    assert [batch.get("expert") for batch in found] == [None, None, ["sc"]]
    for one, other in zip(expected, found, strict=True):
        assert set(one) == set(other) and one["windows"] == other["windows"]
        assert all(torch.equal(one[name], other[name]) for name in one if name not in ("expert", "windows"))


class Stream:
    """Clips one after the other; each worker takes its part."""

    def __init__(self, clips: list[Clip]) -> None:
        self.clips, self.epoch = clips, 0

    def __iter__(self) -> Iterator[Clip]:
        info = get_worker_info()
        return iter(self.clips if info is None else self.clips[info.id :: info.num_workers])

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_is_screened_on_the_way(clips, labels, tmp_path, workers: int) -> None:
    """Prevents streamed clips from escaping the rules for clips on disk, and their losses from staying in a worker."""
    trouble = [
        broken(clips[0], tmp_path),
        replace(clips[0], id="empty", text="…"),
        Clip("no audio", b"", "text", "ca"),
        Clip("long", encoded(tone(31.0)), "text", "ca"),
    ]
    stream = Stream([clips[0], *trouble[:2], replace(clips[1], text='"x  y"'), *trouble[2:], clips[2]])
    path = tmp_path / "left_out.jsonl"
    dataset = StreamingSpeechDataset(stream, Screen(labels), RowMaker(tiny_feature_extractor()), rejections_file=path)
    rows = list(DataLoader(dataset, batch_size=None, num_workers=workers))
    expected = [labels(text, language=clip.language) for text, clip in zip(("x", "x y", "xxx"), clips, strict=False)]
    assert sorted(list(row["labels"]) for row in rows) == sorted(expected)
    assert all(row["input_features"].shape == (80, 3000) for row in rows)
    assert dataset.counts() == {"empty_text": 1, "unreadable": 2, "too_long": 1}
    assert {json.loads(line)["id"]: json.loads(line)["reason"] for line in path.read_text().splitlines()} == {
        "broken": "unreadable",
        "empty": "empty_text",
        "no audio": "unreadable",
        "long": "too_long",
    }
    dataset.set_epoch(3)
    assert stream.epoch == 3
