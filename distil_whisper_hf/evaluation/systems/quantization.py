"""Number formats that a model is run in: floating point, and 8 or 4 bits through bitsandbytes or torchao.

What is quantised is the same for all: the linear layers of attention and feed-forward networks, those of experts
included. Embeddings, convolutions, norms, the output projection (tied to the embedding) and the experts' gates keep
floating point: a gate is a threshold, its decision flips, and it is 1 % of its expert.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import nn

from ...cpu_precision import has_fast_bfloat16, warn_once

Precision = Literal[
    "float32", "bfloat16", "float16", "bnb-int8", "bnb-nf4", "torchao-int8-weight-only", "torchao-int8-dynamic"
]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
FLOATING = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# NF4's blocks of weights; its kernels on the CPU take whole ones only.
_NF4_BLOCK = 64


def check_precision(name: str) -> Precision:
    """The name itself; raises `ValueError`, with all names, for any other."""
    if name not in PRECISIONS:
        raise ValueError(f"unknown precision {name!r}; choose one of {', '.join(PRECISIONS)}")
    return name


def floating_dtype(precision: Precision, device: str) -> torch.dtype:
    """Type of everything that is not quantised: the precision's own, else float32, on a GPU float16."""
    if precision in FLOATING:
        return FLOATING[precision]
    return torch.float32 if torch.device(device).type == "cpu" else torch.float16


def is_quantized_layer(name: str, module: nn.Module) -> bool:
    """Whether a module is among those that are quantised, by its full name and its type."""
    # By exact type: gates are a subclass. Their names guard against a copy of that class.
    return type(module) is nn.Linear and name.rpartition(".")[2] not in ("proj_out", "gate_in", "gate_out")


def quantized_layers(model: nn.Module) -> list[str]:
    """Full names of the layers that `convert` quantises."""
    return [name for name, module in model.named_modules() if is_quantized_layer(name, module)]


def convert(model: nn.Module, precision: Precision, *, device: str = "cpu") -> nn.Module:
    """Bring a float32 model, with all its experts, to `precision` on `device`, in place; returns it.

    Raises:
        ValueError: a precision that does not exist, NF4 for layers whose width is no multiple of 64, or a model that is
            not in float32.
    """
    check_precision(precision)
    types = {parameter.dtype for parameter in model.parameters()}
    if types != {torch.float32}:
        raise ValueError(f"expected a float32 model to convert, got one with {sorted(map(str, types))}: open it anew")
    if precision == "bfloat16" and not has_fast_bfloat16(device):
        warn_once("This CPU has no instructions for bfloat16: it is measured as asked for, tens of times slower.")
    model.requires_grad_(False)
    model.to(floating_dtype(precision, device))
    if precision == "bnb-int8":
        _replace(model, lambda layer: _llm_int8(layer, device))
    elif precision == "bnb-nf4":
        _replace(model, lambda layer: _nf4(layer, device))
    model.to(device)
    if precision.startswith("torchao"):
        _torchao(model, precision)
    return model


def _replace(model: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    for name in quantized_layers(model):
        parent, _, child = name.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, child, make(getattr(owner, child)))


def _llm_int8(layer: nn.Linear, device: str) -> nn.Module:
    """LLM.int8: rows of the weight in 8 bits; activations too, but for outlier columns (Dettmers et al. 2022)."""
    import bitsandbytes as bnb

    new = bnb.nn.Linear8bitLt(
        layer.in_features, layer.out_features, bias=layer.bias is not None, has_fp16_weights=False, threshold=6.0
    )
    new.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    new.bias = layer.bias
    return new.to(device).eval()


def _nf4(layer: nn.Linear, device: str) -> nn.Module:
    """NF4: 4 bits a weight in blocks of 64, the blocks' scales in 8 bits (Dettmers et al. 2023)."""
    import bitsandbytes as bnb

    if layer.in_features % _NF4_BLOCK or layer.out_features % _NF4_BLOCK:
        raise ValueError(
            f"NF4 needs layers whose inputs and outputs are multiples of {_NF4_BLOCK}, got {layer.in_features} and "
            f"{layer.out_features}: use bnb-int8 for this model"
        )
    new = bnb.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=layer.weight.dtype,
        quant_type="nf4",
    )
    new.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
    new.bias = layer.bias
    return new.to(device).eval()


def _torchao(model: nn.Module, precision: Precision) -> None:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

    config = Int8WeightOnlyConfig() if precision.endswith("weight-only") else Int8DynamicActivationInt8WeightConfig()
    quantize_(model, config, filter_fn=lambda module, name: is_quantized_layer(name, module))
