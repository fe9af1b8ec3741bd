"""Files that are there whole or not at all: written beside, then renamed into place."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

# How a file is called while it is written. A program that is killed leaves it, and the next one removes it.
UNFINISHED = ".part-"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, of the same ending; renamed into place when the block ends without an error.

    Raises:
        UnwritableError: the file that was there is as it was.
    """
    with explained(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED, suffix=f"-{path.name}")
        try:
            # mkstemp makes files for their owner alone; what is written here is as readable as any other file.
            os.chmod(handle, 0o666 & ~_umask())
            os.close(handle)
            yield Path(name)
            flush(Path(name))
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


class UnwritableError(OSError):
    """A file that could not be written; the message says which and why, and that nothing was lost."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raises what the system or a library says of a file that cannot be written as `UnwritableError`."""
    try:
        yield
    except UnwritableError:
        raise
    except (OSError, SafetensorError) as error:
        number, said = (error.errno, error.strerror) if isinstance(error, OSError) else (None, None)
        reason = (said or str(error)).strip().splitlines()[0].rstrip(".")
        raise UnwritableError(
            number,
            f"Cannot write {str(path)!r}: {reason}. What was there stays: make room, or choose another folder.",
        ) from error


def flush(path: Path) -> None:
    """Let a file reach the disk before it is relied on."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file; one that is there stays until the new one is complete."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines to a UTF-8 file and let them reach the disk: all of them or, where that fails, none.

    Raises:
        UnwritableError: the file is as it was.
    """
    rest = memoryview("".join(f"{line}\n" for line in lines).encode())
    # Unbuffered: what could not be written must not be tried again when the file is closed.
    with explained(path), path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def write_json(path: Path, content: object) -> None:
    """Write a JSON file."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def write_json_lines(path: Path, rows: Iterable[object]) -> None:
    """Write a file with one JSON value a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def remove(path: Path) -> None:
    """Remove a file or a folder; a folder of which a part is gone is never left under its name."""
    if path.is_dir() and not path.is_symlink():
        doomed = path if path.name.startswith(UNFINISHED) else path.with_name(f"{UNFINISHED}{path.name}")
        os.replace(path, doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
