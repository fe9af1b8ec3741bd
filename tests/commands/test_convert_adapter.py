"""LoRA adapters of PEFT become compact experts with the same logits."""

import json

import pytest
import torch
from models import features, prompts
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.cli import main

peft = pytest.importorskip("peft")

KINDS = {
    "feed-forward": {"target_modules": ["fc1", "fc2"]},
    "query and value, rsLoRA": {"target_modules": ["q_proj", "v_proj"], "use_rslora": True, "lora_alpha": 6},
    "decoder alone": {"target_modules": r".*decoder\.layers.*(fc1|encoder_attn\.out_proj)"},
    "ranks by module": {
        "target_modules": ["fc1", "fc2", "k_proj", "out_proj"],
        "rank_pattern": {"fc1": 6, "self_attn.k_proj": 2},
        "alpha_pattern": {"fc2": 9},
    },
    "one layer": {"target_modules": ["fc2"], "layers_to_transform": [1], "layers_pattern": "layers"},
}


def adapter(whisper_folder, folder, **arguments):
    """A saved adapter with random factors, and the logits of its model."""
    torch.manual_seed(0)
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, **arguments})
    model = peft.get_peft_model(WhisperForConditionalGeneration.from_pretrained(whisper_folder), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
        logits = model(input_features=features(3), decoder_input_ids=prompts("ca", "en", "ca")).logits
    model.save_pretrained(folder)
    return logits


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_becomes_an_expert(whisper_folder, whisper, tmp_path, kind, capsys):
    """Silent: a scale left out, factors of another layer, or an expert that changes other rows."""
    expected = adapter(whisper_folder, tmp_path / "lora", **KINDS[kind])
    flags = ["--language", "ca", "--model", str(whisper_folder)]
    assert main(["convert", str(tmp_path / "lora"), str(tmp_path / "out"), *flags]) == 0
    assert "ca: logits within" in capsys.readouterr().out
    model = DistilWhisperForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        plain = whisper(features(3), decoder_input_ids=prompts("ca", "en", "ca")).logits
        found = model(features(3), decoder_input_ids=prompts("ca", "en", "ca")).logits
    assert (expected[0] - plain[0]).abs().max() > 0.1
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]], atol=1e-3, rtol=1e-3)
    assert torch.equal(found[1], plain[1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
        ({"bias": "all"}, "bias='all'"),
        ({"modules_to_save": ["proj_out"]}, "modules_to_save"),
    ],
)
def test_other_adapters_are_refused(whisper_folder, tmp_path, change, said, capsys):
    adapter(whisper_folder, tmp_path / "lora", target_modules=["fc1"])
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    flags = ["--language", "ca", "--model", str(whisper_folder)]
    assert main(["convert", str(tmp_path / "lora"), str(tmp_path / "out"), *flags]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_weights_of_other_modules_are_refused(whisper_folder, tmp_path, capsys):
    adapter(whisper_folder, tmp_path / "lora", target_modules=["fc1"])
    path, flags = tmp_path / "lora" / "adapter_model.safetensors", ["--language", "ca", "--model", str(whisper_folder)]
    tensors, arguments = load_file(path), ["convert", str(tmp_path / "lora"), str(tmp_path / "out"), *flags]
    key = next(iter(tensors))
    save_file({**tensors, key.replace("fc1", "fc3"): tensors[key].clone()}, path)
    assert main(arguments) == 2 and "fc3" in capsys.readouterr().err
    save_file({key: tensors[key]}, path)
    assert main(arguments) == 2 and "both factors" in capsys.readouterr().err
    save_file({name: tensor.repeat(1, 2) if "lora_A" in name else tensor for name, tensor in tensors.items()}, path)
    assert main(arguments) == 2 and "another geometry" in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:100])
    assert main(arguments) == 2 and "damaged" in capsys.readouterr().err
    path.unlink()
    assert main(arguments) == 2 and "adapter_model.safetensors" in capsys.readouterr().err
    assert main(arguments[:3]) == 2 and "--model BASE --language ca" in capsys.readouterr().err
