"""Rows of clips as a batch, and the batch as the trainers take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.labels import LabelBuilder
from .losses import IGNORED

_FEATURES = ("input_features", "teacher_input_features")


class SpeechCollator:
    """Stack features and labels, each row with the prompt of its own language.

    Args:
        labels: makes the labels of rows that bring their text instead.
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
                front; -100 after the end, and where earlier text stands.
            decoder_input_ids: int64 `(batch, tokens)`, what the decoder is given: earlier text, the start token and
                the labels; -100 after the end. Left out when no row has earlier text: the shifted labels then.
            num_frames: int64 `(batch,)`, encoder frames before the padding (see `losses.mask_from_lengths`).
            expert: names, None for a row routed by its language token; left out when no row has one.
            anchors: bool `(batch,)`, rows that only hold their expert to Whisper; left out when there are none.
            windows: digests of the audio; left out when no row has one.
        """
        batch: dict[str, Any] = {
            name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in _FEATURES if name in rows[0]
        }
        labels = [self._labels(row) for row in rows]
        previous = [row.get("previous", ()) for row in rows]
        batch["labels"] = _stacked(
            [[IGNORED] * len(before) + [*ids] for before, ids in zip(previous, labels, strict=True)]
        )
        if any(previous):
            batch["decoder_input_ids"] = _stacked(
                [[*before, self.labels.start, *ids[:-1]] for before, ids in zip(previous, labels, strict=True)]
            )
        batch["num_frames"] = torch.tensor([row["num_frames"] for row in rows], dtype=torch.int64)
        experts = [row.get("expert") for row in rows]
        if any(experts):
            batch["expert"] = experts
        anchors = [row.get("anchor", False) for row in rows]
        if any(anchors):
            batch["anchors"] = torch.tensor(anchors)
        windows = [row.get("window") for row in rows]
        if any(windows):
            batch["windows"] = windows
        return batch

    def _labels(self, row: Mapping[str, Any]) -> Sequence[int]:
        return row["labels"] if "labels" in row else self.labels(row["text"], language=row["language"])


def _stacked(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of ids as `(rows, longest)`, -100 after the end."""
    stacked = torch.full((len(rows), max(map(len, rows))), IGNORED, dtype=torch.int64)
    for row, ids in zip(stacked, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return stacked


@dataclass(frozen=True)
class SpeechBatch:
    """A collated batch with what the losses ask about its rows.

    Attributes:
        labels: `(batch, tokens)`, -100 where there is no target.
        prompt: `(batch, tokens)`, what the decoder is given: earlier text, if any, and the labels shifted to the right.
        model_inputs: everything else that the model itself takes: `input_features` `(batch, mel bins, frames)`.
        num_frames: `(batch,)`, encoder frames before the padding.
        teacher_input_features: as the teacher hears them, where it hears otherwise.
        expert_names: an expert chosen by name for each row, or None; empty where no row has one.
        windows: digest of the audio of each row, or None; empty where no row has one.
        anchors: `(batch,)`, true for rows that only hold their expert to Whisper; None where no row does.
        expert_ids: `(batch,)`, the expert of each row, -1 for the shared path; None for a model without experts.
    """

    labels: Tensor
    prompt: Tensor
    model_inputs: dict[str, Any]
    num_frames: Tensor | None = None
    teacher_input_features: Tensor | None = None
    expert_names: Sequence[str | None] = field(default=())
    windows: Sequence[str | None] = field(default=())
    anchors: Tensor | None = None
    expert_ids: Tensor | None = None

    @property
    def taught(self) -> SpeechBatch:
        """The batch without the targets of anchors."""
        if self.anchors is None:
            return self
        return replace(self, labels=self.labels.masked_fill(self.anchors.unsqueeze(1), IGNORED))

    @property
    def target_mask(self) -> Tensor:
        """`(batch, tokens)`, true where there is a target."""
        return self.labels != IGNORED
