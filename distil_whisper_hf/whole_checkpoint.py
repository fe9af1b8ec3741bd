"""Whole checkpoints as files: base and experts in `model.safetensors`, or in shards that an index names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import torch
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .configuration_distil_whisper import DistilWhisperConfig
from .untrusted_files import (
    ExpertFileError,
    MissingExpertError,
    Shapes,
    check_finite,
    open_tensors,
    read_json,
    stored_file,
    stored_shapes,
)

# A file beside the index that names it, and nowhere else.
SHARD_FILE = re.compile(r"[\w-][\w.-]*\.safetensors")
_EXPERT_KEY = re.compile(r"(?:model\.)?(?P<layer>.+)\.language_experts\.(?P<name>[^.]+)\.(?P<rest>.+)")


def weight_files(source: str | os.PathLike, **hub: Any) -> list[Path]:
    """The safetensors files of a whole checkpoint; none if it has no weights in this form.

    Raises:
        ExpertFileError: a damaged index, or one that names other files than those beside it.
    """
    single, index = (stored_file(source, file, **hub) for file in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME))
    if single is not None:
        return [single]
    if index is None:
        return []
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ExpertFileError(f"{index}: expected a `weight_map`, from tensors to files, got none.")
    shards = sorted({str(shard) for shard in weight_map.values()})
    outside = [shard for shard in shards if not SHARD_FILE.fullmatch(shard)]
    if outside:
        raise ExpertFileError(f"{index}: expected names of weight files beside it, got {outside[0]!r}.")
    paths = []
    for shard in shards:
        path = stored_file(source, shard, **hub)
        if path is None:
            raise MissingExpertError(f"{index}: expected {shard} beside it, found nothing. Download it again.")
        paths.append(path)
    return paths


def expert_key(key: str) -> tuple[str, str] | None:
    """The expert that a tensor of a whole checkpoint belongs to, and its name in that one's file; None: the base's."""
    found = _EXPERT_KEY.fullmatch(key)
    return None if found is None else (found["name"], f"{found['layer']}.{found['rest']}")


def shapes_inside(files: Sequence[Path]) -> dict[str, Shapes]:
    """Type and shape of the tensors of every expert, by its name and theirs."""
    inside: dict[str, Shapes] = {}
    for key, described in _shapes(files).items():
        found = expert_key(key)
        if found is not None:
            inside.setdefault(found[0], {})[found[1]] = described
    return inside


def read_inside(name: str, files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The tensors of one expert, in memory of their own."""
    tensors = {}
    for opened in _opened(files):
        for key in list(opened.keys()):
            found = expert_key(key)
            if found is not None and found[0] == name:
                tensors[found[1]] = opened.get_tensor(key).clone()
    return tensors


def check_finite_inside(names: Set[str], files: Sequence[Path]) -> None:
    """Refuse experts with NaN or infinity in them, one tensor in memory at a time."""
    for path in files:
        with open_tensors(path) as opened:
            for key in list(opened.keys()):
                found = expert_key(key)
                if found is not None and found[0] in names:
                    check_finite(path, {key: opened.get_tensor(key)})


def read_base(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The tensors of the base, as `fingerprint_base` takes them."""
    tensors = {}
    for opened in _opened(files):
        for key in list(opened.keys()):
            if expert_key(key) is None and key != "proj_out.weight":
                tensors[key.removeprefix("model.")] = opened.get_tensor(key)
    return tensors


def check_sizes(files: Sequence[Path], config: DistilWhisperConfig) -> None:
    """Refuse weights of other sizes than the configuration has, before a model of these is made.

    Raises:
        ExpertFileError: damaged weights, or sizes that differ; the message has the first.
    """
    # The original release's names of the shared path are longer.
    stored = {
        key.removeprefix("model.").replace(".ffn_clsr.proj.shared.", "."): shape
        for key, (_, shape) in _shapes(files).items()
    }
    width = config.d_model
    wanted: dict[str, tuple[int, ...] | None] = {
        "encoder.conv1.weight": (width, config.num_mel_bins, 3),
        "encoder.embed_positions.weight": (config.max_source_positions, width),
        "decoder.embed_positions.weight": (config.max_target_positions, width),
        "decoder.embed_tokens.weight": (config.vocab_size, width),
    }
    for side in ("encoder", "decoder"):
        layers = getattr(config, f"{side}_layers")
        if layers:
            wanted[f"{side}.layers.{layers - 1}.fc1.bias"] = (getattr(config, f"{side}_ffn_dim"),)
        wanted[f"{side}.layers.{layers}.fc1.bias"] = None
    for key, shape in wanted.items():
        if stored.get(key) != shape:
            raise ExpertFileError(
                f"{files[0]}: expected weights of the sizes that the configuration has, with {key} of shape "
                f"{shape or 'none'}, got {stored.get(key) or 'none'}."
            )


def _opened(files: Sequence[Path]) -> Iterator[Any]:
    for path in files:
        with open_tensors(path) as opened:
            yield opened


def _shapes(files: Sequence[Path]) -> Shapes:
    shapes: Shapes = {}
    for opened in _opened(files):
        shapes |= stored_shapes(opened)
    return shapes
