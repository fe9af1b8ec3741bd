"""The share of an expert that is kept, chosen on dev clips of its own and another domain."""

import json

import pytest
import torch
from programs import TINY, speech_folder
from safetensors.torch import load_file

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.cli import main
from distil_whisper_hf.commands import choosing
from distil_whisper_hf.data.clips import Clip
from distil_whisper_hf.evaluation.systems.hypotheses import GenerationSettings


class Row:
    def __init__(self, dataset: str, wer_capped: float) -> None:
        self.dataset, self.wer_capped = dataset, wer_capped


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({"1": (10, 90), "0.85": (20, 60), "0.7": (30, 40), "0.5": (50, 30), "0.3": (70, 20)}, 0.7),
        ({"1": (10, 20), "0.85": (10, 20), "0.7": (30, 40), "0.5": (50, 30), "0.3": (70, 20)}, 1.0),
        ({"1": (99, 99), "0.85": (99, 99), "0.7": (99, 99), "0.5": (99, 99), "0.3": (70, 20)}, 0.3),
    ],
)
def test_both_domains_count_alike(base, monkeypatch, rates, chosen):
    """Silent: a domain of many clips that decides alone; of two shares that are as good the smaller one."""
    model = DistilWhisperForConditionalGeneration.from_pretrained(base)
    model.add_expert("ca", rank=2)
    seen = []

    def score(system, sets, settings):
        seen.append({domain: len(clips) for domain, clips in sets.items()})
        return [Row(*pair) for pair in zip(("in", "out"), rates[system.name.split()[1]], strict=True)], {}

    monkeypatch.setattr(choosing, "score_system", score)
    clips = [Clip(str(n), "a", "ca", "x.wav", domain="out" if n < 90 else "") for n in range(100)]
    how = {"device": "cpu", "dtype": torch.float32, "settings": GenerationSettings()}
    weight, found = choosing.choose_interpolation(model, "ca", str(base), clips, None, **how)
    assert weight == chosen and found == {
        share: dict(zip(("in", "out"), pair, strict=True)) for share, pair in rates.items()
    }
    assert seen == [{"in": 10, "out": 64}] * 5
    with pytest.raises(ValueError, match="--dev_data of another speaker"):
        choosing.choose_interpolation(model, "ca", str(base), [], None, **how)


def test_a_run_chooses_on_dev_clips_alone(base, catalan, tmp_path, capsys, monkeypatch):
    """Silent: a share that is chosen on test clips, or dev clips of another domain that are trained on."""
    other = speech_folder(tmp_path / "other", "ca", 6)
    words = ["train", "--model", str(base), "--data", str(catalan), "--language", "ca", "--where", "suspect=0",
             "--distillation", "none", "--expert_rank", "2", "--learning_rate", "1e-2", *TINY]  # fmt: skip
    more = ["--dev_data", str(other), "--expert_interpolation"]
    heard = []
    stock = choosing.score_system

    def score(system, sets, settings):
        heard.append({clip.id for clips in sets.values() for clip in clips})
        return stock(system, sets, settings)

    monkeypatch.setattr(choosing, "score_system", score)
    assert main([*words, "--output_dir", str(tmp_path / "auto"), *more, "auto"]) == 0
    printed = capsys.readouterr().out
    splits = json.loads((tmp_path / "auto/splits.json").read_text())
    assert heard and all(clips == set(splits["dev"]) for clips in heard)
    assert len([clip for clip in splits["dev"]]) >= 6 and not set(splits["dev"]) & set(splits["train"])
    training = json.loads((tmp_path / "auto/config.json").read_text())["language_experts"]["ca"]["training"]
    assert set(training["interpolation_by_dev"]) == {"1", "0.85", "0.7", "0.5", "0.3"}
    weight = training["interpolation"]
    assert f"expert ca: {weight:g} of it" in printed and "% out domain" in printed
    assert main([*words, "--output_dir", str(tmp_path / "fixed"), *more, str(weight)]) == 0
    auto, fixed = (load_file(tmp_path / name / "expert.ca.safetensors") for name in ("auto", "fixed"))
    assert all(torch.equal(auto[key], fixed[key]) for key in fixed)


def test_another_word_for_the_share_is_refused(base, catalan, tmp_path, refused):
    words = ["train", "--model", str(base), "--data", str(catalan), "--language", "ca", "--distillation", "none",
             "--output_dir", str(tmp_path / "out"), "--expert_interpolation"]  # fmt: skip
    assert "between 0 and 1, or auto, got 'best'" in refused([*words, "best"])
    assert "between 0 and 1, got 1.5" in refused([*words, "1.5"])
