"""What tells one base from another: experts are bound to the weights that they were made for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from transformers.utils import logging

from .untrusted_files import ExpertFileError

logger = logging.get_logger(__name__)

FINGERPRINT_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FINGERPRINT_SAMPLES = 1024


def fingerprint_base(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, str]:
    """Fingerprint of a base model, one for each floating-point type that it can be compared in.

    SHA-256 over an even sample of every tensor, so it takes milliseconds and still changes with any training run. A
    float32 model also gives the fingerprints it would have after rounding to float16 and bfloat16, so an expert made on
    a float32 base is recognised on the same base opened in half precision. Quantised (integer) tensors are passed over,
    and a model that has any is fingerprinted without linear layers' weights (see `unquantized`).
    """
    named = sorted(tensors)
    quantized = any(not tensor.is_floating_point() for _, tensor in named)
    kept = [(name, tensor) for name, tensor in named if not (quantized and _is_linear_weight(name, tensor))]
    dtypes = {tensor.dtype for _, tensor in kept}
    prints = {}
    for label, dtype in FINGERPRINT_DTYPES.items():
        if dtypes != {torch.float32} and dtypes != {dtype}:
            continue
        for group in ("all", "unquantized"):
            if group == "all" and quantized:
                continue
            digest = hashlib.sha256()
            for name, tensor in kept:
                if group == "unquantized" and _is_linear_weight(name, tensor):
                    continue
                flat = tensor.detach().flatten()
                sample = flat[:: max(1, flat.numel() // FINGERPRINT_SAMPLES)].to(dtype).to("cpu", torch.float32)
                digest.update(f"{name}{tuple(tensor.shape)}".encode())
                digest.update(sample.numpy().tobytes())
            prints[f"{label}/{group}"] = digest.hexdigest()
    return prints


def _is_linear_weight(name: str, tensor: torch.Tensor) -> bool:
    return ".layers." in name and "norm" not in name


def check_same_base(
    name: str, mine: dict[str, str], here: dict[str, str], my_base: str | None, base_here: str | None
) -> None:
    """Refuse expert `name` if its fingerprint `mine` is not that of the base `here`; without a common one, warn."""
    comparable = sorted(mine.keys() & here.keys())
    if mine and not comparable:
        logger.warning_once(
            f"Expert {name!r} was made for {my_base!r} in another floating-point type than this base has "
            f"({', '.join(sorted(mine))}; here {', '.join(sorted(here)) or 'several'}): whether it is the same base "
            "cannot be told."
        )
    if any(mine[key] != here[key] for key in comparable):
        raise ExpertFileError(
            f"Expected expert {name!r} to be made for this base ({base_here!r}), but it was made on other "
            f"weights ({my_base!r}, fingerprint {mine[comparable[0]][:12]}, here "
            f"{here[comparable[0]][:12]}). Open its own base, or train it again on this one."
        )
