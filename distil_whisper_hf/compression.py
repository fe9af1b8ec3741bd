"""Making an expert compact: the difference of its weights to Whisper's, cut to a low rank by singular values.

Of all matrices of a rank, the truncated singular value decomposition is the nearest (Eckart and Young). Gates are kept
as they are, and so are differences of biases, which take no rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from .compact_experts import CompactExpert, LowRank

if TYPE_CHECKING:
    from .configuration_distil_whisper import DistilWhisperConfig
    from .expert_form import ExpertForm
    from .language_experts import Expert
    from .layers_distil_whisper import ExpertLayer

GATE = ("gate_in", "gate_out")


@torch.no_grad()
def compress(
    layers: Mapping[str, ExpertLayer],
    name: str,
    config: DistilWhisperConfig,
    *,
    rank: int | Mapping[str, int] | None,
    energy: float | None,
) -> tuple[ExpertForm, dict[str, Expert], dict[str, dict[str, float]]]:
    """The nearest compact expert to a loaded one; `model.compress_expert` describes the arguments and errors.

    Args:
        layers: those that the expert is in, under the names of expert files.

    Returns:
        Its form; its network by layer; and by layer and projection the share of the energy that is kept.
    """
    if (rank is None) == (energy is None):
        raise ValueError(f"Expected either a rank or an energy, got rank={rank} and energy={energy}.")
    old = config.expert_form(name)
    if energy is not None:
        if not 0.0 < energy <= 1.0:
            raise ValueError(f"Expected an energy above 0 and up to 1, got {energy}.")
        rank = {
            side: _rank_for((layer for key, layer in layers.items() if key.startswith(side)), name, energy)
            for side in old.stacks
        }
    form = config.check_form(replace(old, rank=rank, bias=old.bias or old.rank is None))
    networks: dict[str, Expert] = {}
    kept = {}
    for key, layer in layers.items():
        compact, norm = layer.new_expert(config, form), layer.final_layer_norm.weight
        networks[key] = compact.to(norm.device, norm.dtype).train(layer.training)
        kept[key] = _cut(layer.language_experts[name], layer, cast(CompactExpert, compact))
    return form, networks, kept


def _differences(expert: Expert, layer: nn.Module) -> Iterator[tuple[str, torch.Tensor, torch.Tensor | None]]:
    """Every projection that an expert changes in a layer, as the layer names it, with the difference of its weight
    `(out, in)` and of its bias `(out,)` or None."""
    for name, part in expert.named_modules():
        if isinstance(part, LowRank):
            yield name, part.delta, part.bias
        elif isinstance(part, nn.Linear) and name not in GATE:
            shared = cast(nn.Linear, layer.get_submodule(name))
            yield name, part.weight - shared.weight, part.bias - shared.bias


def _rank_for(layers: Iterable[ExpertLayer], name: str, energy: float) -> int:
    """The smallest rank that keeps this share of the energy of all differences of an expert in these layers."""
    total = torch.zeros(0, dtype=torch.float64)
    for layer in layers:
        for _, weight, _ in _differences(layer.language_experts[name], layer):
            spectrum = torch.linalg.svdvals(weight.float()).square().double().cpu()
            width = max(len(total), len(spectrum))
            padded = [nn.functional.pad(one, (0, width - len(one))) for one in (total, spectrum)]
            total = padded[0] + padded[1]
    kept = total.cumsum(0)
    return min(1 + int((kept < energy * kept[-1]).sum()), len(kept))


def _cut(expert: Expert, layer: nn.Module, into: CompactExpert) -> dict[str, float]:
    """Make a new compact expert the nearest to another; returns the share of the energy that is kept, by projection."""
    kept = {}
    for name, weight, bias in _differences(expert, layer):
        part = cast(LowRank, into.get_submodule(name))
        left, values, right = torch.linalg.svd(weight.float(), full_matrices=False)
        rank = min(part.lora_A.shape[0], len(values))
        root = values[:rank].sqrt()
        part.lora_A.zero_()
        part.lora_A[:rank] = root.unsqueeze(1) * right[:rank]
        part.lora_B[:, :rank] = left[:, :rank] * root
        if part.bias is not None and bias is not None:
            part.bias.copy_(bias)
        total = float(values.square().sum())
        kept[name] = float(values[:rank].square().sum()) / total if total > 0 else 1.0
    for name in GATE:
        if hasattr(expert, name):
            into.get_submodule(name).load_state_dict(expert.get_submodule(name).state_dict())
    return kept
