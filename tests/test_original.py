"""Checkpoints of the original release: outputs recorded from it are reproduced."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distil_whisper_hf import DistilWhisperForConditionalGeneration, ExpertFileError
from distil_whisper_hf.commands.convert import convert

REFERENCE = Path(os.environ.get("DISTIL_WHISPER_REFERENCE", "")) / "naver_tiny"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (REFERENCE / "config.json").exists(), reason="DISTIL_WHISPER_REFERENCE is not set"),
]
open_model = DistilWhisperForConditionalGeneration.from_pretrained


def outputs(model, expected):
    with torch.no_grad():
        return model(
            expected["input_features"], decoder_input_ids=expected["decoder_input_ids"], output_gate_values=True
        )


def check(found, expected):
    torch.testing.assert_close(found.logits, expected["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(
        found.encoder_last_hidden_state, expected["encoder_last_hidden_state"], atol=1e-4, rtol=0
    )
    for side in ("encoder", "decoder"):
        for layer, gates in enumerate(getattr(found, f"{side}_gate_values")):
            assert torch.equal(gates, expected[f"{side}_gate_values.{layer}"])


@pytest.mark.parametrize("routing", ["gather", "dense"])
def test_recorded_outputs_are_reproduced(routing):
    """Silent: keys mapped to the wrong side, layer or path; a gate of another sign."""
    expected = load_file(REFERENCE / "expected.safetensors")
    check(outputs(open_model(REFERENCE, experts=["ca"], expert_routing=routing), expected), expected)
    model = open_model(REFERENCE, expert_routing=routing)
    assert model.expert_names == ()
    model.load_expert("ca", REFERENCE)
    check(outputs(model, expected), expected)


def test_saving_writes_our_layout(tmp_path):
    """Silent: the original's key names written back, which neither Whisper nor we would find."""
    expected = load_file(REFERENCE / "expected.safetensors")
    open_model(REFERENCE, experts=["ca"]).save_pretrained(tmp_path)
    assert set(os.listdir(tmp_path)) == {"model.safetensors", "config.json", "generation_config.json"}
    assert not any("clsr" in key for key in load_file(tmp_path / "model.safetensors"))
    assert "clsr" not in (tmp_path / "config.json").read_text()
    check(outputs(open_model(tmp_path), expected), expected)


def test_conversion_keeps_the_recorded_outputs(tmp_path):
    """Silent: a conversion that its own comparison finds right, and that the original would not."""
    expected = load_file(REFERENCE / "expected.safetensors")
    differences = convert(REFERENCE, tmp_path / "new")
    assert differences.keys() == {"ca"} and differences["ca"] < 1e-5
    check(outputs(open_model(tmp_path / "new"), expected), expected)


def test_languages_without_an_expert_work(tmp_path):
    """Silent: the crash of the original without a language, or its Catalan expert taken for all."""
    expected = load_file(REFERENCE / "expected.safetensors")
    model = open_model(REFERENCE, experts=["ca"])
    english = expected["decoder_input_ids"].clone()
    english[:, 1] = 50259
    with torch.no_grad():
        found = model(expected["input_features"], decoder_input_ids=english, output_gate_values=True)
    assert all(gates.eq(0).all() for gates in found.encoder_gate_values)
    assert model.generate(expected["input_features"], language=["ca", "en"], max_new_tokens=4).shape[0] == 2


def test_a_damaged_original_is_refused(tmp_path):
    """Silent: a pickle that lacks a layer loaded as far as it goes."""
    state_dict = torch.load(REFERENCE / "expert.catalan.bin", weights_only=True)
    state_dict.pop("model.decoder.layers.1.ffn_clsr.gate_out.catalan.weight")
    torch.save(state_dict, tmp_path / "expert.catalan.bin")
    with pytest.raises(ExpertFileError, match=r"missing: \['decoder.layers.1.gate_out.weight'\]"):
        open_model(REFERENCE).load_expert("ca", tmp_path)
