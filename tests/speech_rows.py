"""Rows as `SpeechDataset` gives them, with random features: the trainers' tests need no audio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from models import FRAMES
from torch.utils.data import Dataset

TEXTS = ("bon dia", "ok", "una frase una mica més llarga", "dos", "tres i quatre")


class Rows(Dataset):
    """`count` rows; languages are dealt out in turn, texts and lengths differ."""

    def __init__(
        self,
        count: int,
        languages: Sequence[str] = ("ca",),
        *,
        expert: str | None = None,
        teacher_bins: int | None = None,
    ) -> None:
        generator = np.random.default_rng(0)
        self.rows: list[dict[str, Any]] = []
        for index in range(count):
            row = {
                "input_features": generator.normal(size=(80, FRAMES)).astype(np.float32),
                "num_frames": 5 + index % (FRAMES // 2 - 5),
                "text": TEXTS[index % len(TEXTS)],
                "language": languages[index % len(languages)],
                "expert": expert,
            }
            if teacher_bins is not None:
                row["teacher_input_features"] = generator.normal(size=(teacher_bins, FRAMES)).astype(np.float32)
            self.rows.append(row)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]
