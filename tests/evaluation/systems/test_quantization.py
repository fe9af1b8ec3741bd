"""Quantised tiny models: what is packed, what is not, and that it still computes about the same."""

import importlib.util

import pytest
import torch
from models import LANGUAGE, NO_TIMESTAMPS, START, TRANSCRIBE, save_whisper, with_experts
from torch import nn
from transformers import WhisperForConditionalGeneration

from distil_whisper_hf.evaluation.systems.costs import disk_bytes, weight_bytes
from distil_whisper_hf.evaluation.systems.quantization import PRECISIONS, check_precision, convert, quantized_layers

needs = {"bnb": "bitsandbytes", "torchao": "torchao"}


def packed_precisions():
    for precision in PRECISIONS[3:]:
        library = needs[precision.split("-")[0]]
        missing = importlib.util.find_spec(library) is None
        yield pytest.param(precision, marks=pytest.mark.skipif(missing, reason=f"{library} is not installed"))


@pytest.fixture
def expert_model(tmp_path):
    return with_experts(save_whisper(tmp_path, encoder_ffn_dim=192), "ca", "gl")


def logits(model, features):
    prompt = torch.tensor([[START, LANGUAGE["ca"], TRANSCRIBE, NO_TIMESTAMPS, 300, 301]] * len(features))
    with torch.inference_mode():
        return model(features, decoder_input_ids=prompt).logits.float()


@pytest.mark.parametrize("precision", list(packed_precisions()))
def test_experts_are_packed_and_gates_are_not(expert_model, precision):
    """Prevents gates from losing bits, which flips their decisions, and experts from keeping four times their size."""
    features = torch.randn(3, 80, 60, generator=torch.Generator().manual_seed(3))
    before, names, size = logits(expert_model, features), quantized_layers(expert_model), weight_bytes(expert_model)
    gates = {k: v.clone() for k, v in expert_model.state_dict().items() if ".gate_" in k}
    convert(expert_model, precision)
    # 2 encoder layers with 4 projections, 3 decoder layers with 8; 2 feed-forward layers each, twice more in experts.
    assert len(names) == 2 * 4 + 3 * 8 + (2 + 3) * 2 * 3
    assert any("language_experts.ca.fc1" in name for name in names)
    kinds = {name: type(expert_model.get_submodule(name)) for name in names}
    weights = [expert_model.get_submodule(name).weight for name in names]
    packed = "torchao" in precision or all(weight.dtype in (torch.int8, torch.uint8) for weight in weights)
    assert packed and ("torchao" in precision) == (set(kinds.values()) == {nn.Linear})
    for key, value in gates.items():
        after = expert_model.state_dict()[key]
        assert after.dtype == torch.float32 and torch.equal(after, value)
    # The embedding of 51865 tokens dwarfs the layers of so small a model.
    assert weight_bytes(expert_model) < size and disk_bytes(expert_model) >= weight_bytes(expert_model)
    after = logits(expert_model, features)
    error = ((after - before).norm() / before.norm()).item()
    assert 0 < error < (0.6 if precision == "bnb-nf4" else 0.4)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_floating_precisions_convert_everything(whisper_folder, precision):
    """Prevents a half-precision system that is float32 in part."""
    model = convert(WhisperForConditionalGeneration.from_pretrained(whisper_folder), precision)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, precision)}


def test_misuse_is_refused(whisper_folder):
    """Prevents a model from being quantised twice, or packed where the kernels cannot."""
    with pytest.raises(ValueError, match="'int8'; choose one of float32"):
        check_precision("int8")
    model = WhisperForConditionalGeneration.from_pretrained(whisper_folder, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="expected a float32 model"):
        convert(model, "float32")
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ValueError, match="multiples of 64, got 64 and 96"):
        convert(WhisperForConditionalGeneration.from_pretrained(whisper_folder), "bnb-nf4")
