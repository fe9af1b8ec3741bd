"""bfloat16 on a CPU: where there are no instructions for it, a step in it takes tens of times as long as in float32."""

from __future__ import annotations

import logging
from functools import lru_cache

import torch

logger = logging.getLogger(__name__)

# As `torch.cpu.get_capabilities` calls them, on x86 and on ARM.
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")


def has_fast_bfloat16(device: torch.device | str) -> bool:
    """Whether a device computes in bfloat16 at least about as fast as in float32; of a CPU, as far as it says so."""
    if torch.device(device).type != "cpu":
        return True
    # The instructions are used by oneDNN; without it, numbers are converted one by one.
    capabilities = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and any(capabilities.get(name) for name in _INSTRUCTIONS)


def computing_dtype(dtype: torch.dtype, device: torch.device | str) -> torch.dtype:
    """The type to compute in: the one asked for, but float32, with one warning, for bfloat16 where that is slow."""
    if dtype != torch.bfloat16 or has_fast_bfloat16(device):
        return dtype
    warn_once("This CPU has no instructions for bfloat16, which would be tens of times slower: computing in float32.")
    return torch.float32


@lru_cache
def warn_once(message: str) -> None:
    """Log a warning, the first time that it comes up."""
    logger.warning(message)
