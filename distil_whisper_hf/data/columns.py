"""Which column of a table holds what: found by its usual names, or named by the caller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from ..languages import language_tag
from .audio import AudioSource
from .clips import Clip, gender_name

_USUAL_NAMES = {
    "audio": ("file_name", "audio", "path", "audio_filepath", "audio_path"),
    "text": ("text", "sentence", "transcription", "transcript"),
    "language": ("language", "locale", "lang"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "gender": ("gender", "sex"),
    "age": ("age",),
    "expert": ("expert",),
    "up_votes": ("up_votes",),
    "down_votes": ("down_votes",),
}


@dataclass(frozen=True)
class Columns:
    """Names of the columns; None takes the usual name that the table has, such as `sentence` for `text`."""

    audio: str | None = None
    text: str | None = None
    language: str | None = None
    speaker: str | None = None
    gender: str | None = None
    age: str | None = None
    expert: str | None = None
    up_votes: str | None = None
    down_votes: str | None = None

    def find(self, header: Iterable[str], *, where: str) -> Columns:
        """The same with every name looked up; None for what the table lacks.

        Args:
            header: names of the table's columns.
            where: name of the table, for errors.

        Raises:
            ValueError: a named column that is not there, no audio or text column, or two usual names at once.
        """
        header = list(header)
        found = {field: _find(field, name, header, where) for field, name in asdict(self).items()}
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
        """Whether the row has the values of `where`, compared as strings."""
        return all(_string(row.get(column)) == value for column, value in self.where.items())

    def clip(self, row: Mapping[str, Any], *, clip_id: str, audio: AudioSource) -> Clip:
        """The clip that a row describes.

        Raises:
            ValueError: no language, neither in the row nor for all rows, or votes that are not whole numbers.
        """
        value = {field: _string(row.get(name)) for field, name in vars(self.columns).items() if name is not None}
        language = self.language or value.get("language")
        if not language:
            raise ValueError(f"{clip_id} in {self.table} has no language: fill it in, or say the language of all rows.")
        return Clip(
            id=clip_id,
            audio=audio,
            text=value["text"],
            language=language_tag(language),
            speaker=value.get("speaker", ""),
            gender=gender_name(value.get("gender", "")),
            age=value.get("age", ""),
            expert=self.expert or value.get("expert") or None,
            up_votes=_votes(value.get("up_votes"), clip_id),
            down_votes=_votes(value.get("down_votes"), clip_id),
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


def _find(field: str, name: str | None, header: list[str], where: str) -> str | None:
    if name is not None:
        if name not in header:
            raise ValueError(f"{where} has no column {name!r} for {field}; it has {', '.join(header)}.")
        return name
    present = [usual for usual in _USUAL_NAMES[field] if usual in header]
    if len(present) > 1:
        raise ValueError(f"{where} has {len(present)} columns for {field}: {', '.join(present)}. Name the one to use.")
    return present[0] if present else None


def _string(value: object) -> str:
    return "" if value is None else str(value)


def _votes(value: str | None, clip_id: str) -> int | None:
    if not value:
        return None
    if not value.isdecimal():
        raise ValueError(f"{clip_id} has {value!r} votes: expected a whole number.")
    return int(value)
