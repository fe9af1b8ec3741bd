"""The mean of several trainings: of full and compact experts, adapters and whole models."""

import json

import torch
from models import save_whisper, with_experts
from peft import LoraConfig, PeftModel, get_peft_model
from programs import TINY, short_processor
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.cli import main
from distil_whisper_hf.training.averaging import average_tensors


def expert(base, folder, seed: int, *, gates: int = 0, **form) -> dict[str, torch.Tensor]:
    """An expert of random weights whose gates have a seed of their own; returns its tensors."""
    model = DistilWhisperForConditionalGeneration.from_pretrained(base)
    model.add_expert("ca", **form)
    generators = {True: torch.Generator().manual_seed(gates), False: torch.Generator().manual_seed(seed)}
    with torch.no_grad():
        for _, layer in model.expert_layers("ca"):
            for key, parameter in layer.language_experts["ca"].named_parameters():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generators["gate_" in key]))
    model.save_expert("ca", folder)
    return load_file(folder / "expert.ca.safetensors")


def averaged(base, tmp_path, folders) -> dict[str, torch.Tensor]:
    words = ["average", *map(str, folders), "--model", str(base), "--output_dir", str(tmp_path / "mean")]
    assert main(words) == 0
    return load_file(tmp_path / "mean/expert.ca.safetensors")


def nearest(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    left, values, right = torch.linalg.svd(matrix)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def test_full_experts(base, tmp_path, capsys):
    """Silent: a mean that weighs the last more, or gates of which nothing is left."""
    parts = [expert(base, tmp_path / str(seed), seed) for seed in range(3)]
    mean = averaged(base, tmp_path, [tmp_path / str(seed) for seed in range(3)])
    assert "their gates too" in capsys.readouterr().out
    for key, tensor in mean.items():
        torch.testing.assert_close(tensor, (parts[0][key] + parts[1][key] + parts[2][key]) / 3)
    training = json.loads((tmp_path / "mean/config.json").read_text())["language_experts"]["ca"]["training"]
    assert training["averaged"] == 3
    again = DistilWhisperForConditionalGeneration.from_pretrained(tmp_path / "mean")
    assert again.expert_names == ("ca",)


def test_gates_that_began_differently_are_the_firsts(base, tmp_path, capsys):
    """Silent: hidden units of two gates added up that mean different things."""
    parts = [expert(base, tmp_path / str(seed), seed, gates=seed) for seed in range(2)]
    mean = averaged(base, tmp_path, [tmp_path / "0", tmp_path / "1"])
    assert "gates of the first" in capsys.readouterr().out
    for key, tensor in mean.items():
        wanted = parts[0][key] if ".gate_" in key else (parts[0][key] + parts[1][key]) / 2
        torch.testing.assert_close(tensor, wanted)


def test_compact_experts_are_averaged_as_products(base, tmp_path):
    """Silent: one run's A times another's B."""
    form = {"rank": 4, "targets": "all", "bias": True}
    parts = [expert(base, tmp_path / str(seed), seed, **form) for seed in range(2)]
    mean = averaged(base, tmp_path, [tmp_path / "0", tmp_path / "1"])
    products = 0
    for key in mean:
        if key.endswith("lora_A"):
            other = key.replace("lora_A", "lora_B")
            wanted = sum(part[other].double() @ part[key].double() for part in parts) / 2
            found = (mean[other] @ mean[key]).double()
            torch.testing.assert_close(found, nearest(wanted, 4), atol=1e-5, rtol=1e-4)
            # The mean of two of rank 4 has rank 8: something is cut, and no more than has to be.
            assert (found - wanted).norm() > 0.1 * wanted.norm()
            products += 1
        elif key.endswith("bias"):
            torch.testing.assert_close(mean[key], (parts[0][key] + parts[1][key]) / 2)
    assert products > 20


def test_the_mean_of_one_thing_is_itself():
    """Silent: factors whose product is scaled, or of other shapes."""
    part = {"x.lora_A": torch.randn(3, 20), "x.lora_B": torch.randn(30, 3), "y": torch.randn(5)}
    mean = average_tensors([part, part])
    assert [*mean] == [*part] and all(mean[key].shape == part[key].shape for key in part)
    torch.testing.assert_close(mean["x.lora_B"] @ mean["x.lora_A"], part["x.lora_B"] @ part["x.lora_A"])


def test_whole_models(base, tmp_path):
    """Silent: baselines that cannot be averaged as experts are, so that the comparison is unfair."""
    for seed in range(2):
        save_whisper(tmp_path / f"model{seed}", seed=seed, max_source_positions=100)
    folders = [str(tmp_path / f"model{seed}") for seed in range(2)]
    assert main(["average", *folders, "--model", str(base), "--output_dir", str(tmp_path / "mean")]) == 0
    models = [
        dict(WhisperForConditionalGeneration.from_pretrained(tmp_path / name).named_parameters())
        for name in ("model0", "model1", "mean")
    ]
    for key, tensor in models[2].items():
        torch.testing.assert_close(tensor, (models[0][key] + models[1][key]) / 2)


def test_adapters(base, catalan, tmp_path):
    """Silent: an adapter that peft opens and that is not the mean, or that our own test does not open."""
    for seed in range(2):
        torch.manual_seed(seed)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["fc1", "fc2"], init_lora_weights=False)
        plain = WhisperForConditionalGeneration.from_pretrained(base)
        get_peft_model(plain, config).save_pretrained(tmp_path / f"lora{seed}")
    folders = [str(tmp_path / f"lora{seed}") for seed in range(2)]
    assert main(["average", *folders, "--model", str(base), "--output_dir", str(tmp_path / "mean")]) == 0
    deltas = []
    for name in ("lora0", "lora1", "mean"):
        opened = PeftModel.from_pretrained(WhisperForConditionalGeneration.from_pretrained(base), tmp_path / name)
        layer = opened.base_model.model.model.decoder.layers[0].fc1
        deltas.append(layer.get_delta_weight("default").detach())
    torch.testing.assert_close(deltas[2], nearest((deltas[0] + deltas[1]) / 2, 4), atol=1e-5, rtol=1e-3)
    test = ["baseline", "--method", "lora", "--model", str(base), "--data", str(catalan), "--language", "ca", "--where",
            "suspect=0", "--test_only", "--test", "trained", "--output_dir", str(tmp_path / "mean"), *TINY]  # fmt: skip
    assert main(test) == 0 and (tmp_path / "mean/scores.json").exists()


def test_what_cannot_be_averaged_is_said(base, tmp_path, refused):
    expert(base, tmp_path / "full", 0)
    expert(base, tmp_path / "compact", 0, rank=2)
    other = save_whisper(tmp_path / "other", seed=5, max_source_positions=100)
    short_processor().save_pretrained(other)
    with_experts(other, "ca").save_expert("ca", tmp_path / "foreign")
    (tmp_path / "adapter").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "adapter/adapter_model.safetensors")

    def say(*names: str) -> str:
        folders = [str(tmp_path / name) for name in names]
        message = refused(["average", *folders, "--model", str(base), "--output_dir", str(tmp_path / "mean")])
        assert not (tmp_path / "mean").exists() and not list(tmp_path.glob(".average-*"))
        return message

    assert "at least two folders" in say("full")
    assert "experts of one name and form" in say("full", "compact")
    assert "other weights" in say("full", "foreign")
    assert "experts in all folders" in say("full", "adapter")
    assert "nowhere" in say("full", "nowhere")
