"""What is left out of a data set, where it stands and why: rows of tables, and the clips that they describe; and what
is worth knowing of clips that are used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Reason = Literal[
    "bad_row",
    "bad_segment",
    "unknown_split",
    "unknown_language",
    "empty_text",
    "special_token",
    "damaged_text",
    "too_many_tokens",
    "missing",
    "unreadable",
    "empty_audio",
    "too_long",
]
REASONS: tuple[Reason, ...] = get_args(Reason)
NoteKind = Literal["same_audio_other_text", "html_entities", "other_unicode_form", "invisible_characters"]
_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """Something about a clip.

    Attributes:
        id: of the clip; of a row that names none, empty.
        reason: one of a few.
        detail: the number, the text or the error behind it.
        table: name of the table that it is from, empty where that is not known.
        row: its row there, from 1 below the header, empty lines not counted.
    """

    id: str
    reason: str
    detail: str
    table: str = ""
    row: int | None = None

    @property
    def place(self) -> str:
        """Where to look for it: "row 4 of train.tsv", or its id."""
        return self.id if self.row is None else f"row {self.row} of {self.table}"


@dataclass(frozen=True)
class Rejection(Finding):
    """A clip that is left out, for one of `REASONS`."""

    reason: Reason


@dataclass(frozen=True)
class Note(Finding):
    """Something that the user should know of a clip that is used."""

    reason: NoteKind


def notices(notes: Iterable[Note]) -> list[str]:
    """A line for each kind of note: how many, and the first of them."""
    kinds: dict[NoteKind, list[Note]] = defaultdict(list)
    for note in notes:
        kinds[note.reason].append(note)
    lines = []
    for kind, found in kinds.items():
        shown = "; ".join(f"{note.place}: {note.detail}" for note in found[:_SHOWN])
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        lines.append(f"{len(found)} {kind}: {shown}{more}")
    return lines


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
