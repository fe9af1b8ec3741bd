"""Which column of a table holds what: found by its usual names, or named by the caller."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from ..languages import language_tag
from ..segments import DURATION_NAMES, END_NAMES, START_NAMES, segment
from .audio import AudioSource
from .clips import Clip, gender_name
from .rejections import BadRow

_USUAL_NAMES = {
    "audio": ("file_name", "audio", "path", "audio_filepath", "audio_path", "audio_file"),
    "text": ("text", "sentence", "transcription", "transcript"),
    "language": ("language", "locale", "lang"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "gender": ("gender", "sex"),
    "age": ("age",),
    "expert": ("expert",),
    "split": ("split",),
    "up_votes": ("up_votes",),
    "down_votes": ("down_votes",),
    "start": START_NAMES,
    "end": END_NAMES,
    "duration": DURATION_NAMES,
}
# Columns that are read otherwise than as words.
_NO_WORDS = ("audio", "start", "end", "duration", "up_votes", "down_votes")
_SAME_WORDS = {"true": "1", "yes": "1", "false": "0", "no": "0", "none": "", "null": ""}
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+")


@dataclass(frozen=True)
class Columns:
    """Names of the columns; None takes the usual name that the table has, such as `sentence` for `text`.

    A row with a `start` is a segment of its file, up to its `end`, for its `duration` (all in s), or to the file's end.
    Without a column of starts the other two say nothing about what is heard.
    """

    audio: str | None = None
    text: str | None = None
    language: str | None = None
    speaker: str | None = None
    gender: str | None = None
    age: str | None = None
    expert: str | None = None
    split: str | None = None
    up_votes: str | None = None
    down_votes: str | None = None
    start: str | None = None
    end: str | None = None
    duration: str | None = None

    def find(self, header: Iterable[str], *, where: str) -> Columns:
        """The same with every name looked up; None for what the table lacks.

        Args:
            header: names of the table's columns.
            where: name of the table, for errors.

        Raises:
            ValueError: a named column that is not there, no audio or text column, or two usual names at once.
        """
        header = list(header)
        found: dict[str, str | None] = {}
        for field, name in asdict(self).items():
            within = field in ("end", "duration")
            found[field] = None if within and found["start"] is None else _find(field, name, header, where)
        for field in ("audio", "text"):
            if found[field] is None:
                raise ValueError(
                    f"{where} has no {field} column: expected one of {', '.join(_USUAL_NAMES[field])}, got "
                    f"{', '.join(header)}. Name the column."
                )
        return Columns(**found)


@dataclass(frozen=True)
class RowReader:
    """Turn the rows of one table into clips; made by `row_reader`.

    Attributes:
        columns: names as found in the table.
        language: of all rows, whatever the table says; None reads the column.
        expert: of all rows, likewise.
        where: column to value; rows that differ are left out.
        table: name of the table, for errors.
    """

    columns: Columns
    language: str | None
    expert: str | None
    where: Mapping[str, str]
    table: str

    @property
    def audio_column(self) -> str:
        """Name of the audio column, without which `Columns.find` lets no table pass."""
        return cast(str, self.columns.audio)

    def wants(self, row: Mapping[str, Any]) -> bool:
        """Whether the row has the values of `where` (see `plain_value`)."""
        return all(plain_value(row.get(column)) == plain_value(value) for column, value in self.where.items())

    def audio_name(self, row: Mapping[str, Any]) -> str:
        """The file that a row names, by itself or as `{"path": ...}`.

        Raises:
            BadRow: none, or what cannot be a file's name.
        """
        value = row.get(self.audio_column)
        name = _string(value.get("path") if isinstance(value, Mapping) else value, self.audio_column).strip()
        if not name or "\0" in name:
            raise BadRow(f"{self.audio_column} names no audio file, got {value!r}")
        return name

    def segment(self, row: Mapping[str, Any]) -> tuple[float, float | None] | None:
        """Start and length in s of the stretch that a row describes, None for the whole file (see `segments.segment`).

        Raises:
            BadRow: a stretch that cannot be.
        """
        names = {field: getattr(self.columns, field) for field in ("start", "end", "duration")}
        try:
            return segment(**{field: None if name is None else row.get(name) for field, name in names.items()})
        except ValueError as error:
            raise BadRow(str(error), "bad_segment") from error

    def clip(self, row: Mapping[str, Any], *, clip_id: str, audio: AudioSource, number: int | None = None) -> Clip:
        """The clip that a row describes.

        Args:
            row: column to value.
            clip_id: its id.
            audio: what is heard.
            number: of the row, from 1.

        Raises:
            BadRow: no language, neither in the row nor for all rows; votes that are not whole numbers; a list or an
                object in place of a word.
        """
        value = {
            field: _string(row.get(name), name)
            for field, name in vars(self.columns).items()
            if name is not None and field not in _NO_WORDS
        }
        language = self.language or value.get("language", "").strip()
        if not language:
            raise BadRow("it has no language: fill it in, or say the language of all rows (--language)")
        return Clip(
            id=clip_id,
            audio=audio,
            text=value["text"],
            language=language_tag(language),
            speaker=value.get("speaker", ""),
            gender=gender_name(value.get("gender", "")),
            age=value.get("age", ""),
            expert=self.expert or value.get("expert", "").strip() or None,
            up_votes=_votes(row, self.columns.up_votes),
            down_votes=_votes(row, self.columns.down_votes),
            split=value.get("split", ""),
            table=self.table,
            row=number,
        )


def row_reader(
    header: Iterable[str],
    *,
    columns: Columns | None,
    language: str | None,
    expert: str | None,
    where: Mapping[str, str] | None,
    table: str,
) -> RowReader:
    """A reader for a table with these columns.

    Raises:
        ValueError: a column that the table lacks or names twice, or no language for its rows.
    """
    header = list(header)
    found = (columns or Columns()).find(header, where=table)
    where = dict(where or {})
    for column in where:
        if column not in header:
            raise ValueError(f"{table} has no column {column!r} to choose rows by; it has {', '.join(header)}.")
    if language is None and found.language is None:
        raise ValueError(
            f"{table} has no language column ({', '.join(header)}): name it, or say the language of all rows."
        )
    return RowReader(found, language, expert, where, table)


def plain_value(value: object) -> str:
    """One spelling of what a person takes for the same, whatever the format of the table.

    true, TRUE, yes, 1 and 1.0 are one value, and so are false, no and 0; 2.50 and 2.5; null, none and what is not
    there. All other words are compared as they are written, "007" and "7" too.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    word = str(value).strip()
    if _DECIMAL.fullmatch(word):
        word = word.rstrip("0").rstrip(".")
    return _SAME_WORDS.get(word.lower(), word)


def _find(field: str, name: str | None, header: list[str], where: str) -> str | None:
    if name is not None:
        if name not in header:
            raise ValueError(f"{where} has no column {name!r} for {field}; it has {', '.join(header)}.")
        return name
    present = [column for column in header if column.lower() in _USUAL_NAMES[field]]
    if len(present) > 1:
        raise ValueError(
            f"{where} has {len(present)} columns for {field}: {', '.join(present)}. Name the one to use, or rename "
            "the others."
        )
    return present[0] if present else None


def _string(value: object, column: str) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, Mapping | list):
        raise BadRow(f"expected a word or a number as {column}, got {value!r:.80}")
    try:
        str(value).encode()
    except UnicodeEncodeError as error:
        raise BadRow(f"{column} holds half a character: {value!r:.80}") from error
    return str(value)


def _votes(row: Mapping[str, Any], column: str | None) -> int | None:
    value = None if column is None else row.get(column)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    word = _string(value, "votes").strip()
    if word and not word.isdecimal():
        raise BadRow(f"{column} has {value!r} votes, expected a whole number")
    return int(word) if word else None
