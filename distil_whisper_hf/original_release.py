"""Checkpoints of the original release (naver/multilingual-distilwhisper-*): their fields, key names and expert files.

`config.json` has fields of its own, the shared path's weights stand under longer names in `model.safetensors`, and each
expert is `expert.<language's English name>.bin`, a pickled state dict. Everything is renamed to ours while it is read.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch

from .languages import WHISPER_LANGUAGES

# Fields of the original's configuration -> ours; None: read and dropped.
CONFIG_FIELDS = {
    "clsr_gate_dim": "gate_dim",
    "skip_gate_prob": "skip_gate_probability",
    "clsr_langs": None,
    "clsr_max_steps": None,
    "clsr_residual": None,
    "gate_budget": None,
    "use_gate_budget": None,
}
# The shared path's weights -> plain Whisper's, as a `key_mapping` of `from_pretrained`.
BASE_KEYS = {r"\.ffn_clsr\.proj\.shared\.": "."}
# model.encoder.layers.0.ffn_clsr.proj.catalan.fc1.weight, ….ffn_clsr.gate_in.catalan.bias
_EXPERT_KEY = re.compile(
    r"model\.(?P<layer>(?:encoder|decoder)\.layers\.\d+)\.ffn_clsr\."
    r"(?:proj\.(?P<path>[^.]+)\.(?P<linear>fc[12])|(?P<gate>gate_in|gate_out)\.(?P<gated>[^.]+))\.(?P<end>weight|bias)"
)


def our_config(config_dict: dict[str, Any]) -> dict[str, Any]:
    """The original's configuration with our names; any other configuration as it is.

    Raises:
        ValueError: `clsr_residual`, which no published checkpoint has.
    """
    if "clsr_langs" not in config_dict:
        return config_dict
    if config_dict.get("clsr_residual"):
        raise ValueError("Expected an original checkpoint with `clsr_residual` false, got true: no release has it.")
    converted = {key: value for key, value in config_dict.items() if key not in CONFIG_FIELDS}
    for theirs, ours in CONFIG_FIELDS.items():
        if ours is not None and theirs in config_dict:
            converted[ours] = config_dict[theirs]
    return converted


def original_filename(name: str) -> str | None:
    """File name of an expert in the original release, where languages go by English name; None if it has none."""
    return f"expert.{WHISPER_LANGUAGES[name]}.bin" if name in WHISPER_LANGUAGES else None


def original_language(filename: str) -> str | None:
    """Whisper's code of the language whose expert a file of the original release is; None for any other file."""
    codes = {original_filename(code): code for code in WHISPER_LANGUAGES}
    return codes.get(filename)


def expert_key(key: str, language: str) -> str:
    """Our name of an expert's tensor, from the layer down; a key that is none of this language's stays as it is."""
    found = _EXPERT_KEY.fullmatch(key)
    if found is None or (found["path"] or found["gated"]) != language:
        return key
    return f"{found['layer']}.{found['linear'] or found['gate']}.{found['end']}"


def read_original_expert(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of an original expert's file under our names.

    Raises:
        ValueError: anything but tensors in the pickle, or a damaged file.
    """
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            "expected tensors only, as the original release has them, got what cannot be read safely: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}."
        ) from error
    if not isinstance(state_dict, dict) or not all(isinstance(value, torch.Tensor) for value in state_dict.values()):
        raise ValueError(f"expected tensors by name, got {type(state_dict).__name__}.")
    language = path.name.removeprefix("expert.").removesuffix(".bin")
    return {expert_key(key, language): tensor for key, tensor in state_dict.items()}
