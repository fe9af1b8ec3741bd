"""Real whisper-base with a real expert, opened by the programs that exports are for: the same transcripts of speech."""

import csv
import os
import runpy
from pathlib import Path

import pytest
import torch

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.cli import main
from distil_whisper_hf.data.audio import read_audio
from distil_whisper_hf.export.targets import TARGETS

BASE, SPEECH = (os.environ.get(f"DISTIL_WHISPER_REAL_{name}", "") for name in ("BASE", "SPEECH"))
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not BASE or not SPEECH, reason="DISTIL_WHISPER_REAL_BASE or _SPEECH is not set"),
]
ROOT = Path(__file__).parents[2]
READERS = runpy.run_path(str(ROOT / "benchmarks" / "exports.py"))
LIBRARIES = {"peft": "peft", "ctranslate2": "faster_whisper", "ggml": "pywhispercpp", "onnx": "onnxruntime"}
CLIPS = 6


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """The released Polish expert, with all of its gates open."""
    model = DistilWhisperForConditionalGeneration.from_pretrained(BASE, experts=[], dtype="float32")
    model.load_expert("pl", ROOT / "model_cards" / "whisper-base-el-pl-ru")
    with torch.no_grad():
        for _, layer in model.expert_layers("pl"):
            layer.language_experts["pl"].gate_out.weight.zero_()
    folder = tmp_path_factory.mktemp("experts")
    model.save_expert("pl", folder)
    return folder


@pytest.fixture(scope="module")
def audio():
    folder = Path(SPEECH) / "artikulate-pl"
    with open(folder / "metadata.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["suspect"] == "0" and 2.5 < float(row["duration"]) < 8]
    step = len(rows) // CLIPS
    return [read_audio(str(folder / row["file_name"]), sampling_rate=16_000) for row in rows[::step][:CLIPS]]


@pytest.fixture(scope="module")
def expected(experts, audio):
    from transformers import AutoProcessor

    model = DistilWhisperForConditionalGeneration.from_pretrained(BASE, experts=[], dtype="float32").eval()
    processor = AutoProcessor.from_pretrained(BASE)
    plain = READERS["by_transformers"](model, processor, "pl", 60)
    before = [plain(samples) for samples in audio]
    model.load_expert("pl", experts)
    own = READERS["by_transformers"](model, processor, "pl", 60)
    texts = [own(samples) for samples in audio]
    assert sum(one != other for one, other in zip(before, texts, strict=True)) >= CLIPS // 2
    return texts


@pytest.mark.parametrize("to", TARGETS)
def test_transcripts_are_the_expert_s(experts, audio, expected, tmp_path, to):
    """Silent: an export that opens, and hears the base, or another language."""
    for library in (*TARGETS[to].libraries, *([LIBRARIES[to]] if to in LIBRARIES else [])):
        pytest.importorskip(library)
    words = ["--model", BASE, "--experts", str(experts), "--expert", "pl", "--to", to]
    assert main(["export", *words, "--output_dir", str(tmp_path / "out")]) == 0
    opened = READERS["transcribers"](tmp_path / "out", BASE, "pl", 60)
    # faster-whisper pads spectrograms with zeros where Whisper hears silence: the last is given whole windows.
    transcribe = list(opened.values())[-1]
    found = [transcribe(samples) for samples in audio]
    differing = [(mine, text) for mine, text in zip(expected, found, strict=True) if mine != text]
    # In float16 whisper.cpp may take another of two words that are as likely.
    assert len(differing) <= (1 if to == "ggml" else 0), differing


def test_older_files_are_as_openai_released_them(experts, tmp_path):
    """Silent: a vocabulary or merges that only whoever reads them would notice."""
    import json

    words = ["--model", BASE, "--experts", str(experts), "--expert", "pl", "--to", "whisper"]
    assert main(["export", *words, "--output_dir", str(tmp_path / "out")]) == 0
    here, there = tmp_path / "out", Path(BASE)
    if not (there / "vocab.json").exists():
        pytest.skip("the base has no vocab.json")
    assert json.loads((here / "vocab.json").read_text()) == json.loads((there / "vocab.json").read_text())
    assert (here / "merges.txt").read_text() == (there / "merges.txt").read_text()
