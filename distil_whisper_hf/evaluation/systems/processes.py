"""Several processes of one program: each transcribes its share of the batches, and the first one writes.

A trainer that runs in several processes has connected them; `connected` does it for a program of its own, as
`torchrun --nproc_per_node 2 -m distil_whisper_hf.cli evaluate ...` starts it. A single process is process 0 of 1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from torch import distributed

_Item = TypeVar("_Item")
# The fastest process waits for the slowest; one that has died is noticed by what started them.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """This process among those of its program.

    Attributes:
        index: from 0.
        count: at least 1.
    """

    index: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.index == 0

    def share(self, items: Sequence[_Item]) -> list[_Item]:
        """What this process does of a list that all have alike: every `count`-th item, so that of items in the order of
        their size all get large and small ones."""
        return list(items[self.index :: self.count])

    def gather(self, value: Any) -> list[Any]:
        """What every process gives, in their order, on all of them; each waits for the others."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Until every process is here."""
        self.gather(None)

    def device(self, name: str) -> str:
        """The device of this process: of several GPUs of a machine ("cuda") its own."""
        return f"cuda:{os.environ.get('LOCAL_RANK', self.index)}" if name == "cuda" and self.count > 1 else name


ALONE = Processes()


def running() -> Processes:
    """The processes that are connected; one where none are."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return ALONE
    return Processes(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def connected() -> Iterator[Processes]:
    """Connect the processes that torchrun started, for as long as the block lasts.

    They exchange texts and no tensors, so that no GPU is needed for it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield running()
        return
    distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield running()
    finally:
        distributed.destroy_process_group()
