"""`distil-whisper export`: what becomes of gates, what is refused, and that nothing half-written stays."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from models import features, prompts, save_whisper
from transformers import WhisperForConditionalGeneration

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.cli import main
from distil_whisper_hf.commands import export
from distil_whisper_hf.commands.export_check import Checked, measure_gates, read_check
from distil_whisper_hf.commands.final_scores import ScoreRow
from distil_whisper_hf.export.targets import TARGETS


@pytest.fixture(scope="module")
def experts(base, tmp_path_factory) -> Path:
    """Of Catalan: "ca" with open gates, "gated", and a full one; of Italian: "sc"."""
    model = DistilWhisperForConditionalGeneration.from_pretrained(base)
    generator = torch.Generator().manual_seed(0)
    for name, language, rank in (("ca", None, 4), ("gated", "ca", 4), ("full", "ca", None), ("sc", "it", 4)):
        model.add_expert(name, language=language, rank=rank)
        with torch.no_grad():
            for _, layer in model.expert_layers(name):
                expert = layer.language_experts[name]
                for parameter in expert.parameters():
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
                if name != "gated":
                    expert.gate_out.weight.zero_()
    folder = tmp_path_factory.mktemp("experts")
    for name in model.expert_names:
        model.save_expert(name, folder)
    return folder


@pytest.fixture
def words(base, experts, tmp_path):
    """A command line for an expert, its last words replaced or added."""

    def make(expert: str, *more: str, to: str = "whisper", output: str = "out") -> list[str]:
        flags = ["--model", str(base), "--experts", str(experts), "--expert", expert, "--to", to]
        return ["export", *flags, "--output_dir", str(tmp_path / output), *more]

    return make


def logits(model, language="ca"):
    with torch.no_grad():
        return model(features(1, frames=200), decoder_input_ids=prompts(language)).logits


def test_open_gates_are_exact(words, base, experts, tmp_path, capsys):
    """Silent: an expert that is exported as something else, under a card that calls it exact."""
    assert main(words("ca")) == 0
    printed = capsys.readouterr().out
    assert "always open" in printed and "exact" in printed and "model.safetensors" in printed
    model = DistilWhisperForConditionalGeneration.from_pretrained(base).eval()
    model.load_expert("ca", experts)
    stock = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(logits(stock), logits(model), atol=1e-4, rtol=1e-4)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\n") and "language: ca" in card and "which is exact" in card
    assert f"base_model: {base}" not in card and 'model="out"' in card and '"language": "ca"' in card
    assert "distil-whisper export --model" in card and "transformers 5" in card
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {oct(path.stat().st_mode & 0o444) for path in (tmp_path / "out").iterdir()} == {"0o444"}


def test_gates_that_close_are_measured(words, catalan, tmp_path, capsys):
    """Silent: another model than the expert, handed out as the expert."""
    assert main(words("gated")) == 2
    assert "--check_data" in capsys.readouterr().err
    check = ["--check_data", str(catalan), "--check_limit", "3", "--max_new_tokens", "6"]
    assert main(words("gated", *check, "--max_loss", "1000")) == 0
    printed = capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    for text in (printed, card):
        assert "| encoder.layers.1 |" in text and "| decoder.layers.2 |" in text
        assert all(f"| {system} |" in text for system in ("base", "expert", "exported"))
        assert "of 3 transcripts differ from the expert's" in text and "WER %" in text
    assert "another model" in card


def test_too_great_a_loss_is_refused(words, catalan, tmp_path, capsys, monkeypatch):
    """Silent: a limit that compares with the base, or a folder that is left after a refusal."""
    rates = {"base": 90.0, "expert": 20.0, "exported": 22.5}
    rows = [
        ScoreRow(system, "set", "", "ca", rate, rate, rate, 0, 0, 0, 0, 3, "unicode") for system, rate in rates.items()
    ]
    monkeypatch.setattr("distil_whisper_hf.commands.export_check.measure_rates", lambda *_, **__: Checked(rows, 2))
    check = ["--check_data", str(catalan), "--check_limit", "2"]
    assert main(words("gated", *check)) == 1
    said = capsys.readouterr().err
    assert "2.5 points more errors" in said and "--max_loss 1" in said and not list(tmp_path.iterdir())
    assert main(words("gated", *check, "--max_loss", "2.4")) == 1
    assert main(words("gated", *check, "--max_loss", "2.5")) == 0


def test_the_loss_is_the_mean_over_sets():
    def row(dataset, system, rate):
        return ScoreRow(system, dataset, "", "ca", rate, rate, rate, 0, 0, 0, 0, 3, "unicode")

    both = [row("a", "expert", 10.0), row("a", "exported", 14.0), row("b", "expert", 30.0), row("b", "exported", 31.0)]
    assert Checked(both, 0).loss == 2.5
    assert Checked([row("a", "base", 50.0), row("a", "expert", 10.0)], None).loss == 0.0


def test_an_open_expert_can_be_checked(words, catalan, tmp_path, capsys):
    """Silent: an exact export whose transcripts differ all the same."""
    assert main(words("ca", "--check_data", str(catalan), "--check_limit", "2", "--max_new_tokens", "5")) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "0 of 2 transcripts differ" in card and "open gates, %" not in card


def test_clips_of_another_language_are_left_out(base, catalan, tmp_path):
    """Silent: gates measured on speech that never meets the expert, or a name that no model prompts with."""
    path = str(catalan)
    clips = read_check([path], language=None, expert="gated", expert_language="ca", limit=2)
    assert [(clip.language, clip.expert) for clip in clips] == [("ca", "gated")] * 2
    with pytest.raises(ValueError, match=r"clips in it .* got clips in ca: see --check_language"):
        read_check([path], language=None, expert="sc", expert_language="it", limit=2)
    (clip,) = read_check([path], language="it", expert="sc", expert_language="it", limit=1)
    assert clip.language == "it"
    (clip,) = read_check([path], language=None, expert="calls", expert_language=None, limit=1)
    assert clip.language == "ca"


def test_the_share_of_open_gates_by_layer(base, catalan):
    """Silent: sides or layers that are mixed up, or closed gates that count as open."""
    from transformers import AutoProcessor

    model = DistilWhisperForConditionalGeneration.from_pretrained(base).eval()
    model.add_expert("mine", language="ca", rank=2)
    with torch.no_grad():
        expert = model.model.decoder.layers[1].language_experts["mine"]
        expert.gate_in.bias.fill_(10.0)
        expert.gate_out.weight.fill_(-1.0)
    clips = read_check([str(catalan)], language="ca", expert="mine", expert_language="ca", limit=2)
    shares = measure_gates(model, "mine", AutoProcessor.from_pretrained(base), clips)
    layers = [f"encoder.layers.{n}" for n in range(2)] + [f"decoder.layers.{n}" for n in range(3)]
    assert shares == {key: float(key != "decoder.layers.1") for key in layers}


@pytest.mark.parametrize(
    ("expert", "more", "to", "said"),
    [
        ("ca", [], "onyx", "choose from"),
        ("el", [], "whisper", "expert 'el' (--expert)"),
        ("full", [], "peft", "compress"),
        ("ca", ["--dtype", "int8"], "whisper", "float32 or float16 or bfloat16 for whisper"),
        ("ca", ["--model", "nowhere/at/all"], "whisper", "does not exist"),
        ("ca", ["--check_data", "nowhere"], "whisper", "nowhere"),
        ("ca", ["--check_limit", "0"], "whisper", "--check_limit"),
    ],
)
def test_one_sentence_and_nothing_written(words, refused, tmp_path, expert, more, to, said):
    assert said in refused(words(expert, *more, to=to))
    assert not list(tmp_path.iterdir())


def test_which_expert_must_be_said(base, experts, refused, tmp_path):
    flags = ["--model", str(base), "--experts", str(experts), "--to", "whisper", "--output_dir", str(tmp_path / "out")]
    assert "ca, full, gated, sc" in refused(["export", *flags])


def test_an_expert_of_another_base_is_refused(words, refused, tmp_path_factory, tmp_path):
    other = save_whisper(tmp_path_factory.mktemp("other"), seed=7, max_source_positions=100)
    said = refused([*words("ca")[:1], *words("ca", "--model", str(other))[3:]])
    assert "other weights" in said and not list(tmp_path.iterdir())


def test_an_output_folder_that_is_there_is_left_alone(words, refused, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert "is there already" in refused(words("ca"))
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_a_missing_library_is_named_with_its_command(words, refused, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "distil_whisper_hf.commands.starting.find_spec", lambda name: None if name == "ctranslate2" else find(name)
    )
    said = refused(words("ca", to="ctranslate2"))
    assert "pip install" in said and "export]" in said and not list(tmp_path.iterdir())


def test_a_fault_while_writing_leaves_nothing(words, tmp_path, monkeypatch, capsys):
    """Silent: half a folder under the name that was asked for."""

    def write(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_finish", write)
    assert main(words("ca")) == 2
    assert "No space left" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_checkpoint_with_its_expert_needs_no_other(base, experts, tmp_path, capsys):
    """Silent: an expert inside a checkpoint that is passed over."""
    model = DistilWhisperForConditionalGeneration.from_pretrained(base)
    model.load_expert("ca", experts)
    model.save_pretrained(tmp_path / "only", experts_only=True)
    flags = ["--to", "whisper", "--dtype", "float16", "--output_dir", str(tmp_path / "out")]
    assert main(["export", "--model", str(tmp_path / "only"), *flags]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float16"


@pytest.mark.parametrize("to", [name for name in TARGETS if name not in ("whisper", "onnx")])
def test_every_target_is_written(words, tmp_path, to, base, capsys):
    """Silent: a target whose writer is never reached from the command line."""
    for library in TARGETS[to].libraries:
        pytest.importorskip(library)
    if to == "ggml":
        assert main(words("ca", to=to)) == 2
        assert "four times" in capsys.readouterr().err
        return
    assert main(words("ca", to=to)) == 0
    printed = capsys.readouterr().out
    assert TARGETS[to].opened_by in printed
    assert all(path.name in printed for path in (tmp_path / "out").iterdir())
    assert len(list((tmp_path / "out").iterdir())) >= 3
