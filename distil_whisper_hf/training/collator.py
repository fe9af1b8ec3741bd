"""Rows of clips as a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..data.labels import LabelBuilder
from .losses import IGNORED

_FEATURES = ("input_features", "teacher_input_features")


class SpeechCollator:
    """Stack features and build labels, each row with the prompt of its own language.

    Args:
        labels: makes the labels of a row.
    """

    def __init__(self, labels: LabelBuilder) -> None:
        self.labels = labels

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch.

        Args:
            rows: as `SpeechDataset` gives them.

        Returns:
            input_features: float32 `(batch, mel bins, 3000)`; teacher_input_features likewise, if the rows have them.
            labels: int64 `(batch, tokens)`, the start token left out because Whisper's shift to the right puts it in
                front; -100 after the end.
            num_frames: int64 `(batch,)`, encoder frames before the padding (see `losses.mask_from_lengths`).
            expert: names, None for a row routed by its language token; left out when no row has one.
        """
        batch: dict[str, Any] = {
            name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in _FEATURES if name in rows[0]
        }
        labels = [self.labels(row["text"], language=row["language"]) for row in rows]
        batch["labels"] = torch.full((len(rows), max(map(len, labels))), IGNORED, dtype=torch.int64)
        for row, ids in zip(batch["labels"], labels, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        batch["num_frames"] = torch.tensor([row["num_frames"] for row in rows], dtype=torch.int64)
        experts = [row.get("expert") for row in rows]
        if any(experts):
            batch["expert"] = experts
        return batch
