"""What tells one base from another: experts are bound to the weights that they were made for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import logging

from .untrusted_files import ExpertFileError

logger = logging.get_logger(__name__)

FINGERPRINT_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FINGERPRINT_SAMPLES = 1024
# Numbers of a tensor that are looked at to see whether it is as it was.
SPOTS = 4


@dataclass(frozen=True, eq=False)
class KnownDigests:
    """Digests of a base, and the state of its tensors that they are of; it holds no tensor."""

    state: tuple[Any, ...]
    digests: dict[str, str]


class BaseSample:
    """An even sample of every tensor of a base, with a digest for each type and group that it can be compared in.

    Args:
        tensors: name and value of every tensor of the base.
        known: of the same model before, whose digests are taken over where no tensor has changed since.

    Attributes:
        keys: "float32/all", "float32/unquantized", "float16/all", ... the first says most: what is equal there is equal
            in all that follow.
        known: for the next one.
    """

    def __init__(self, tensors: Iterable[tuple[str, torch.Tensor]], known: KnownDigests | None = None) -> None:
        named = sorted(tensors)
        quantized = any(not tensor.is_floating_point() for _, tensor in named)
        self._tensors = [(name, tensor) for name, tensor in named if not (quantized and _is_linear_weight(name))]
        dtypes = {tensor.dtype for _, tensor in self._tensors}
        labels = [label for label, dtype in FINGERPRINT_DTYPES.items() if dtypes in ({torch.float32}, {dtype})]
        groups = ("unquantized",) if quantized else ("all", "unquantized")
        self.keys = tuple(f"{label}/{group}" for label in labels for group in groups)
        state = tuple(map(_state, named))
        self.known = known if known is not None and known.state == state else KnownDigests(state, {})
        self._digests = self.known.digests

    def digest(self, key: str) -> str:
        """SHA-256 of names, shapes and sample, in one of `keys`."""
        if key not in self._digests:
            label, group = key.split("/")
            digest = hashlib.sha256()
            for name, tensor in self._tensors:
                if group == "unquantized" and _is_linear_weight(name):
                    continue
                flat = tensor.detach().flatten()
                sample = flat[:: max(1, flat.numel() // FINGERPRINT_SAMPLES)].to(FINGERPRINT_DTYPES[label])
                digest.update(f"{name}{tuple(tensor.shape)}".encode())
                digest.update(sample.to("cpu", torch.float32).contiguous().numpy().data)
            self._digests[key] = digest.hexdigest()
        return self._digests[key]

    @property
    def fingerprint(self) -> dict[str, str]:
        """Every digest, by key."""
        return {key: self.digest(key) for key in self.keys}

    def comparable(self, other: Mapping[str, str]) -> dict[str, str]:
        """The part of this base's fingerprint that tells whether `other` is of the same one: a digest, not six."""
        keys = [key for key in self.keys if key in other][:1] or self.keys
        return {key: self.digest(key) for key in keys}


def fingerprint_base(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, str]:
    """Fingerprint of a base model, one for each floating-point type that it can be compared in.

    SHA-256 over an even sample of every tensor, so it takes milliseconds and still changes with any training run. A
    float32 model also gives the fingerprints it would have after rounding to float16 and bfloat16, so an expert made on
    a float32 base is recognised on the same base opened in half precision. Quantised (integer) tensors are passed over,
    and a model that has any is fingerprinted without linear layers' weights (see `unquantized`).
    """
    return BaseSample(tensors).fingerprint


def _state(named: tuple[str, torch.Tensor]) -> tuple[Any, ...]:
    """What changes with a tensor: where it is, how often it was written to, and, for writing past that count, a few of
    its numbers."""
    name, tensor = named
    flat = tensor.detach().flatten()
    numbers = flat[:: max(1, flat.numel() // SPOTS)].tolist() if flat.numel() else []
    version = 0 if tensor.is_inference() else tensor._version
    # NaN is not equal to itself.
    return name, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), version, str(numbers)


def _is_linear_weight(name: str) -> bool:
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
