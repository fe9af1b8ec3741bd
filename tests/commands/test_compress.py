"""Experts cut to a low rank, by the program, at the end of a run, and trained on from there."""

import json
import re

import pytest
import torch
from models import features, prompts, with_experts
from programs import TINY
from safetensors.torch import load_file

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.cli import main

open_model = DistilWhisperForConditionalGeneration.from_pretrained


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """A folder with a Catalan expert whose difference to the base has every rank."""
    folder = tmp_path_factory.mktemp("trained")
    model = with_experts(base, "ca")
    model.save_expert("ca", folder)
    return folder


def test_a_folder_of_experts_is_compressed(base, trained, tmp_path, capsys):
    words = ["compress", str(trained), "--model", str(base), "--rank", "3", "--output_dir", str(tmp_path / "out")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert (
        re.search(r"decoder.layers.2 +fc1 +\d+\.\d %  fc2 +\d+\.\d %", printed) and "expert.ca.safetensors" in printed
    )
    expected = with_experts(base, "ca")
    expected.compress_expert("ca", rank=3)
    model = open_model(tmp_path / "out").eval()
    assert model.config.expert_form("ca").rank == 3
    inputs, tokens = features(2, frames=200), prompts("ca", "en")
    with torch.no_grad():
        found = model(inputs, decoder_input_ids=tokens).logits
        torch.testing.assert_close(
            found, expected.eval()(inputs, decoder_input_ids=tokens).logits, atol=1e-4, rtol=1e-4
        )
    assert main(words) == 2 and "out" in capsys.readouterr().err


def test_what_was_cut_is_stored_in_half_and_scored(base, trained, catalan, tmp_path, capsys):
    """Silent: figures of another expert than the file that is passed on."""
    words = ["compress", str(trained), "--model", str(base), "--rank", "3", "--output_dir"]
    assert main([*words, str(tmp_path / "whole")]) == 0
    assert main([*words, str(tmp_path / "half"), "--dtype", "float16"]) == 0
    whole, half = (load_file(tmp_path / name / "expert.ca.safetensors") for name in ("whole", "half"))
    assert all(torch.equal(half[key], tensor.half()) for key, tensor in whole.items()) and half.keys() == whole.keys()
    stored = (tmp_path / "half/expert.ca.safetensors").read_bytes()
    test = ["train", "--model", str(base), "--data", str(catalan), "--language", "ca", "--where", "suspect=0",
            "--distillation", "none", "--test_only", "--output_dir", str(tmp_path / "half"), *TINY]  # fmt: skip
    assert main(test) == 0
    scores = json.loads((tmp_path / "half/scores.json").read_text())
    assert {row["system"] for row in scores["rows"]} == {"whisper", "experts-clsr"} and "steps" not in scores
    assert (tmp_path / "half/expert.ca.safetensors").read_bytes() == stored
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "half"), "--output_dir", str(tmp_path / "compared")]) == 0
    printed = capsys.readouterr().out
    assert "| half " in printed and "trained parameters" not in printed


def test_what_was_cut_trains_on(base, trained, catalan, tmp_path):
    words = ["compress", str(trained), "--model", str(base), "--rank", "3", "--output_dir", str(tmp_path / "out"),
             "--refine", "2", "--data", str(catalan), "--language", "ca", "--where", "suspect=0", "--distillation",
             "none", "--test", "none", "--learning_rate", "1e-2", *TINY[2:]]  # fmt: skip
    assert main(words) == 0
    before = with_experts(base, "ca")
    before.compress_expert("ca", rank=3)
    start = before.expert_file("ca").tensors
    tensors = load_file(tmp_path / "out" / "expert.ca.safetensors")
    assert tensors.keys() == start.keys()
    assert any(not torch.equal(tensors[key], start[key]) for key in start)
    model = open_model(base)
    model.load_expert("ca", tmp_path / "out")
    training = model.config.language_experts["ca"]["training"]
    assert training["steps"] == 2 and training["before"]["compressed"] == 3


@pytest.mark.parametrize(
    ("flags", "rank"), [(["--compress_to", "2"], 2), (["--expert_rank", "3", "--expert_targets", "all"], 3)]
)
def test_a_run_ends_with_a_compact_expert(base, catalan, tmp_path, flags, rank):
    words = ["train", "--model", str(base), "--data", str(catalan), "--language", "ca", "--where", "suspect=0",
             "--distillation", "none", "--output_dir", str(tmp_path / "out"), *flags, *TINY]  # fmt: skip
    assert main(words) == 0
    model = open_model(tmp_path / "out")
    assert model.config.expert_form("ca").rank == rank
    assert ("q_proj" in model.config.expert_form("ca").parts) == (rank == 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rank", "0"], "at least 1"),
        (["--rank", "65"], "from 1 to 64"),
        ([], "either a rank or an energy"),
        (["--rank", "4", "--language", "gl"], "expert files (gl)"),
        (["--rank", "4", "--refine", "0"], "at least 1 step"),
        (["--rank", "4", "--dtype", "float16", "--refine", "3"], "without --refine"),
    ],
)
def test_compression_says_what_is_wrong(base, trained, tmp_path, refused, words, said):
    output = tmp_path / "out"
    assert said in refused(["compress", str(trained), "--model", str(base), "--output_dir", str(output), *words])
    assert not output.exists()


def test_an_expert_of_another_base_is_not_compressed(trained, whisper_folder, tmp_path, capsys):
    flags = ["--model", str(whisper_folder), "--rank", "4", "--output_dir", str(tmp_path / "out")]
    assert main(["compress", str(trained), *flags]) == 2
    assert "to be made for this base" in capsys.readouterr().err and not (tmp_path / "out").exists()
