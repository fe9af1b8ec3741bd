"""A source of speech, whatever it is, as clips: one rule for what a path or name means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from .clips import Clip
from .columns import Columns
from .common_voice import SPLITS, clip_tables, is_dump, locale_folder, locales, read_common_voice
from .hub_datasets import ClipStream, load_hub_dataset, read_dataset, stream_dataset
from .manifests import metadata_file, metadata_files, read_folder, read_manifest
from .rejections import Reject, Rejection, refuse
from .tables import TABLE_SUFFIXES, read_table

SourceKind = Literal["folder", "manifest", "common_voice", "hub"]
# What tables call our three parts beside their own names.
_PARTS = {"training": "train", "validation": "dev", "valid": "dev", "val": "dev", "development": "dev"}


@dataclass(frozen=True)
class Source:
    """Where clips come from.

    Attributes:
        path: folder with metadata.csv, .tsv or .jsonl, manifest, folder of a Common Voice locale or of several, or Hub
            data set.
        kind: None finds it out from the path (`source_kind`).
        language, expert: of all rows, whatever the table says; None reads the column.
        columns: names of the columns that do not have a usual name.
        where: column to value; rows that differ are left out.
        config, revision: of a Hub data set.
        hub_splits: our names of the parts (`SPLITS`) -> those of the Hub data set.
    """

    path: str
    kind: SourceKind | None = None
    language: str | None = None
    expert: str | None = None
    columns: Columns = field(default_factory=Columns)
    where: Mapping[str, str] = field(default_factory=dict)
    config: str | None = None
    revision: str | None = None
    hub_splits: Mapping[str, str] = field(default_factory=lambda: dict(zip(SPLITS, SPLITS, strict=True)))

    @property
    def kind_found(self) -> SourceKind:
        """`kind`, or what the path says."""
        return self.kind or source_kind(self.path)


def source_kind(path: str | Path) -> SourceKind:
    """What a path is: a file is a manifest; a folder is Common Voice if it, or a folder in it, has tables and clips,
    else audio with metadata; what is not on the disk is a data set on the Hub."""
    path = Path(path)
    if path.is_dir():
        return "common_voice" if is_dump(path) or (not metadata_files(path) and locales(path)) else "folder"
    return "manifest" if path.is_file() or path.suffix.lower() in TABLE_SUFFIXES else "hub"


def read_source(source: Source, *, split: str | None = None, reject: Reject = refuse) -> list[Clip]:
    """The clips of a source, in its order.

    Args:
        split: a table of Common Voice, or the part that a Hub data set counts to "train", "dev" or "test". None: all
            rows, of Common Voice those of all tables to read, of a Hub data set the training split. What has but one
            table is read through it.
        reject: is told of every row that describes no clip.

    Raises:
        ValueError: a path that is none of the kinds, a table that cannot be read or is not there, or a part whose name
            on the Hub is not known.
    """
    kind = source.kind_found
    path = Path(source.path)
    if kind == "hub":
        part = _hub_split(source, split or "train")
        dataset = load_hub_dataset(source.path, config=source.config, split=part, revision=source.revision)
        return read_dataset(dataset, name=f"{source.path}:{part}", reject=reject, **_row_settings(source))
    if kind == "common_voice":
        folder = locale_folder(path, source.language)
        tables = clip_tables(folder)
        if split is not None and (len(tables) > 1 or (folder / f"{split}.tsv").is_file()):
            tables = [split]
        read = [read_common_voice(folder, split=name, reject=reject, **_row_settings(source)) for name in tables]
        return [clip for clips in read for clip in clips]
    if kind == "folder":
        return read_folder(path, reject=reject, **_row_settings(source))
    return read_manifest(path, reject=reject, **_row_settings(source))


def read_parts(source: Source, *, reject: Reject = refuse) -> dict[str, list[Clip]]:
    """The clips that the source itself counts to train, dev and test: by its tables, its splits on the Hub, or its
    column `split`.

    Raises:
        ValueError: a table that does not say it, or what `read_source` refuses.
    """
    if source.kind_found == "hub":
        return {name: read_source(source, split=name, reject=reject) for name in SPLITS}
    parts: dict[str, list[Clip]] = {name: [] for name in SPLITS}
    clips = read_source(source, reject=reject)
    if clips and not any(clip.split for clip in clips):
        raise ValueError(f"{source.path} has no column `split`: divide it with --split_by text, speaker or clip.")
    for clip in clips:
        name = clip.split.strip().lower()
        name = _PARTS.get(name, name)
        if name in parts:
            parts[name].append(clip)
        else:
            detail = f"expected train, dev or test, got {clip.split!r}"
            reject(Rejection(clip.id, "unknown_split", detail, clip.table, clip.row))
    return parts


def stream_source(source: Source, *, seed: int, buffer: int) -> ClipStream:
    """The training clips of a Hub data set, shuffled through a buffer of so many, read while they are used."""
    dataset = load_hub_dataset(
        source.path,
        config=source.config,
        split=_hub_split(source, "train"),
        revision=source.revision,
        streaming=True,
    ).shuffle(seed=seed, buffer_size=buffer)
    return stream_dataset(dataset, name=source.path, **_row_settings(source))


def with_known_columns(sources: Sequence[Source]) -> list[Source]:
    """The sources, each that is a table without those of its `where` that it has no column for: all its rows are used.

    Raises:
        ValueError: a column that none of them has.
    """
    headers = [_header(source) if source.where else [] for source in sources]
    known = {name for header in headers for name in header or ()}
    for column in [column for source in sources for column in source.where]:
        # What the Hub holds is known when it is read.
        if column not in known and None not in headers:
            raise ValueError(
                f"Expected a column to choose rows by (--where), got {column!r}; there are {_named(known)}."
            )
    return [
        source if header is None else replace(source, where={k: v for k, v in source.where.items() if k in header})
        for source, header in zip(sources, headers, strict=True)
    ]


def _header(source: Source) -> list[str] | None:
    """The columns of a source that is on the disk; None for one on the Hub."""
    path, kind = Path(source.path), source.kind_found
    if kind == "hub":
        return None
    if kind == "common_voice":
        folder = locale_folder(path, source.language)
        tables = [folder / f"{name}.tsv" for name in clip_tables(folder)]
    else:
        tables = [metadata_file(path) if kind == "folder" else path]
    return [name for table in tables for name in read_table(table).header]


def _named(columns: set[str]) -> str:
    return ", ".join(sorted(columns)) or "none"


def _row_settings(source: Source) -> dict[str, Any]:
    """What every reader takes."""
    return {
        "language": source.language,
        "expert": source.expert,
        "columns": source.columns,
        "where": source.where,
    }


def _hub_split(source: Source, split: str) -> str:
    if split not in source.hub_splits:
        named = ", ".join(source.hub_splits.values()) or "none"
        raise ValueError(
            f"Expected what {source.path} calls its {split} split, got {named}: --dataset_splits names them."
        )
    return source.hub_splits[split]
