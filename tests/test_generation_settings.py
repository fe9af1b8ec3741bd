"""Bases with generation settings of 2022 or none, and assistants."""

import copy
import json
import logging

import pytest
import torch
from models import TRANSCRIBE, features, save_whisper, with_experts
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


@pytest.mark.parametrize("assistant", ["whisper", "smaller", "ours", "with other experts"])
@pytest.mark.parametrize("chosen", [{"language": "ca"}, {"expert": "sc"}, {}])
def test_an_assistant_changes_no_word(whisper_folder, tmp_path, assistant, chosen):
    """Silent: experts of the assistant in the place of the model's, or one that is given what it cannot take."""
    model = with_experts(whisper_folder, "ca", "gl", "sc")
    helpers = {
        "whisper": lambda: WhisperForConditionalGeneration.from_pretrained(whisper_folder),
        "smaller": lambda: WhisperForConditionalGeneration.from_pretrained(
            save_whisper(tmp_path / "small", seed=5, decoder_layers=1)
        ),
        "ours": lambda: copy.deepcopy(model),
        "with other experts": lambda: with_experts(whisper_folder, "gl", "ca"),
    }
    arguments = {**chosen, "max_new_tokens": 12}
    expected = model.generate(features(1), **arguments)
    assisted = model.generate(features(1), assistant_model=helpers[assistant]().eval(), **arguments)
    assert torch.equal(assisted, expected)


def test_a_model_with_experts_assists_whisper(whisper_folder, whisper):
    ours, arguments = with_experts(whisper_folder, "ca"), {"language": "ca", "max_new_tokens": 12}
    assisted = whisper.generate(features(1), assistant_model=ours, **arguments)
    assert torch.equal(assisted, whisper.generate(features(1), **arguments))
