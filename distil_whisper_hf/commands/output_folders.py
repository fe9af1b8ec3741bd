"""What can be known of a run's folder before the run: said at the start, not after hours."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

Content = Literal["experts", "model", "adapter"]
# What a training leaves in its folder: content -> its name in a sentence, its files.
CONTENTS: dict[str, tuple[str, str]] = {
    "experts": ("experts", "expert.*.safetensors"),
    "model": ("a whole model", "model*.safetensors"),
    "adapter": ("a LoRA adapter", "adapter_model*.safetensors"),
}


def check_output_dir(folder: str | os.PathLike, *, writes: Content | None = None, new: bool = False) -> None:
    """Refuse a folder that a run cannot use.

    Args:
        folder: where the run will write; made later if needed.
        writes: what a training will leave there. A folder with anything else of `CONTENTS` is refused: opened later, it
            would be one or the other.
        new: nothing may be there yet.

    Raises:
        FileExistsError: something is there that `new` forbids.
        ValueError: a file, or the content of another kind of run.
        PermissionError: a folder in which one may not write.
    """
    folder = Path(folder)
    if new and folder.exists():
        raise FileExistsError(f"Expected a folder to make, {str(folder)!r} is there already. Move it away first.")
    above = _nearest(folder)
    if not above.is_dir():
        raise ValueError(f"Expected a folder in --output_dir {str(folder)!r}, {str(above)!r} is a file.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(
            f"Expected to write in {str(above)!r}, which this user may not: set another --output_dir."
        )
    if writes is None or not folder.is_dir():
        return
    for content, (words, pattern) in CONTENTS.items():
        found = sorted(path.name for path in folder.glob(pattern))
        if content != writes and found:
            raise ValueError(
                f"Expected a folder for {CONTENTS[writes][0]} in --output_dir, {str(folder)!r} holds {words} "
                f"({found[0]}): set another one."
            )


def check_disk_space(folder: str | os.PathLike, bytes_needed: int, what: str) -> None:
    """Refuse a disk on which something will not fit.

    Args:
        folder: where it will be; it need not exist yet.
        bytes_needed: its size.
        what: said in the error, such as "checkpoints".

    Raises:
        ValueError: less is free.
    """
    free = shutil.disk_usage(_nearest(Path(folder))).free
    if free < bytes_needed:
        raise ValueError(
            f"Expected {bytes_needed / 1e9:.2f} GB free for {what} in {str(folder)!r}, there are {free / 1e9:.2f} GB."
        )


def _nearest(path: Path) -> Path:
    """The path itself, or the nearest one above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
