"""An expert as plain Whisper: the same logits where no gate closes, and what stays Whisper's where some do."""

import pytest
import torch
from models import features, prompts
from transformers import WhisperConfig, WhisperForConditionalGeneration

from distil_whisper_hf.export.collapse import collapse, gated_layers, plain_whisper

LAYERS = [f"encoder.layers.{n}" for n in range(4)] + [f"decoder.layers.{n}" for n in range(3)]


def logits(model, *languages):
    with torch.no_grad():
        return model(features(len(languages), frames=200), decoder_input_ids=prompts(*languages)).logits


@pytest.mark.parametrize("form", ["full", "compact", "biases", "attention", "query alone", "encoder"])
def test_open_gates_collapse_exactly(make, form):
    """Silent: an export that leaves out a bias, a projection or a side."""
    model = make(form)
    collapsed = collapse(model, "ca")
    assert collapsed.exact and collapsed.left == ()
    assert len(collapsed.replaced) == {"query alone": 0, "encoder": 4}.get(form, 7)
    ours, plain = logits(model, "ca"), logits(plain_whisper(model), "ca")
    torch.testing.assert_close(logits(collapsed.model, "ca"), ours, atol=1e-4, rtol=1e-4)
    assert (ours - plain).abs().max() > 0.05


def test_the_model_and_its_base_stay_as_they_are(make, folder):
    """Silent: merged weights in the model that others still use, or a config that names experts."""
    model = make("compact")
    before = logits(model, "ca", "en", "gl")
    collapsed = collapse(model, "ca").model
    with torch.no_grad():
        collapsed.model.decoder.embed_tokens.weight.zero_()
    assert torch.equal(logits(model, "ca", "en", "gl"), before)
    stock = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    assert torch.equal(logits(plain_whisper(model), "ca"), logits(stock, "ca"))
    assert type(collapsed.config) is WhisperConfig and collapsed.config.model_type == "whisper"
    assert "language_experts" not in collapsed.config.to_dict() and "gate_dim" not in collapsed.config.to_dict()
    assert collapsed.generation_config.lang_to_id == model.generation_config.lang_to_id
    assert collapsed.proj_out.weight is collapsed.model.decoder.embed_tokens.weight


@pytest.mark.parametrize("form", ["full", "compact"])
def test_a_layer_is_taken_by_what_most_of_its_gates_do(make, form):
    """Silent: shares of one layer used for another, or a tie that counts as open."""
    model = make(form, opened=False)
    assert gated_layers(model, "ca") == tuple(LAYERS)
    shares = dict(zip(LAYERS, [0.6, 0.5, 0.0, 1.0, 0.51, 0.2, 0.9], strict=True))
    collapsed = collapse(model, "ca", shares)
    taken = [key for key in LAYERS if shares[key] > 0.5]
    assert not collapsed.exact and list(collapsed.replaced) == taken
    assert collapsed.left == tuple(key for key in LAYERS if key not in taken)
    plain, whole = plain_whisper(model).model, collapse(model, "ca", dict.fromkeys(LAYERS, 1.0)).model.model
    for key in LAYERS:
        expected = (whole if key in taken else plain).get_submodule(f"{key}.fc2").weight
        assert torch.equal(collapsed.model.model.get_submodule(f"{key}.fc2").weight, expected)


def test_one_open_layer_needs_no_share(make):
    """Silent: speech asked for where every gate is open, or a layer that is open taken for one that is not."""
    model = make("compact", opened=False)
    with torch.no_grad():
        model.model.decoder.layers[1].language_experts["ca"].gate_out.weight.abs_()
    assert gated_layers(model, "ca") == tuple(key for key in LAYERS if key != "decoder.layers.1")
    shares = dict.fromkeys(gated_layers(model, "ca"), 0.0)
    assert collapse(model, "ca", shares).replaced == ("decoder.layers.1",)
    with pytest.raises(KeyError):
        collapse(model, "ca", {"encoder.layers.0": 1.0})
    with pytest.raises(KeyError, match="el"):
        collapse(model, "el")


def test_attention_has_no_gate(make):
    """Silent: attention left out with the feed-forward network of a layer whose gates are closed."""
    model = make("attention", opened=False)
    collapsed = collapse(model, "ca", dict.fromkeys(LAYERS, 0.0)).model.model
    plain = plain_whisper(model).model
    layer = "decoder.layers.2"
    assert torch.equal(collapsed.get_submodule(f"{layer}.fc1").weight, plain.get_submodule(f"{layer}.fc1").weight)
    for projection in ("self_attn.k_proj", "encoder_attn.out_proj"):
        changed = collapsed.get_submodule(f"{layer}.{projection}").weight
        pair = model.model.get_submodule(layer).language_experts["ca"].get_submodule(projection)
        expected = plain.get_submodule(f"{layer}.{projection}").weight + pair.lora_B @ pair.lora_A
        assert torch.equal(changed, expected)
