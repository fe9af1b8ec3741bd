"""Which checkpoints are kept, and that one of which a part is gone is never left under its name."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from distil_whisper_hf.data.atomic_files import UnwritableError
from distil_whisper_hf.training.resuming import checkpoints, disk_faults, rotate


@pytest.fixture
def folder(tmp_path) -> Path:
    for step in (2, 4, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").write_text(str(step))
        os.utime(tmp_path / f"checkpoint-{step}", ns=(0, step))
    return tmp_path


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [
        (None, None, [10, 4, 2]),
        (0, None, [10, 4, 2]),
        (5, None, [10, 4, 2]),
        (2, None, [10, 4]),
        (1, None, [10]),
        (2, 2, [10, 2]),
        (1, 4, [10, 4]),
        (1, 10, [10]),
    ],
)
def test_the_newest_and_the_best_are_kept(folder, limit, best, left):
    """Silent: the checkpoint that a run goes on from, or ends with, removed for being old."""
    best = None if best is None else f"elsewhere/checkpoint-{best}"
    rotate(folder, limit, best=best)
    assert [path.name for path in checkpoints(folder)] == [f"checkpoint-{step}" for step in left]
    # At the end of a run that keeps one, the best is that one.
    rotate(folder, limit, best=best, over=True)
    assert [path.name for path in checkpoints(folder)] == [
        f"checkpoint-{step}" for step in (left[-1:] if limit == 1 else left)
    ]


def test_a_checkpoint_goes_whole(folder, monkeypatch):
    """Silent: half a checkpoint, left by a kill, that a run goes on from or stops at."""

    def killed(path):
        (Path(path) / "optimizer.pt").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        rotate(folder, 1, best=None)
    assert [path.name for path in checkpoints(folder)] == ["checkpoint-10", "checkpoint-4"]
    assert all((path / "optimizer.pt").exists() for path in checkpoints(folder))


def test_a_full_disk_is_one_kind_of_error_and_others_are_themselves(tmp_path):
    """Silent: a device that ran out of memory said to be a disk that is full, or torch's own words for the disk."""
    with pytest.raises(UnwritableError, match="make room"), disk_faults(tmp_path):
        torch.save({"a": torch.zeros(10_000)}, "/dev/full")
    for error in (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("shapes do not fit"), KeyError("a")):
        with pytest.raises(type(error)) as raised, disk_faults(tmp_path):
            raise error
        assert raised.value is error
