"""The data path over real speech: every row of every set, and how fast it is read.

Needs DISTIL_WHISPER_REAL_BASE (whisper-base) and DISTIL_WHISPER_REAL_SPEECH (audio folders with metadata.csv, columns
file_name, sentence, language, speaker, suspect). Run with `-s` to see the figures.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

from distil_whisper_hf.data.audio import read_audio
from distil_whisper_hf.data.labels import LabelBuilder
from distil_whisper_hf.data.manifests import read_folder
from distil_whisper_hf.data.screening import Screen, screen_clips
from distil_whisper_hf.data.splits import split_clips
from distil_whisper_hf.training.collator import SpeechCollator
from distil_whisper_hf.training.datasets import RowMaker, SpeechDataset
from distil_whisper_hf.training.losses import cross_entropy, distillation

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def labels(real_base: Path) -> LabelBuilder:
    return LabelBuilder(AutoTokenizer.from_pretrained(real_base))


def folders(real_speech: Path) -> list[Path]:
    found = sorted(path.parent for path in real_speech.glob("*/metadata.csv"))
    assert found
    return found


def test_every_row_of_every_set_loads(real_speech: Path, labels: LabelBuilder) -> None:
    """Prevents rows that vanish between the table and the batch: each is kept or has a reason."""
    for folder in folders(real_speech):
        clips = read_folder(folder, where={"suspect": "0"})
        start = time.perf_counter()
        kept, report = screen_clips(clips, Screen(labels))
        screened = time.perf_counter() - start
        assert len(clips) == report.kept + len(report.rejections)
        decoded, strict = screen_clips(clips, Screen(labels, decode=True))
        assert [clip.id for clip in decoded] == [clip.id for clip in kept]
        assert strict.seconds == pytest.approx(report.seconds, rel=1e-3)
        print(f"\n{folder.name}: {report.summary()}; {1000 * screened / len(clips):.2f} ms a clip")


def test_real_features_are_whispers(real_speech: Path, real_base: Path, labels: LabelBuilder) -> None:
    """Prevents the short cut over the silence from being right for tones only."""
    extractor = WhisperFeatureExtractor.from_pretrained(real_base)
    for folder in folders(real_speech):
        kept, _ = screen_clips(read_folder(folder)[:200], Screen(labels), limit=8)
        make_row = RowMaker(extractor)
        for clip in kept:
            samples = read_audio(clip.audio, sampling_rate=16000)
            expected = extractor(samples, sampling_rate=16000, return_tensors="np")["input_features"][0]
            np.testing.assert_allclose(make_row(clip)["input_features"], expected, rtol=0, atol=1e-6)


def test_splits_of_real_speech(real_speech: Path, labels: LabelBuilder) -> None:
    """Prevents repeated texts of one speaker from being in train and in test."""
    for name in ("artikulate-pl", "uk-spoken-digits"):
        kept, _ = screen_clips(read_folder(real_speech / name, where={"suspect": "0"}), Screen(labels))
        splits = split_clips(kept, by="text" if name.endswith("pl") else "speaker", dev=0.1, test=0.2)
        print(f"\n{name}\n{splits.report()}")
        if name.endswith("pl"):
            assert "the text of 0 of" in splits.report()
        else:
            assert "the speaker of 0 of" in splits.report()


def test_the_loss_of_a_real_batch_is_whispers(real_speech: Path, real_base: Path, labels: LabelBuilder) -> None:
    """Prevents labels shifted by one or a wrong prompt: real speech would then be as unlikely as noise."""
    extractor = WhisperFeatureExtractor.from_pretrained(real_base)
    kept, _ = screen_clips(
        read_folder(real_speech / "asterisk-en", where={"suspect": "0"})[40:], Screen(labels), limit=5
    )
    dataset = SpeechDataset(kept, RowMaker(extractor))
    batch = SpeechCollator(labels)([dataset[i] for i in range(5)])
    model = WhisperForConditionalGeneration.from_pretrained(real_base).eval()
    with torch.no_grad():
        output = model(input_features=batch["input_features"], labels=batch["labels"])
    loss = cross_entropy(output.logits, batch["labels"], label_smoothing=0.0)
    assert loss.item() == pytest.approx(output.loss.item(), rel=1e-5)
    assert loss.item() < 1.5
    js = distillation(output.logits, output.logits, batch["labels"], divergence="js", temperature=1.0)
    assert abs(js.item()) < 1e-5
    print(f"\ncross-entropy of five English prompts under whisper-base: {loss.item():.3f} nats")
