"""The mean of several trainings of one thing: over seeds, rates, or checkpoints of one run.

Weights of models that started from the same base lie in one basin, and their mean is often better than each, in domain
and out of it (Wortsman et al., "Model soups", arXiv 2203.05482). Low-rank factors are not averaged one by one, which
would multiply one run's A with another's B: what is averaged are their products, B A, and of that mean the nearest
product of the same rank is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..base_fingerprint import check_same_base
from ..checkpoints import ExpertFile

GATE_IN, GATE_OUT = "gate_in.weight", "gate_out.weight"
# Gates that began alike: after a training they still point the same way.
SAME_BEGINNING = 0.5


def average_experts(files: Sequence[ExpertFile]) -> tuple[ExpertFile, bool]:
    """The mean of experts of one name and form on one base.

    Gates are averaged where they began alike, as those of one run's checkpoints do. With seeds of their own their
    hidden units mean different things, and the first expert's gates are kept.

    Returns:
        The expert, and whether its gates are means.

    Raises:
        ValueError: fewer than two experts, or such of another name or form.
        ExpertFileError: experts of different bases.
    """
    first = files[0]
    if len(files) < 2:
        raise ValueError(f"Expected at least two experts to average, got {len(files)}.")
    for other in files[1:]:
        if (other.name, other.form) != (first.name, first.form):
            raise ValueError(
                f"Expected experts of one name and form, got {first.name!r} ({first.form.entry or 'full'}) and "
                f"{other.name!r} ({other.form.entry or 'full'})."
            )
        check_same_base(other.name, other.fingerprint, first.fingerprint, other.base_model, first.base_model)
    alike = all(_began_alike(first.tensors, other.tensors) for other in files[1:])
    tensors = average_tensors([file.tensors for file in files])
    if not alike:
        tensors |= {key: tensor for key, tensor in first.tensors.items() if ".gate_" in key}
    return replace(first, tensors=tensors, training={**first.training, "averaged": len(files)}), alike


def average_tensors(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of tensors by name; of `lora_A` and `lora_B` the nearest factors of their products' mean.

    Args:
        parts: the same names and shapes in each.

    Raises:
        ValueError: other names or shapes.
    """
    first = parts[0]
    for part in parts[1:]:
        if {key: one.shape for key, one in part.items()} != {key: one.shape for key, one in first.items()}:
            raise ValueError("Expected tensors of the same names and shapes in all that is averaged, got others.")
    found = {}
    for key, tensor in first.items():
        if "lora_B" in key:
            continue
        if "lora_A" in key:
            partner = key.replace("lora_A", "lora_B")
            found[key], found[partner] = _average_products(
                [part[key] for part in parts], [part[partner] for part in parts]
            )
        else:
            found[key] = torch.stack([part[key].float() for part in parts]).mean(dim=0).to(tensor.dtype)
    return {key: found[key] for key in first}


def _average_products(downs: Sequence[Tensor], ups: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """A `(rank, in)` and B `(out, rank)` whose product is nearest to the mean of all B A."""
    rank, dtype = downs[0].shape[0], downs[0].dtype
    # Their mean is one product of all factors side by side; its singular values are those of a small matrix.
    up = torch.cat([one.double() for one in ups], dim=1) / len(ups)
    down = torch.cat([one.double() for one in downs])
    up_basis, up_rest = torch.linalg.qr(up)
    down_basis, down_rest = torch.linalg.qr(down.t())
    left, values, right = torch.linalg.svd(up_rest @ down_rest.t())
    root = values[:rank].sqrt()
    return (
        (root.unsqueeze(1) * (right[:rank] @ down_basis.t())).to(dtype).contiguous(),
        (up_basis @ left[:, :rank] * root).to(dtype).contiguous(),
    )


def _began_alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(
        float(torch.cosine_similarity(tensor.float().flatten(), other[key].float().flatten(), dim=0)) > SAME_BEGINNING
        for key, tensor in one.items()
        if key.endswith(GATE_IN)
    )
