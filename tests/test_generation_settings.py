"""Bases with generation settings of 2022 or none, and assistants."""

import copy
import json
import logging

import pytest
import torch
from models import FRAMES, TRANSCRIBE, features, save_whisper, with_experts
from transformers import GenerationConfig, WhisperForConditionalGeneration

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.generation_distil_whisper import missing_settings

open_model = DistilWhisperForConditionalGeneration.from_pretrained
NEEDED = ("is_multilingual", "lang_to_id", "task_to_id", "no_timestamps_token_id", "prev_sot_token_id")
OLD = {"forced_decoder_ids": [[1, None], [2, TRANSCRIBE]], "max_length": 448, "decoder_start_token_id": 50258}
FORMS = {"of 2022": OLD, "none": None, "with its own": {**OLD, "suppress_tokens": [7, 9]}}


@pytest.fixture(params=FORMS)
def aged(request, tmp_path):
    """The tiny model as a base of that time, and what its settings said."""
    folder, settings = save_whisper(tmp_path / "base"), FORMS[request.param]
    path = folder / "generation_config.json"
    path.unlink()
    if settings is not None:
        path.write_text(json.dumps(settings))
    return folder, settings


def test_what_is_missing_is_completed_with_one_warning(aged, tmp_path, caplog):
    """Silent: no task behind a detected language, and nonsense behind that."""
    folder, settings = aged
    full = open_model(save_whisper(tmp_path / "full")).eval()
    with caplog.at_level(logging.WARNING):
        logging.getLogger("transformers").propagate = True
        model = open_model(folder).eval()
    assert caplog.text.count("are completed as Whisper's authors have them") <= 1
    model.add_expert("ca")
    config = model.generation_config
    for name in NEEDED:
        assert getattr(config, name) == getattr(full.generation_config, name), name
    assert config.suppress_tokens == ((settings or {}).get("suppress_tokens") or config.suppress_tokens)
    assert config.forced_decoder_ids is None and config.task == "transcribe"
    inputs = features(2)
    full.generation_config.suppress_tokens = config.suppress_tokens
    full.generation_config.begin_suppress_tokens = config.begin_suppress_tokens
    for arguments in ({}, {"language": "ca"}, {"task": "translate"}, {"return_timestamps": True}):
        mine = model.generate(inputs, max_new_tokens=8, **arguments)
        assert torch.equal(mine, full.generate(inputs, max_new_tokens=8, **arguments)), arguments
    model.save_pretrained(tmp_path / "saved")
    saved = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert missing_settings(saved) == []


def test_settings_that_say_everything_stay_as_they_are(whisper_folder):
    stored = GenerationConfig.from_pretrained(whisper_folder).to_dict()
    model = open_model(whisper_folder)
    model.generate(features(1), language="ca", max_new_tokens=2)
    assert model.generation_config.to_dict() == stored


FORMS_OF_SPEECH = (
    (features(1), {}),
    (features(1), {"return_timestamps": True}),
    (features(1, frames=2 * FRAMES), {"return_timestamps": True, "condition_on_prev_tokens": True}),
)


@pytest.mark.parametrize("assistant", ["whisper", "smaller", "ours", "with other experts", "looked up"])
@pytest.mark.parametrize("chosen", [{"expert": "sc"}, {}])
def test_an_assistant_changes_no_word(whisper_folder, tmp_path, assistant, chosen):
    """Silent: experts of the assistant in the place of the model's, a text that begins anew with every draft of it, or
    settings of the assistant that stay changed."""
    model = with_experts(whisper_folder, "ca", "gl", "sc")
    helpers = {
        "whisper": lambda: WhisperForConditionalGeneration.from_pretrained(whisper_folder),
        "smaller": lambda: WhisperForConditionalGeneration.from_pretrained(
            save_whisper(tmp_path / "small", seed=5, decoder_layers=1)
        ),
        "ours": lambda: copy.deepcopy(model),
        "with other experts": lambda: with_experts(whisper_folder, "gl", "ca"),
    }
    helper = helpers[assistant]().eval() if assistant in helpers else None
    assisted = {"prompt_lookup_num_tokens": 3} if helper is None else {"assistant_model": helper}
    before = None if helper is None else helper.generation_config.to_dict()
    for inputs, form in FORMS_OF_SPEECH:
        arguments = {**chosen, **form, "max_new_tokens": 10}
        model.generation_config.begin_suppress_tokens = [220]
        first = model.generate(inputs, **arguments)[0, 0].item()
        model.generation_config.begin_suppress_tokens = [220, first]
        expected = model.generate(inputs, **arguments)
        assert torch.equal(model.generate(inputs, **assisted, **arguments), expected), form
    if helper is not None:
        assert helper.generation_config.to_dict() == before


def test_a_model_with_experts_assists_whisper(whisper_folder, whisper):
    """Silent: Whisper's text beginning anew with every draft, and ours cutting long audio short ever after."""
    ours = with_experts(whisper_folder, "ca")
    for inputs, form in FORMS_OF_SPEECH:
        arguments = {**form, "language": "ca", "max_new_tokens": 10}
        expected = ours.generate(inputs, **arguments)
        assisted = whisper.generate(inputs, assistant_model=ours, **arguments)
        assert torch.equal(assisted, whisper.generate(inputs, **arguments))
        assert torch.equal(ours.generate(inputs, **arguments), expected)
