"""A compact expert as a LoRA adapter of PEFT: the same products of thin matrices, without the gates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..base_fingerprint import FINGERPRINT_DTYPES
from ..compact_experts import LowRank
from ..expert_form import ATTENTIONS, ExpertForm
from .collapse import low_ranks

if TYPE_CHECKING:
    from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model.model."


def check_form(name: str, form: ExpertForm) -> None:
    """Refuse an expert that is no product of thin matrices; ValueError."""
    if form.rank is None:
        raise ValueError(
            f"Expected a compact expert for peft, got the full one {name!r}. Cut it first: distil-whisper compress "
            "... --rank 16."
        )


def write_peft(
    model: DistilWhisperForConditionalGeneration, name: str, folder: Path, *, left: tuple[str, ...], dtype: str
) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`.

    One rank and a scale of 1 in all modules, which every program that reads adapters knows: where an expert has a
    smaller rank, or nothing, zeros fill it.

    Args:
        model: with the expert, in float32.
        name: a compact expert.
        folder: made if needed.
        left: layers whose feed-forward network stays Whisper's, as `Collapsed.left`.
        dtype: "float32", "float16" or "bfloat16" to store the factors in.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    form = model.config.expert_form(name)
    check_form(name, form)
    rank = max(form.rank_of(side) or 0 for side in form.stacks)
    tensors: dict[str, torch.Tensor] = {}
    for module, pair, taken in _modules(model, name, left):
        share = 1.0 if taken else 0.0
        missing = rank - pair.lora_A.shape[0]
        tensors[f"{module}.lora_A.weight"] = nn.functional.pad(pair.lora_A, (0, 0, 0, missing))
        tensors[f"{module}.lora_B.weight"] = nn.functional.pad(pair.lora_B, (0, missing)) * share
        if pair.bias is not None:
            tensors[f"{module}.lora_B.bias"] = pair.bias * share
    folder.mkdir(parents=True, exist_ok=True)
    kind = FINGERPRINT_DTYPES[dtype]
    stored = {f"{PREFIX}{key}": tensor.detach().to("cpu", kind).contiguous() for key, tensor in tensors.items()}
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    LoraConfig(
        base_model_name_or_path=model.config.base_model_name_or_path,
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        lora_bias=form.bias,
        target_modules=target_modules(form, model),
        inference_mode=True,
    ).save_pretrained(str(folder))


def target_modules(form: ExpertForm, model: DistilWhisperForConditionalGeneration) -> list[str]:
    """Names of the modules that an expert changes: the last part alone where it is in both stacks."""
    names = [part for part in form.parts if part != "ffn"]
    names += ["fc1", "fc2"] if "ffn" in form.parts else []
    if len(form.stacks) == 2:
        return sorted(names)
    (side,) = form.stacks
    inside = [
        part if part.startswith("fc") else f"{attention}.{part}" for part in names for attention in ATTENTIONS[side]
    ]
    layers = range(getattr(model.config, f"{side}_layers"))
    return sorted({f"model.{side}.layers.{layer}.{part}" for layer in layers for part in inside})


def _modules(
    model: DistilWhisperForConditionalGeneration, name: str, left: tuple[str, ...]
) -> Iterator[tuple[str, LowRank, bool]]:
    """Every module that an expert changes, what is added to it, and whether it is."""
    for key, layer in model.expert_layers(name):
        for projection, pair in low_ranks(layer.language_experts[name]).items():
            yield f"{key}.{projection}", pair, key not in left or not projection.startswith("fc")
