"""Files that somebody else made: read so that nothing in them hangs, fills the memory or raises anything but
`ExpertFileError`."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open
from transformers.utils import cached_file

from .places import local_or_hub

# What says which file of a repository is meant.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
# What an expert may be stored in, as safetensors calls it; whatever it is, the model computes in its own.
STORED_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Bytes of JSON, which takes some twenty times as much memory when it is read. A checkpoint with a thousand experts
# needs 2 MB for its configuration.
JSON_LIMIT = 1 << 23
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

# Name of a tensor -> its type (a name that safetensors has for it, where no expert may be of that) and shape.
Shapes = dict[str, tuple[torch.dtype | str, tuple[int, ...]]]


class ExpertFileError(ValueError):
    """An expert's file or a checkpoint that is damaged, of another format, or made for another model."""


class MissingExpertError(ExpertFileError, FileNotFoundError):
    """No such file, folder or repository, or no such expert in it."""


@contextmanager
def reading(path: str | os.PathLike) -> Iterator[int]:
    """Give the bytes of a regular file that is about to be read, and say what is wrong with it as `ExpertFileError`."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kind = next((kind for is_kind, kind in _KINDS if is_kind(status.st_mode)), "something else")
            raise ExpertFileError(f"{path}: expected a file, got {kind}.")
        # Also what the system makes as it is read, which may wait for ever.
        if status.st_size == 0:
            raise ExpertFileError(f"{path}: expected a file with something in it, got a damaged one (of 0 bytes).")
        yield status.st_size
    except FileNotFoundError as error:
        if isinstance(error, ExpertFileError):
            raise
        what = "a link that leads nowhere" if os.path.islink(path) else "nothing"
        raise MissingExpertError(f"{path}: expected a file, found {what}.") from error
    except OSError as error:
        raise ExpertFileError(f"{path}: expected a file that can be read, got: {error.strerror or error}.") from error
    except SafetensorError as error:
        raise ExpertFileError(
            f"{path}: expected a complete safetensors file, got a damaged one ({error}). Download it again."
        ) from error


@contextmanager
def open_tensors(path: str | os.PathLike, *, header_limit: int = constants.SAFETENSORS_MAX_HEADER_LENGTH) -> Iterator:
    """Open a safetensors file: the library checks that its tensors fill it exactly. Nothing but its header is read.

    Args:
        header_limit: bytes that a header may have; memory for it is taken after that is known.
    """
    with reading(path) as size:
        with open(path, "rb") as file:
            stated = int.from_bytes(file.read(8), "little")
        if not 0 < stated <= size - 8:
            raise ExpertFileError(
                f"{path}: expected a complete safetensors file, got a damaged one (of {size} bytes, where its header "
                f"should have {stated}). Download it again."
            )
        if stated > header_limit:
            raise ExpertFileError(f"{path}: expected a header of at most {header_limit} bytes, got one of {stated}.")
        with safe_open(path, framework="pt") as opened:
            yield opened


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """The object in a JSON file."""
    with reading(path) as size:
        if size > JSON_LIMIT:
            raise ExpertFileError(f"{path}: expected at most {JSON_LIMIT} bytes of JSON, got {size}.")
        return parse_json(Path(path).read_bytes(), path)


def parse_json(text: str | bytes, where: str | os.PathLike) -> dict[str, Any]:
    """The object in a JSON text that stands in `where`."""
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ExpertFileError(f"{where}: expected JSON, got brackets in brackets without end.") from error
    except ValueError as error:
        raise ExpertFileError(f"{where}: expected JSON, got what is none ({error}).") from error
    if not isinstance(found, dict):
        raise ExpertFileError(f"{where}: expected a JSON object, got {type(found).__name__}.")
    return found


def local_place(source: str | os.PathLike) -> Path | None:
    """The folder or file that `source` means, which is there; None if it is the name of a Hub repository.

    Raises:
        MissingExpertError: it looks like a path (see `places.looks_like_path`) and there is nothing, or it is no name.
    """
    try:
        place = local_or_hub(os.fsdecode(source), "a Whisper or experts")
    except ValueError as error:
        raise MissingExpertError(str(error)) from error
    return Path(place) if os.path.exists(place) else None


def stored_file(source: str | os.PathLike, filename: str, **hub: Any) -> Path | None:
    """Local path of a file in a folder or Hub repository, fetched if need be; None if that has none.

    Args:
        source: what looks like a path is never asked of the Hub.
        hub: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`, ...

    Raises:
        MissingExpertError: no such folder or repository, or no way to reach it.
    """
    place = local_place(source)
    if place is not None:
        path = place / (hub.get("subfolder") or "") / filename
        return path if os.path.lexists(path) else None
    try:
        found = cached_file(source, filename, _raise_exceptions_for_missing_entries=False, **hub)
    except OSError as error:
        raise MissingExpertError(
            f"Expected a Whisper or experts in {str(source)!r}, which cannot be reached: {error}"
        ) from error
    return None if found is None else Path(found)


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> Shapes:
    """Type and shape of every tensor, by name."""
    return {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()}


def stored_shapes(opened: Any) -> Shapes:
    """Type and shape of every tensor in an open safetensors file, by name; nothing but the header is read."""
    slices = {key: opened.get_slice(key) for key in list(opened.keys())}
    return {
        key: (STORED_DTYPES.get(one.get_dtype(), one.get_dtype()), tuple(one.get_shape()))
        for key, one in slices.items()
    }


def check_shapes(
    where: str | os.PathLike,
    found: Shapes,
    wanted: Mapping[str, tuple[int, ...]],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Refuse tensors whose names and shapes are not those that are wanted, or that are not all of one type.

    Args:
        extra: what the file says that this version does not know: perhaps why it has other tensors.
    """
    missing = sorted(wanted.keys() - found.keys())
    stray = sorted(found.keys() - wanted.keys())
    unknown = f" It has fields of a newer version: {', '.join(sorted(extra))[:200]}." if extra else ""
    if missing or stray:
        raise ExpertFileError(
            f"{where}: expected {len(wanted)} tensors; missing: {missing[:3] or 'none'} ({len(missing)}), "
            f"not of an expert: {str(stray[:3] or 'none')[:300]} ({len(stray)}). The file is not an expert of this "
            f"model.{unknown}"
        )
    first = next(iter(found.values()))[0]
    for key, shape in wanted.items():
        dtype, held = found[key]
        if held != shape or dtype not in STORED_DTYPES.values():
            raise ExpertFileError(
                f"{where}: expected {key} as floating point {shape} of 16 or 32 bits, got {dtype} {held}.{unknown}"
            )
        if dtype != first:
            raise ExpertFileError(f"{where}: expected tensors of one type, got {first} and {dtype} ({key}).")


def check_finite(where: str | os.PathLike, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors with NaN or infinity in them."""
    for key, tensor in tensors.items():
        # A sum of finite numbers is finite, and quicker; one that overflows all the same is looked at closely.
        if not tensor.sum(dtype=torch.float32).isfinite() and not tensor.isfinite().all():
            raise ExpertFileError(
                f"{where}: expected finite numbers, {key} holds NaN or infinity. A training that diverged leaves such; "
                "take an earlier checkpoint, or a lower learning rate."
            )
