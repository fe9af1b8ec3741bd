from pathlib import Path

import pytest
from models import randomize_expert, save_whisper
from tiny import tiny_processor

from distil_whisper_hf import DistilWhisperForConditionalGeneration


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """A tiny Whisper with its processor, with windows of 30 s."""
    folder = save_whisper(
        tmp_path_factory.mktemp("evaluated") / "base", max_source_positions=1500, encoder_layers=1, decoder_layers=2
    )
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def whole(base, tmp_path_factory) -> Path:
    """The same with experts ca and sc (prompted as Italian), in one checkpoint."""
    model = DistilWhisperForConditionalGeneration.from_pretrained(base)
    for seed, (name, language) in enumerate({"ca": "ca", "sc": "it"}.items()):
        model.add_expert(name, language=language)
        randomize_expert(model, name, seed)
    folder = tmp_path_factory.mktemp("evaluated") / "whole"
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def only(whole, base, tmp_path_factory) -> Path:
    """The same experts without their base."""
    model = DistilWhisperForConditionalGeneration.from_pretrained(whole)
    model.config.base_model_name_or_path = str(base)
    folder = tmp_path_factory.mktemp("evaluated") / "only"
    model.save_pretrained(folder, experts_only=True)
    return folder
