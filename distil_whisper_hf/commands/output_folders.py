"""A run's folder: what can be known of it before the run, and whose it is while the run lasts."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from ..data.atomic_files import UNFINISHED, remove

logger = logging.getLogger(__name__)

Content = Literal["experts", "model", "adapter"]
# What a training leaves in its folder: content -> its name in a sentence, its files.
CONTENTS: dict[str, tuple[str, str]] = {
    "experts": ("experts", "expert.*.safetensors"),
    "model": ("a whole model", "model*.safetensors"),
    "adapter": ("a LoRA adapter", "adapter_model*.safetensors"),
}

LOCK_FILE = ".lock"
# What a program that was killed leaves: files and folders that were to be renamed when they were complete. Any other
# folder in there may be that of a program that runs.
LEFTOVERS = (f"{UNFINISHED}*", f"figures/{UNFINISHED}*", ".checkpoint-*", ".expert-*")
# Files that this process has locked. A child process has them open too, and would hold the lock when this one is dead.
_HELD: set[int] = set()


def _close_held() -> None:
    for file in _HELD:
        os.close(file)
    _HELD.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_held)


@contextmanager
def locked(folder: str | os.PathLike, *, main_process: bool = True) -> Iterator[None]:
    """Keep a folder, made if needed, for this program alone, and free of what one that was killed left half-written.

    The system lets go of the lock when the program ends, however it ends. On a file system without locks there is a
    warning, and no protection.

    Args:
        folder: where the program writes.
        main_process: of several processes of one program, the one that holds the folder for all.

    Raises:
        BlockingIOError: another program holds the folder.
    """
    if not main_process:
        yield
        return
    folder = Path(folder)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    file = _take(folder / LOCK_FILE)
    _HELD.add(file)
    try:
        for path in [path for pattern in LEFTOVERS for path in folder.glob(pattern)]:
            remove(path)
        yield
    finally:
        # Windows removes no file that is open.
        with suppress(PermissionError):
            os.unlink(folder / LOCK_FILE)
        _HELD.discard(file)
        os.close(file)
        if made:
            # Nothing came of it.
            with suppress(OSError):
                folder.rmdir()


def _take(path: Path) -> int:
    """Open and lock a file."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(file, path)
            # Removed by the program that held it before? Then others lock another file of this name.
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(file)
            raise
        os.close(file)


def _lock(file: int, path: Path) -> None:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise BlockingIOError(
            f"Expected a folder that no other program writes into, {str(path.parent)!r} is in use by one. Wait for it, "
            "stop it, or set another --output_dir."
        ) from None
    except OSError as error:
        logger.warning("%s cannot be locked (%s): take care that one program alone writes there.", path.parent, error)


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
