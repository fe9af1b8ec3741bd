"""Models to export: experts that are always open, and some that are not, beside plain Whisper."""

import pytest
import torch
from models import save_whisper
from programs import short_processor

from distil_whisper_hf import DistilWhisperForConditionalGeneration


def open_gates(model, name):
    """As a LoRA adapter's: no hidden unit of a gate counts."""
    with torch.no_grad():
        for _, layer in model.expert_layers(name):
            layer.language_experts[name].gate_out.weight.zero_()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny base with windows of 2 s, of a form that whisper.cpp knows."""
    sizes = {"encoder_layers": 4, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256, "max_source_positions": 100}
    folder = save_whisper(tmp_path_factory.mktemp("export"), **sizes)
    short_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def processor(folder):
    return short_processor()


FORMS = {
    "full": {},
    "compact": {"rank": 4},
    "biases": {"rank": 4, "bias": True},
    "attention": {"rank": {"encoder": 2, "decoder": 5}, "targets": "all"},
    "query alone": {"rank": 3, "targets": ["q_proj"]},
    "encoder": {"rank": 4, "sides": "encoder", "targets": "all"},
}


@pytest.fixture
def make(folder):
    """An expert of one of `FORMS`, its gates open or as they were drawn."""

    def make(form, *, opened=True):
        model = DistilWhisperForConditionalGeneration.from_pretrained(folder).eval()
        generator = torch.Generator().manual_seed(3)
        for name in ("ca", "gl"):
            model.add_expert(name, **FORMS[form])
            with torch.no_grad():
                for _, layer in model.expert_layers(name):
                    for parameter in layer.language_experts[name].parameters():
                        parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
        if opened and form != "query alone":
            open_gates(model, "ca")
        return model

    return make
