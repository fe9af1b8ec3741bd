"""Speech on a local disk as clips: CSV, TSV and JSONL manifests, audio folders, Common Voice dumps.

Tables are read as strings, and no audio is opened: see `screening` for what is wrong with which clip.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .clips import Clip
from .columns import Columns, row_reader

METADATA_FILES = ("metadata.csv", "metadata.jsonl")
MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl")


def read_manifest(
    path: str | Path,
    *,
    language: str | None = None,
    expert: str | None = None,
    columns: Columns | None = None,
    where: Mapping[str, str] | None = None,
    audio_root: str | Path | None = None,
) -> list[Clip]:
    """Read a table with one clip in each row.

    `.csv` has the usual quoting. `.tsv` has none, as in Common Voice: a quote is a part of the text. `.jsonl` is one
    object in each line.

    Args:
        path: the table, UTF-8, with a header.
        language: of all rows, whatever the table says; None reads the language column.
        expert: of all rows, likewise.
        columns: names of the columns that do not have a usual name.
        where: column to value, e.g. `{"split": "train"}`; rows that differ are left out.
        audio_root: folder that the audio paths start from; None is the folder of the table.

    Returns:
        Clips in the order of the table, none for a table without rows; the id of each is its audio path as written
        there.

    Raises:
        ValueError: another kind of file, columns that are missing or ambiguous, or a row of another width.
    """
    path = Path(path)
    rows = list(_rows(path))
    if not rows:
        return []
    header = dict.fromkeys(name for row in rows for name in row)
    reader = row_reader(header, columns=columns, language=language, expert=expert, where=where, table=path.name)
    root = path.parent if audio_root is None else Path(audio_root)
    clips = []
    for number, row in enumerate(rows, start=1):
        if reader.wants(row):
            name = row.get(reader.audio_column)
            if not name:
                raise ValueError(f"Row {number} of {path.name} names no audio file. Fill in or remove it.")
            clips.append(reader.clip(row, clip_id=name, audio=str(root / name)))
    return clips


def read_folder(
    folder: str | Path,
    *,
    language: str | None = None,
    expert: str | None = None,
    columns: Columns | None = None,
    where: Mapping[str, str] | None = None,
) -> list[Clip]:
    """Read an audio folder: audio files, at any depth, beside a `metadata.csv` or `metadata.jsonl`.

    Args are those of `read_manifest`.

    Raises:
        ValueError: no metadata file, or both.
    """
    present = [name for name in METADATA_FILES if (Path(folder) / name).is_file()]
    if len(present) != 1:
        raise ValueError(
            f"Expected one of {' or '.join(METADATA_FILES)} in {folder}, got {' and '.join(present) or 'none'}. A "
            "folder for each split (train, test) is read one at a time."
        )
    table = Path(folder) / present[0]
    return read_manifest(table, language=language, expert=expert, columns=columns, where=where)


def read_common_voice(
    folder: str | Path,
    *,
    split: str,
    language: str | None = None,
    expert: str | None = None,
    where: Mapping[str, str] | None = None,
) -> list[Clip]:
    """Read one table of a Common Voice dump.

    Args:
        folder: the folder of one locale, with `train.tsv`, `dev.tsv`, `test.tsv` and `clips`.
        split: name of the table without `.tsv`, such as "train".
        language: None reads the locale; name another language for one that Whisper has no token for.
        expert: name of the expert to train, where the language token does not say it.
        where: column to value; rows that differ are left out.

    Raises:
        ValueError: no such table.
    """
    table = Path(folder) / f"{split}.tsv"
    if not table.is_file():
        present = sorted(path.stem for path in Path(folder).glob("*.tsv"))
        raise ValueError(f"{folder} has no {split}.tsv; it has {', '.join(present) or 'no table at all'}.")
    columns = Columns(audio="path", text="sentence")
    clips = Path(folder) / "clips"
    return read_manifest(table, language=language, expert=expert, columns=columns, where=where, audio_root=clips)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    readers = {".csv": _csv_rows, ".tsv": _tsv_rows, ".jsonl": _jsonl_rows}
    if path.suffix.lower() not in MANIFEST_SUFFIXES:
        raise ValueError(f"Expected a manifest that ends in {', '.join(MANIFEST_SUFFIXES)}, got {path.name}.")
    return readers[path.suffix.lower()](path)


def _csv_rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file)
        header = next(lines, [])
        for fields in lines:
            if fields:
                yield _row(header, fields, f"line {lines.line_num} of {path.name}")


def _tsv_rows(path: Path) -> Iterator[dict[str, str]]:
    # Split by hand: the csv module takes a lone carriage return inside a text for the end of the line.
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        header = next(file, "").rstrip("\r\n").split("\t")
        for number, line in enumerate(file, start=2):
            if line.strip("\r\n"):
                yield _row(header, line.rstrip("\r\n").split("\t"), f"line {number} of {path.name}")


def _jsonl_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"Line {number} of {path.name} is not JSON: {error}") from error
                if not isinstance(row, dict):
                    raise ValueError(f"Line {number} of {path.name}: expected an object, got {type(row).__name__}.")
                yield row


def _row(header: list[str], fields: list[str], where: str) -> dict[str, str]:
    if len(fields) != len(header):
        raise ValueError(f"Expected {len(header)} fields in {where}, got {len(fields)}: mend or remove the line.")
    return dict(zip(header, fields, strict=True))
