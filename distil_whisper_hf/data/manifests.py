"""Speech on a local disk as clips: manifests and audio folders. Dumps of Common Voice: `common_voice`.

No audio is opened: see `screening` for what is wrong with which clip.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .audio import AudioSegment, segment_name
from .clips import Clip
from .columns import Columns, RowReader, row_reader
from .rejections import BadRow, Reject, Rejection, refuse
from .tables import TABLE_SUFFIXES, Row, read_table

# Where a dump of Common Voice keeps its audio, beside its tables.
CLIP_FOLDERS = ("clips", "audios")
# Of files that a table may name without; the older dumps of Common Voice do.
AUDIO_SUFFIXES = (".mp3", ".ogg", ".opus", ".flac", ".wav", ".m4a", ".webm")
# How pandas writes whole numbers in a column with gaps.
_WHOLE_FLOAT = re.compile(r"[0-9]+\.0")


def read_manifest(
    path: str | Path,
    *,
    language: str | None = None,
    expert: str | None = None,
    columns: Columns | None = None,
    where: Mapping[str, str] | None = None,
    audio_root: str | Path | None = None,
    reject: Reject = refuse,
) -> list[Clip]:
    """Read a table with one clip in each row (see `tables.read_table` for its forms).

    Args:
        path: the table.
        language: of all rows, whatever the table says; None reads the language column.
        expert: of all rows, likewise.
        columns: names of the columns that do not have a usual name.
        where: column to value, e.g. `{"split": "train"}`; rows that differ are left out (see `columns.plain_value`).
        audio_root: folder that the audio paths start from; None is the folder of the table, and the folders `clips` and
            `audios` in it.
        reject: is told of every row that describes no clip; by default the first ends the reading with a ValueError.

    Returns:
        Clips in the order of the table, none for a table without rows; the id of each is its audio path as written
        there, with the stretch behind it for a segment of a file: "talk.flac@1.250-3.000".

    Raises:
        ValueError: a table that cannot be read, or columns that are missing or ambiguous.
    """
    path = Path(path)
    table = read_table(path)
    if not any(isinstance(row, dict) for row in table.rows):
        for number, fault in enumerate(table.rows, start=1):
            reject(Rejection("", "bad_row", str(fault), table.name, number))
        return []
    reader = row_reader(table.header, columns=columns, language=language, expert=expert, where=where, table=table.name)
    _mend_votes(table.rows, (reader.columns.up_votes, reader.columns.down_votes))
    roots = [path.parent, *(path.parent / name for name in CLIP_FOLDERS)] if audio_root is None else [Path(audio_root)]
    roots = [roots[0], *(root for root in roots[1:] if root.is_dir())]
    clips = []
    for number, row in enumerate(table.rows, start=1):
        try:
            clip = _clip(row, reader, roots, number)
        except BadRow as error:
            named = row.get(reader.audio_column) if isinstance(row, dict) else None
            name = named if isinstance(named, str) and named.isprintable() else ""
            reject(Rejection(name, error.reason, str(error), table.name, number))
        else:
            clips += [] if clip is None else [clip]
    return clips


def read_folder(
    folder: str | Path,
    *,
    language: str | None = None,
    expert: str | None = None,
    columns: Columns | None = None,
    where: Mapping[str, str] | None = None,
    reject: Reject = refuse,
) -> list[Clip]:
    """Read an audio folder: audio files, at any depth, beside a table `metadata.csv`, `.tsv` or `.jsonl`.

    Args are those of `read_manifest`.

    Raises:
        ValueError: no metadata file, or several.
    """
    table = metadata_file(folder)
    return read_manifest(table, language=language, expert=expert, columns=columns, where=where, reject=reject)


def metadata_file(folder: str | Path) -> Path:
    """The one table of an audio folder; ValueError if there is none, or several."""
    present = metadata_files(folder)
    if len(present) != 1:
        names = " and ".join(path.name for path in present)
        raise ValueError(
            f"Expected one of metadata.csv, .tsv or .jsonl, or Common Voice's train.tsv, in {folder}, got "
            f"{names or 'none'}. A folder for each split (train, test) is read one at a time."
        )
    return present[0]


def metadata_files(folder: str | Path) -> list[Path]:
    """The tables called `metadata` in a folder, in any form that `tables.read_table` reads."""
    paths = sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []
    return [path for path in paths if path.stem.lower() == "metadata" and path.suffix.lower() in TABLE_SUFFIXES]


def _clip(row: Row, reader: RowReader, roots: Sequence[Path], number: int) -> Clip | None:
    """The clip of a row; None for one that is not wanted."""
    if isinstance(row, str):
        raise BadRow(row)
    if not reader.wants(row):
        return None
    name, stretch = reader.audio_name(row), reader.segment(row)
    path = _audio_path(roots, name)
    if stretch is None:
        return reader.clip(row, clip_id=name, audio=path, number=number)
    return reader.clip(row, clip_id=segment_name(name, *stretch), audio=AudioSegment(path, *stretch), number=number)


def _audio_path(roots: Sequence[Path], name: str) -> str:
    """The file that a table means, which may be written without its extension; as written where there is none."""
    written = [str(root / name) for root in roots]
    longer = (path + suffix for path in written for suffix in AUDIO_SUFFIXES)
    return next((path for path in (*written, *longer) if os.path.isfile(path)), written[0])


def _mend_votes(rows: Iterable[Row], columns: Iterable[str | None]) -> None:
    """Write votes as whole numbers where all of their column are "2.0"; one among whole numbers is a row to look at."""
    complete: list[dict[str, Any]] = [row for row in rows if isinstance(row, dict)]
    for column in filter(None, columns):
        voted = [row for row in complete if row.get(column)]
        if all(_WHOLE_FLOAT.fullmatch(str(row[column])) for row in voted):
            for row in voted:
                row[column] = int(float(row[column]))
