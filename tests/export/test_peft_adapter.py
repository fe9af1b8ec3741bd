"""PEFT opens a compact expert, merged or not, and computes the same."""

import json

import pytest
import torch
from models import features, prompts
from transformers import WhisperForConditionalGeneration

from distil_whisper_hf.expert_form import ExpertForm
from distil_whisper_hf.export.collapse import collapse
from distil_whisper_hf.export.peft_adapter import check_form, write_peft

peft = pytest.importorskip("peft")


def opened(folder, adapter):
    return peft.PeftModel.from_pretrained(WhisperForConditionalGeneration.from_pretrained(folder), adapter).eval()


def logits(model):
    with torch.no_grad():
        return model(input_features=features(1, frames=200), decoder_input_ids=prompts("ca")).logits


@pytest.mark.parametrize("form", ["compact", "biases", "attention", "query alone", "encoder"])
def test_peft_computes_what_the_expert_does(make, folder, tmp_path, form):
    """Silent: a scale, a bias or a side that PEFT takes otherwise, or a module that it does not find."""
    model = make(form)
    write_peft(model, "ca", tmp_path, left=(), dtype="float32")
    found = opened(folder, tmp_path)
    torch.testing.assert_close(logits(found), logits(model), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(found.merge_and_unload()), logits(model), atol=1e-4, rtol=1e-4)
    assert (logits(model) - logits(WhisperForConditionalGeneration.from_pretrained(folder).eval())).abs().max() > 0.05


def test_layers_that_are_left_add_nothing(make, folder, tmp_path):
    """Silent: an adapter that is not the model whose error rates were measured."""
    model = make("biases", opened=False)
    shares = {key: float(key in ("encoder.layers.1", "decoder.layers.2")) for key, _ in model.expert_layers("ca")}
    collapsed = collapse(model, "ca", shares)
    write_peft(model, "ca", tmp_path, left=collapsed.left, dtype="float32")
    torch.testing.assert_close(logits(opened(folder, tmp_path)), logits(collapsed.model), atol=1e-4, rtol=1e-4)


def test_what_other_programs_read_is_plain(make, folder, tmp_path):
    """Silent: patterns of ranks or names, which vLLM does not read."""
    model = make("attention")
    write_peft(model, "ca", tmp_path, left=(), dtype="float16")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (5, 5, "LORA")
    assert sorted(config["target_modules"]) == ["fc1", "fc2", "k_proj", "out_proj", "q_proj", "v_proj"]
    assert not config["rank_pattern"] and not config["alpha_pattern"] and config["bias"] == "none"
    assert config["base_model_name_or_path"] == str(folder) and not config["lora_bias"]
    assert opened(folder, tmp_path).peft_config["default"].r == 5


def test_a_full_expert_is_refused(make, tmp_path):
    with pytest.raises(ValueError, match=r"full one 'ca'.*compress"):
        check_form("ca", ExpertForm())
    with pytest.raises(ValueError, match="compact"):
        write_peft(make("full"), "ca", tmp_path / "out", left=(), dtype="float32")
    assert not (tmp_path / "out").exists()
