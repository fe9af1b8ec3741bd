"""Experts in the encoder or the decoder alone: the other stays Whisper's, and nothing is stored for it."""

import json

import pytest
import torch
from expert_files import header, rewrite
from models import features, prompts, randomize_expert, with_experts
from safetensors.torch import load_file

from distil_whisper_hf import DistilWhisperForConditionalGeneration, ExpertFileError
from distil_whisper_hf.checkpoints import expert_shapes
from distil_whisper_hf.expert_form import ExpertForm
from distil_whisper_hf.expert_verbs import is_expert_key

open_model = DistilWhisperForConditionalGeneration.from_pretrained
OTHER = {"encoder": "decoder", "decoder": "encoder"}


@pytest.fixture(params=["encoder", "decoder"])
def side(request) -> str:
    return request.param


@pytest.fixture
def one_sided(whisper_folder, side):
    """A Catalan expert of one side, and a Galician one of both, which comes after it."""
    model = with_experts(whisper_folder, "ca", sides=side)
    model.add_expert("gl")
    randomize_expert(model, "gl", 1)
    return model


def forward(model, *languages):
    with torch.no_grad():
        return model(features(len(languages)), decoder_input_ids=prompts(*languages), output_gate_values=True)


@pytest.mark.parametrize("routing", ["gather", "dense"])
def test_the_other_side_is_whisper_s(one_sided, whisper, side, routing):
    """Silent: a row that takes its neighbour's expert on the side where it has none, or an index that is shifted."""
    one_sided.config.expert_routing = routing
    together = forward(one_sided, "ca", "gl", "en", "ca")
    for row, language in enumerate(("ca", "gl", "en", "ca")):
        with torch.no_grad():
            alone = one_sided(
                features(4)[row : row + 1], decoder_input_ids=prompts("ca", "gl", "en", "ca")[row : row + 1]
            )
        torch.testing.assert_close(together.logits[row : row + 1], alone.logits, atol=2e-5, rtol=1e-4)
        for place, gates in (("encoder", together.encoder_gate_values), ("decoder", together.decoder_gate_values)):
            opened = sum(float(layer[row].sum()) for layer in gates)
            assert (opened > 0) == (language == "gl" or (language == "ca" and place == side)), (language, place)
    with torch.no_grad():
        heard = whisper.model.encoder(features(1)).last_hidden_state
        mine = one_sided.model.encoder(features(1), expert_ids=torch.tensor([0])).last_hidden_state
    assert torch.equal(heard, mine) == (side == "decoder")


def test_every_way_of_storing_keeps_the_side(one_sided, whisper_folder, side, tmp_path):
    """Silent: layers of the missing side drawn at random when the checkpoint is opened."""
    expected = forward(one_sided, "ca", "gl", "en").logits
    path = one_sided.save_expert("ca", tmp_path / "file")
    assert load_file(path).keys() == expert_shapes(one_sided.config, ExpertForm(side)).keys()
    assert all(key.startswith(f"{side}.") for key in load_file(path))
    one_sided.save_pretrained(tmp_path / "whole")
    one_sided.save_pretrained(tmp_path / "experts", experts_only=True)
    loaded = open_model(whisper_folder)
    loaded.load_expert("ca", tmp_path / "whole")
    loaded.load_expert("gl", tmp_path / "experts")
    for model in (open_model(tmp_path / "whole"), open_model(tmp_path / "experts"), loaded):
        assert model.config.expert_sides("ca") == (side,) and model.config.expert_sides("gl") == ("encoder", "decoder")
        assert torch.equal(forward(model, "ca", "gl", "en").logits, expected)
    assert "sides" not in one_sided.config.language_experts["gl"]


def test_verbs_touch_the_layers_that_are_there(one_sided, whisper, side):
    """Silent: an interpolation or removal that stops at the first layer without the expert."""
    mine = {key: value.clone() for key, value in one_sided.state_dict().items() if is_expert_key(key)}
    assert {key.split(".")[1] for key in mine if ".ca." in key} == {side}
    one_sided.interpolate_expert("ca", 0.5)
    state_dict = one_sided.state_dict()
    for key, value in mine.items():
        changed = not torch.equal(state_dict[key], value)
        assert changed == (".ca.fc" in key), key
    one_sided.freeze_shared()
    assert all(p.requires_grad == is_expert_key(key) for key, p in one_sided.named_parameters())
    one_sided.remove_expert("ca")
    assert not any(".ca." in key for key in one_sided.state_dict())
    with torch.no_grad():
        plain = whisper(features(2), decoder_input_ids=prompts("ca", "ca")).logits
    assert torch.equal(forward(one_sided, "ca", "ca").logits, plain)


def test_a_file_that_lacks_its_side_is_refused(one_sided, whisper_folder, side, tmp_path):
    """Silent: half an expert that passes for a whole one, or the other way round."""
    path = one_sided.save_expert("ca", tmp_path)
    about = json.loads(header(path)["distil_whisper.expert"])
    assert about["sides"] == side
    for stated, message in (("both", "missing: "), (OTHER[side], "not of an expert"), ("left", "one of both, encoder")):
        rewrite(path, metadata={"distil_whisper.expert": json.dumps({**about, "sides": stated})})
        model = open_model(whisper_folder)
        with pytest.raises(ExpertFileError, match=message):
            model.load_expert("ca", tmp_path)
        assert model.expert_names == ()


def test_unknown_sides_are_refused(whisper_folder):
    with pytest.raises(ValueError, match="one of both, encoder, decoder, got 'left'"):
        open_model(whisper_folder).add_expert("ca", sides="left")
    with pytest.raises(ValueError, match="one of both, encoder, decoder, got 'left'"):
        open_model(whisper_folder, language_experts={"ca": {"language": "ca", "sides": "left"}})
