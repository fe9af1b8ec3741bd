"""Make a PEFT LoRA adapter of Whisper a compact expert, its gates open: the same logits, and it can share a batch."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..places import missing_path
from .output_folders import check_output_dir
from .sample_inputs import sample_inputs

if TYPE_CHECKING:
    import torch
    from transformers import WhisperForConditionalGeneration

    from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KEY = re.compile(
    r"base_model\.model\.(?:model\.)?(?P<layer>(?:encoder|decoder)\.layers\.\d+)\."
    r"(?P<projection>fc1|fc2|(?:self_attn|encoder_attn)\.(?:q_proj|k_proj|v_proj|out_proj))\.lora_(?P<factor>[AB])\.weight"
)
# Of logits between products of thin matrices and the same added to the weights, in float32.
TOLERANCE = 1e-3
# (layer, projection) -> A `(rank, in)` and B `(out, rank)`.
Factors = dict[tuple[str, str], tuple["torch.Tensor", "torch.Tensor"]]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter."""
    return (folder / ADAPTER_CONFIG).is_file()


def convert_adapter(source: Path, output: Path, *, name: str, base: str) -> float:
    """Convert, compare and write; returns the largest difference of logits.

    Args:
        source: folder of the adapter.
        output: folder to make: the expert alone, with a configuration that names the base.
        name: of the expert: the language's code.
        base: plain Whisper that the adapter was trained on.

    Raises:
        FileExistsError: `output` is there already.
        ValueError: an adapter of another kind, or of modules that an expert does not change; or logits that differ.
    """
    from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration

    check_output_dir(output, new=True)
    factors = read_adapter(source)
    model = DistilWhisperForConditionalGeneration.from_pretrained(base, experts=[], dtype="float32").eval()
    add_adapter(model, name, factors, source)
    difference = compare(model, name, factors, base)
    model.config.base_model_name_or_path = base
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".convert-") as beside:
        folder = Path(beside) / output.name
        model.save_pretrained(folder, experts_only=True)
        os.replace(folder, output)
    return difference


def read_adapter(source: Path) -> Factors:
    """The factors of a LoRA adapter, its scale within B.

    Raises:
        ValueError: not a LoRA adapter as it is (DoRA, biases, other modules), or not whole.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((source / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"Expected {ADAPTER_CONFIG} of a PEFT adapter in {str(source)!r}, got {error}.") from error
    refused = {
        "peft_type": config.get("peft_type") != "LORA" and config.get("peft_type"),
        "use_dora": config.get("use_dora"),
        "bias": config.get("bias", "none") != "none" and config.get("bias"),
        "lora_bias": config.get("lora_bias"),
        "modules_to_save": config.get("modules_to_save"),
        "fan_in_fan_out": config.get("fan_in_fan_out"),
    }
    for field, value in refused.items():
        if value:
            raise ValueError(
                f"Expected a LoRA adapter of linear layers alone, got one with {field}={value!r} in {str(source)!r}. "
                "An expert cannot be that: train LoRA without it, or an expert by `distil-whisper train --expert_rank`."
            )
    path = source / ADAPTER_WEIGHTS
    if not path.is_file():
        raise ValueError(missing_path(path, "the adapter's weights"))
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a complete safetensors file, got a damaged one ({error}).") from error
    found: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = KEY.fullmatch(key)
        if match is None:
            raise ValueError(
                f"Expected an adapter of fc1, fc2 and attention's projections in Whisper's layers, got {key!r} "
                f"in {path}."
            )
        found.setdefault((match["layer"], match["projection"]), {})[match["factor"]] = tensor.float()
    if not found or any(
        pair.keys() != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1] for pair in found.values()
    ):
        raise ValueError(f"{path}: expected both factors of every module, of one rank.")
    return {
        (layer, projection): (pair["A"], pair["B"] * _scale(config, f"{layer}.{projection}", pair["A"].shape[0]))
        for (layer, projection), pair in found.items()
    }


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = next(
        (
            value
            for pattern, value in (config.get("alpha_pattern") or {}).items()
            if re.match(rf"(.*\.)?({pattern})$", module)
        ),
        config["lora_alpha"],
    )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def add_adapter(model: DistilWhisperForConditionalGeneration, name: str, factors: Factors, source: Path) -> None:
    """Add the expert to a plain model; a projection that the adapter leaves alone in a layer gets zeros.

    Raises:
        ValueError: an adapter of another geometry.
    """
    import torch

    layers = {layer for layer, _ in factors}
    sides = [side for side in ("encoder", "decoder") if any(layer.startswith(side) for layer in layers)]
    parts = {"ffn" if projection.startswith("fc") else projection.partition(".")[2] for _, projection in factors}
    rank = {side: max(a.shape[0] for (layer, _), (a, _) in factors.items() if layer.startswith(side)) for side in sides}
    # The gate's first layer is drawn, so that it can train on: the same file every time.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        both = len(sides) == 2
        model.add_expert(
            name,
            sides="both" if both else sides[0],
            rank=rank if both and len(set(rank.values())) == 2 else rank[sides[0]],
            targets="ffn" if parts == {"ffn"} else sorted(parts),
        )
        known = dict(model.expert_layers(name))
        for (layer, projection), (a, b) in factors.items():
            part = known[layer].language_experts[name].get_submodule(projection) if layer in known else None
            if part is None or part.lora_A.shape[1] != a.shape[1] or part.lora_B.shape[0] != b.shape[0]:
                model.remove_expert(name)
                raise ValueError(
                    f"Expected an adapter of this base, got one of another geometry in {str(source)!r}: {layer}."
                    f"{projection} is {tuple(b.shape)} times {tuple(a.shape)}. Name its own base with --model."
                )
            part.lora_A.zero_()
            part.lora_A[: a.shape[0]] = a
            part.lora_B[:, : b.shape[1]] = b


def compare(model: DistilWhisperForConditionalGeneration, name: str, factors: Factors, base: str) -> float:
    """Largest difference of logits to plain Whisper with the products added to its weights.

    Raises:
        ValueError: beyond `TOLERANCE`.
    """
    import torch
    from transformers import WhisperForConditionalGeneration

    stock: WhisperForConditionalGeneration = WhisperForConditionalGeneration.from_pretrained(
        base, dtype="float32"
    ).eval()
    inputs, prompt = sample_inputs(model, name)
    with torch.no_grad():
        for (layer, projection), (a, b) in factors.items():
            stock.model.get_submodule(f"{layer}.{projection}").weight += b @ a
        difference = float(
            (model(inputs, decoder_input_ids=prompt).logits - stock(inputs, decoder_input_ids=prompt).logits)
            .abs()
            .max()
        )
    if not difference <= TOLERANCE:
        raise ValueError(f"Expected logits within {TOLERANCE} of the adapter's, they differ by {difference:.3g}.")
    return difference
