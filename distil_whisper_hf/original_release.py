"""Checkpoints of the original release (naver/multilingual-distilwhisper-*): their fields, key names and expert files.

`config.json` has fields of its own, the shared path's weights stand under longer names in `model.safetensors`, and each
expert is `expert.<language's English name>.bin`, a pickled state dict. Everything is renamed to ours while it is read.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from .languages import WHISPER_LANGUAGES
from .untrusted_files import ExpertFileError

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
# What a pickled state dict of tensors calls.
PICKLED = {
    "collections OrderedDict",
    "torch BFloat16Storage",
    "torch FloatStorage",
    "torch HalfStorage",
    "torch._utils _rebuild_tensor_v2",
}
# Bytes of a pickle: names and shapes alone, for the tensors stand beside it.
PICKLE_LIMIT = 1 << 20
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


def read_original_expert(path: Path, size: int) -> dict[str, torch.Tensor]:
    """The tensors of an original expert's file of `size` bytes under our names.

    What would run code or take more memory than the file has bytes is refused before torch reads it: a compressed
    archive, and a pickle that calls anything but what rebuilds a tensor. The archive's checksums are compared.

    Raises:
        ExpertFileError: anything but tensors in the pickle, or a damaged file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, size)
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    # Anything: neither library says what it raises for a file that it did not write.
    except Exception as error:
        raise ExpertFileError(
            f"{path}: expected tensors only, as the original release has them, got what cannot be read safely: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}."
        ) from error
    if not isinstance(state_dict, dict) or not all(isinstance(value, torch.Tensor) for value in state_dict.values()):
        raise ExpertFileError(f"{path}: expected tensors by name, got {type(state_dict).__name__}.")
    language = path.name.removeprefix("expert.").removesuffix(".bin")
    return {expert_key(str(key), language): tensor for key, tensor in state_dict.items()}


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """Raise ValueError for what torch would be led to take memory by, or for bytes that are not those written."""
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or size < sum(
        member.file_size for member in members
    ):
        raise ValueError("its parts are said to be larger than the file")
    pickled = next((member for member in members if member.filename.endswith("/data.pkl")), None)
    if pickled is None or pickled.file_size > PICKLE_LIMIT:
        raise ValueError(f"{'no pickle' if pickled is None else f'a pickle of {pickled.file_size} bytes'} in it")
    for opcode, argument, _ in pickletools.genops(archive.read(pickled)):
        if opcode.name == "STACK_GLOBAL" or (opcode.name in ("GLOBAL", "INST") and argument not in PICKLED):
            raise ValueError(f"a call of {argument}")
    damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} differs from its checksum")
