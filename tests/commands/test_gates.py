"""`distil-whisper gates`: where an expert's gates are open on a recording."""

import re

import numpy as np
import pytest
import soundfile
import torch
from models import randomize_expert
from speech_files import write
from transformers import AutoProcessor

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.cli import main
from distil_whisper_hf.evaluation.report import gate_maps
from distil_whisper_hf.evaluation.report.gate_maps import draw_gate_map


@pytest.fixture(scope="module")
def experts(base, tmp_path_factory):
    model = DistilWhisperForConditionalGeneration.from_pretrained(base)
    model.add_expert("ca")
    randomize_expert(model, "ca", 3)
    folder = tmp_path_factory.mktemp("experts")
    model.save_expert("ca", folder)
    return folder


def test_the_picture_shows_the_gates_of_the_recording(base, experts, tmp_path, capsys, monkeypatch):
    """Silent: gates of the silence behind a clip, of another stretch of it, of another layer, or of the shared path."""
    drawn = []
    monkeypatch.setattr(gate_maps, "draw_gate_map", lambda path, *maps, **words: drawn.append((path, maps, words)))
    clip = write(tmp_path / "clip.wav", 1.5, hertz=300.0)
    words = ["gates", str(clip), "--model", str(base), "--experts", str(experts), "--language", "ca", "--start", "0.5",
             "--output", str(tmp_path / "gates.png")]  # fmt: skip
    assert main(words) == 0
    ((path, (encoder, decoder), said),) = drawn
    model = DistilWhisperForConditionalGeneration.from_pretrained(base).eval()
    model.load_expert("ca", experts)
    extractor = AutoProcessor.from_pretrained(base).feature_extractor
    samples, _ = soundfile.read(clip, dtype="float32")
    heard = extractor(samples[8000:], sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        gates = model.model.encoder(heard, expert_ids=torch.tensor([0]), output_gate_values=True)["gate_values"]
    wanted = np.stack([gate[0].numpy() for gate in gates])[:, :50]
    assert np.array_equal(encoder, wanted)
    assert 0 < encoder.mean() < 1
    assert decoder.shape == (model.config.decoder_layers, len(said["tokens"]))
    assert said["tokens"][:3] == ["<|startoftranscript|>", "<|ca|>", "<|transcribe|>"]
    assert path == tmp_path / "gates.png"
    printed = capsys.readouterr().out
    (line,) = re.findall("encoder, open by layer: (.*)", printed)
    assert line == ", ".join(f"{share:.0%}" for share in encoder.mean(axis=1))


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_pictures_are_whole_and_the_same_each_time(tmp_path, suffix):
    """Silent: a picture that cannot be opened, or that changes with the day."""
    for name in ("one", "two"):
        draw_gate_map(
            tmp_path / f"{name}.{suffix}",
            np.random.default_rng(1).integers(0, 2, (4, 75)),
            np.zeros((0, 0)) if suffix == "svg" else np.ones((2, 5)),
            words=[(" bon", 0.1, 0.4), (" dia", 0.4, 1.2)],
            tokens=["<|ca|>", "bon", "dia", "·", "<|1.20|>"],
            title="clip, expert ca",
        )
    content = (tmp_path / f"one.{suffix}").read_bytes()
    assert content.startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix])
    assert suffix == "svg" or content == (tmp_path / f"two.{suffix}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"one.{suffix}", f"two.{suffix}"]


def test_what_has_no_gates_is_refused(base, experts, tmp_path, refused, capsys):
    """Silent: an empty picture, or one of an expert that the recording does not take."""
    clip = write(tmp_path / "clip.wav", 1.5)
    words = ["gates", str(clip), "--model", str(base), "--experts", str(experts)]
    assert "end in .png, .pdf, .svg, got 'gates.txt'" in refused([*words, "--output", str(tmp_path / "gates.txt")])
    picture = ["--output", str(tmp_path / "gates.png")]
    assert "inside the recording of 1.5 s, got 7 s" in refused([*words, *picture, "--start", "7"])
    assert "language of an expert (ca), got 'gl'" in refused([*words, *picture, "--language", "gl"])
    assert not (tmp_path / "gates.png").exists()
