"""In which order rows come, and which process reads which: what the trainers add to Trainer's loaders and samplers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from .arguments import SpeechTrainingArguments
from .datasets import StreamingSpeechDataset


def stream_loader(
    rows: StreamingSpeechDataset, args: SpeechTrainingArguments, *, batch_size: int, collator: Callable[..., Any]
) -> DataLoader:
    """Batches of a stream, of which each process reads its own part.

    Left to itself, accelerate lets the first process decode for all, or every process read all and drop most of it.

    Args:
        rows: the whole stream; its parts need not be of one length where it is endless.
        args: how many workers, and the like.
        batch_size: rows in a batch of one process.
        collator: rows -> a batch.
    """
    loader = DataLoader(
        rows.for_process(args.process_index, args.world_size),
        batch_size=batch_size,
        collate_fn=collator,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers,
        multiprocessing_context=args.dataloader_multiprocessing_context,
        prefetch_factor=args.dataloader_prefetch_factor,
    )
    # As if there were one process: the stream is divided already.
    return prepare_data_loader(
        loader, args.device, num_processes=1, process_index=0, put_on_device=True, dispatch_batches=False
    )


class SeededByEpoch(Sampler):
    """A sampler in an order of each epoch's own, which a run that was resumed in that epoch finds again."""

    def __init__(self, sampler: LengthGroupedSampler, args: SpeechTrainingArguments) -> None:
        self.sampler = sampler
        self.seed = args.seed if args.data_seed is None else args.data_seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        self.sampler.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(self.sampler)
