"""Which checkpoint a run goes on from: one that is whole, and its own.

The last file that goes into a checkpoint is `checkpoint.json`: the run that it belongs to, its seconds so far, and size
and SHA-256 of every other file. Since a checkpoint appears under its name when it is complete, one that does not agree
with that file was damaged later.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.atomic_files import explained, flush, remove, write_json

logger = logging.getLogger(__name__)

MANIFEST = "checkpoint.json"
# What torch.save says of a file that it cannot write has one of these in it.
_WRITER = ("inline_container", "PytorchStreamWriter")
# Without any of these a run would go on, and end with other weights.
_STATES = ("optimizer", "scheduler", "rng_state", "epoch_rng_state")


class CheckpointError(ValueError):
    """A checkpoint that no run can go on from."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose files are not those that were written."""


def file_digests(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of files, by their names."""
    found = {}
    for name in names:
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[name] = {"bytes": file.tell(), "sha256": digest}
    return found


def seal(folder: Path, *, run_id: str | None, seconds: float) -> None:
    """Write the manifest of a complete checkpoint, when all else has reached the disk."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in names:
        flush(folder / name)
    write_json(folder / MANIFEST, {"run": run_id, "seconds": seconds, "files": file_digests(folder, names)})


@contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """One kind of error for what torch and the others say of a disk that is full; any other error is left as it is."""
    with explained(path):
        try:
            yield
        except RuntimeError as error:
            if not any(sign in str(error) for sign in _WRITER):
                raise
            raise OSError(None, str(error)) from error


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder, the last step first."""
    name = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-\d+")
    found = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir() and name.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def rotate(folder: Path, limit: int | None, *, best: str | None, over: bool = False) -> None:
    """Remove the oldest checkpoints until `limit` are left, each as a whole; None or 0 keeps all.

    As the Trainer does it: the best one stays, and the newest, but at the end of a run (`over`) that keeps one alone.
    """
    found = sorted(reversed(checkpoints(folder)), key=lambda path: path.stat().st_mtime_ns)
    kept = {Path(best).name} if best is not None else set()
    if not (over and kept and limit == 1):
        kept |= {path.name for path in found[-1:]}
    others = [path for path in found if path.name not in kept]
    excess = max(0, len(found) - max(limit, len(kept))) if limit else 0
    for path in others[:excess]:
        remove(path)


def check_checkpoint(folder: Path, *, processes: int = 1) -> dict[str, Any]:
    """Check that a checkpoint is as it was written, with all that a run needs to go on; returns its manifest.

    Args:
        folder: the checkpoint.
        processes: how many train: each has its own random numbers.

    Raises:
        CheckpointError: without the state of the optimiser, the schedule or the random numbers.
        DamagedCheckpointError: any other file is missing, or one is not as it was written.
    """
    manifest = _check_files(folder)
    random = [f"rng_state_{number}.pth" for number in range(processes)] if processes > 1 else ["rng_state.pth"]
    unsaved = [name for name in random if name not in manifest["files"]]
    if unsaved:
        raise CheckpointError(
            f"Expected {unsaved[0]} in {str(folder)!r}, which was saved without it: go on with as many processes as "
            "before, and save without --save_only_model."
        )
    best = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["best_model_checkpoint"]
    if best is not None and Path(best).name != folder.name:
        if not Path(best).is_dir():
            raise CheckpointError(
                f"Expected the best checkpoint so far in {best!r}, where it was written down, found none: the run's "
                "folder has been moved, or was started from another one. Put it back to go on."
            )
        _check_files(Path(best))
    return manifest


def _check_files(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        written = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(f"{folder.name} has no {MANIFEST} that can be read") from error
    for name in written:
        if not (folder / name).is_file():
            if name.startswith(_STATES):
                raise CheckpointError(
                    f"Expected {name} in {str(folder)!r}, found none: without it a run would end with other weights. "
                    "Remove that folder to go on from the checkpoint before it."
                )
            raise DamagedCheckpointError(f"{folder.name} lacks {name}")
    for name, found in file_digests(folder, written).items():
        if found != written[name]:
            raise DamagedCheckpointError(f"{folder.name} has another {name} than was written")
    return manifest


def last_checkpoint(folder: Path, run_id: str | None, *, processes: int = 1) -> Path | None:
    """The last whole checkpoint of a run; None where there is no checkpoint at all.

    Damaged ones and those of other runs are passed over with a warning.

    Raises:
        CheckpointError: one without a state (see `check_checkpoint`), or none that can be used.
    """
    refused = []
    for path in checkpoints(folder):
        try:
            if check_checkpoint(path, processes=processes)["run"] == run_id:
                return path
            refused.append(f"{path.name} is of another run")
        except DamagedCheckpointError as error:
            refused.append(str(error))
        logger.warning("Passed over a checkpoint in %s: %s.", folder, refused[-1])
    if refused:
        raise CheckpointError(
            f"Expected a whole checkpoint of this run in {str(folder)!r}, found none: {'; '.join(refused)}. Start anew."
        )
    return None
