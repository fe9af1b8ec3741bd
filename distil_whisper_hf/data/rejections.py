"""What is left out of a data set, where it stands and why: rows of tables, and the clips that they describe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Reason = Literal[
    "bad_row",
    "bad_segment",
    "unknown_split",
    "unknown_language",
    "empty_text",
    "too_many_tokens",
    "missing",
    "unreadable",
    "empty_audio",
    "too_long",
]
REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True)
class Rejection:
    """A clip that is left out.

    Attributes:
        id: of the clip; of a row that names none, empty.
        reason: one of `REASONS`.
        detail: the number or the error behind it.
        table: name of the table that it is from, empty where that is not known.
        row: its row there, from 1 below the header, empty lines not counted.
    """

    id: str
    reason: Reason
    detail: str
    table: str = ""
    row: int | None = None

    @property
    def place(self) -> str:
        """Where to look for it: "row 4 of train.tsv", or its id."""
        return self.id if self.row is None else f"row {self.row} of {self.table}"


class BadRow(ValueError):
    """A row that describes no clip; the message says why."""

    def __init__(self, message: str, reason: Reason = "bad_row") -> None:
        super().__init__(message)
        self.reason = reason


# What a reader does with a row that it cannot use.
Reject: TypeAlias = Callable[[Rejection], None]


def refuse(rejection: Rejection) -> None:
    """Take no table with a bad row: `ValueError`."""
    place = rejection.place
    raise ValueError(f"{place[:1].upper()}{place[1:]}: {rejection.detail}. Mend or remove it.")
