"""Speech without transcripts that holds an expert to Whisper."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
from programs import TINY
from safetensors.torch import load_file
from speech_files import write

from distil_whisper_hf.cli import main
from distil_whisper_hf.commands import anchors as program
from distil_whisper_hf.training.trainer import DistilWhisperTrainer

WORDS = ["train", "--distillation", "none", "--where", "suspect=0", "--test", "none", "--join_seconds", "2", *TINY]


@pytest.fixture
def said(monkeypatch):
    """What Whisper says on anchors, in order; the clips that it was asked are kept."""
    asked = []

    def transcribe(system, clips, settings, **options):
        assert system.model.expert_names == () and not system.model.training
        asked.extend(clips)
        texts = ["ho ho ho ho ho ho ho ho", "", *(f"words {number}" for number in range(len(clips)))]
        return [SimpleNamespace(text=text) for text, _ in zip(texts, clips, strict=False)]

    monkeypatch.setattr(program, "transcribe_clips", transcribe)
    return asked


@pytest.fixture
def others(tmp_path, catalan):
    """Speech of others; one of its files is in the training folder too."""
    folder = tmp_path / "others"
    for number in range(8):
        write(folder / f"{number}.wav", 0.8 + 0.1 * number, hertz=500.0 + 20 * number)
    shutil.copy(catalan / "clip5.wav", folder / "again.wav")
    return folder


def test_anchors_are_a_share_of_the_windows(base, catalan, others, said, tmp_path, monkeypatch, capsys):
    """Silent: anchors that are trained on as if what Whisper said were true, more or fewer than asked for, a test clip
    among them, loops among them, or an expert of another language's rows."""
    seen = []
    batch_of = DistilWhisperTrainer._batch

    def batch(self, inputs):
        made = batch_of(self, inputs)
        seen.append((made.anchors, made.expert_ids))
        return made

    monkeypatch.setattr(DistilWhisperTrainer, "_batch", batch)
    words = [*WORDS, "--model", str(base), "--data", str(catalan), "--language", "ca", "--anchor_data", str(others),
             "--anchor_share", "0.5", "--output_dir", str(tmp_path / "out")]  # fmt: skip
    assert main([*words, "--max_steps", "12"]) == 0
    printed = capsys.readouterr().out
    assert "8 stretches to hold on to Whisper" in printed and "1 are trained on or tested, 0 cannot be read" in printed
    assert "2 left out (1 that repeat themselves, 1 without words)" in printed
    assert all("again.wav" not in clip.id for clip in said)
    assert any(anchors is not None and anchors.any() for anchors, _ in seen)
    assert all(set(ids.tolist()) == {0} for _, ids in seen)
    entry = json.loads((tmp_path / "out" / "config.json").read_text())["language_experts"]["ca"]["training"]
    assert entry["anchor_windows"] == len(said) - 2
    log = json.loads((tmp_path / "out" / "training.json").read_text())
    assert log["steps"] == 12


@pytest.fixture
def last_words(capsys):
    """Runs a program that must refuse what it has read: the last line on stderr, behind progress."""

    def run(words):
        capsys.readouterr()
        assert main(words) == 2
        captured = capsys.readouterr().err
        assert "Traceback" not in captured
        return captured.strip().splitlines()[-1]

    return run


def test_all_of_a_test_set_is_kept_from_anchors(base, catalan, others, said, tmp_path, capsys):
    """Silent: speech that another limit would score, and that the expert was held to."""
    words = [*WORDS, "--model", str(base), "--data", str(catalan), "--language", "ca", "--test_data", str(others),
             "--test_language", "ca", "--test_limit", "1", "--anchor_data", str(others)]  # fmt: skip
    rows = ["file_name,text", *(f"{number}.wav,text {number}" for number in range(6))]
    (others / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    for number in range(8, 12):
        write(others / f"{number}.wav", 1.6, hertz=800.0 + 20 * number)
    assert main([*words, "--output_dir", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    # Six that no table names; six, and one of the training folder, that are tested or trained on.
    assert "6 stretches to hold on to Whisper" in printed and "7 are trained on or tested" in printed
    assert {name for clip in said for name in clip.id.split("+")} <= {f"{number}.wav" for number in range(6, 12)}


def test_a_run_with_anchors_is_another_run(base, catalan, others, said, tmp_path, last_words):
    """Silent: a run that goes on without its anchors, or with others."""
    words = [*WORDS, "--model", str(base), "--data", str(catalan), "--language", "ca", "--output_dir",
             str(tmp_path / "out")]  # fmt: skip
    anchored = [*words, "--anchor_data", str(others)]
    assert main(anchored) == 0
    for changed in (words, [*anchored, "--anchor_share", "0.4"]):
        assert "anchor" in last_words([*changed, "--resume"])
    assert main([*anchored, "--resume"]) == 0


def test_anchors_change_what_is_learnt(base, catalan, others, said, tmp_path):
    """Silent: anchors that are read and left out of the loss."""
    words = [*WORDS, "--model", str(base), "--data", str(catalan), "--language", "ca", "--learning_rate", "0.01",
             "--anchor_data", str(others), "--anchor_share", "0.5", "--max_steps", "6"]  # fmt: skip
    tensors = []
    for weight in ("0", "5"):
        folder = tmp_path / weight
        assert main([*words, "--anchor_weight", weight, "--output_dir", str(folder)]) == 0
        tensors.append(load_file(folder / "expert.ca.safetensors"))
    assert any(not one.equal(tensors[1][name]) for name, one in tensors[0].items())


def test_what_cannot_be_an_anchor_is_refused(base, catalan, tmp_path, refused, last_words, monkeypatch):
    """Silent: a typing error that trains without anchors."""
    words = [*WORDS, "--model", str(base), "--data", str(catalan), "--language", "ca", "--output_dir",
             str(tmp_path / "out")]  # fmt: skip
    assert "no such folder" in refused([*words, "--anchor_data", str(tmp_path / "nowhere")])
    write(tmp_path / "more" / "one.wav", 1.0, hertz=900.0)
    more = [*words, "--anchor_data", str(tmp_path / "more")]
    assert "a language that is trained (ca)" in last_words([*more, "--anchor_language", "gl"])
    assert "above 0 and below 1, got 1" in refused([*more, "--anchor_share", "1"])
    monkeypatch.setattr(program, "transcribe_clips", lambda *words, **options: [SimpleNamespace(text=None)])
    assert "Whisper has words for" in last_words(more)
