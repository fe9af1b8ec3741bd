"""A source of speech, whatever it is, as clips: one rule for what a path or name means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from .clips import Clip
from .columns import Columns
from .hub_datasets import ClipStream, load_hub_dataset, read_dataset, stream_dataset
from .manifests import MANIFEST_SUFFIXES, METADATA_FILES, read_common_voice, read_folder, read_manifest

SourceKind = Literal["folder", "manifest", "common_voice", "hub"]
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Source:
    """Where clips come from.

    Attributes:
        path: folder with metadata.csv or .jsonl, manifest, folder of a Common Voice locale, or Hub data set.
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
    """What a path is: a file is a manifest; a folder is audio with metadata, or Common Voice if it has `clips` and
    tables; what is not on the disk is a data set on the Hub."""
    path = Path(path)
    if path.is_dir():
        tables = any((path / f"{name}.tsv").is_file() for name in SPLITS)
        return "common_voice" if tables or ((path / "clips").is_dir() and any(path.glob("*.tsv"))) else "folder"
    return "manifest" if path.is_file() or path.suffix.lower() in MANIFEST_SUFFIXES else "hub"


def read_source(source: Source, *, split: str | None = None) -> list[Clip]:
    """The clips of a source, in its order.

    Args:
        split: the part that the source itself counts to "train", "dev" or "test": a table of Common Voice, a split of a
            Hub data set, rows whose column `split` says so. None: all rows, of Common Voice all of these tables, of a
            Hub data set the training split.

    Raises:
        ValueError: a path that is none of the kinds, a table that cannot be read or is not there, one without a column
            `split` where a part of it is asked for, or a part whose name on the Hub is not known.
    """
    kind = source.kind_found
    path = Path(source.path)
    common = {"language": source.language, "expert": source.expert}
    if kind == "common_voice":
        tables = _common_voice_tables(path) if split is None else [split]
        return [clip for name in tables for clip in read_common_voice(path, split=name, where=source.where, **common)]
    if kind == "hub":
        part = _hub_split(source, split or "train")
        dataset = load_hub_dataset(source.path, config=source.config, split=part, revision=source.revision)
        name = f"{source.path}:{part}"
        return read_dataset(dataset, name=name, columns=source.columns, where=source.where, **common)
    where = dict(source.where)
    if split is not None:
        if "split" not in table_header(path):
            raise ValueError(f"{source.path} has no column `split`: divide it with --split_by text, speaker or clip.")
        where["split"] = split
    read = read_folder if kind == "folder" else read_manifest
    return read(path, columns=source.columns, where=where, **common)


def stream_source(source: Source, *, seed: int, buffer: int) -> ClipStream:
    """The training clips of a Hub data set, shuffled through a buffer of so many, read while they are used."""
    dataset = load_hub_dataset(
        source.path,
        config=source.config,
        split=_hub_split(source, "train"),
        revision=source.revision,
        streaming=True,
    ).shuffle(seed=seed, buffer_size=buffer)
    return stream_dataset(
        dataset,
        name=source.path,
        language=source.language,
        expert=source.expert,
        columns=source.columns,
        where=source.where,
    )


def has_split(source: Source, split: str) -> bool:
    """Whether `read_source` can be asked for a part: dumps of Common Voice may lack tables."""
    return source.kind_found != "common_voice" or (Path(source.path) / f"{split}.tsv").is_file()


def only_known_columns(source: Source) -> Source:
    """The source without those of its `where` that its table has no column for, where it is a table."""
    if source.kind_found == "hub":
        return source
    path = Path(source.path)
    if source.kind_found == "common_voice":
        path = path / f"{_common_voice_tables(path)[0]}.tsv"
    header = table_header(path)
    return replace(source, where={column: value for column, value in source.where.items() if column in header})


def _common_voice_tables(folder: Path) -> list[str]:
    """Those of train, dev and test that are there; ValueError if none is."""
    present = [name for name in SPLITS if (folder / f"{name}.tsv").is_file()]
    if not present:
        others = ", ".join(sorted(path.name for path in folder.glob("*.tsv"))) or "no table"
        raise ValueError(f"Expected train.tsv, dev.tsv or test.tsv in {folder}, found {others}: call one so.")
    return present


def _hub_split(source: Source, split: str) -> str:
    if split not in source.hub_splits:
        named = ", ".join(source.hub_splits.values()) or "none"
        raise ValueError(
            f"Expected what {source.path} calls its {split} split, got {named}: --dataset_splits names them."
        )
    return source.hub_splits[split]


def table_header(path: Path) -> list[str]:
    """Columns of a table, or of the table of a folder; those of the first row alone for JSON lines."""
    if path.is_dir():
        present = [path / name for name in METADATA_FILES if (path / name).is_file()]
        if not present:
            raise ValueError(
                f"Expected {' or '.join(METADATA_FILES)} or Common Voice's train.tsv in {path}, found none."
            )
        path = present[0]
    with path.open(encoding="utf-8-sig") as file:
        first = file.readline().rstrip("\r\n")
    if path.suffix == ".jsonl":
        return list(json.loads(first)) if first else []
    return first.split("\t" if path.suffix == ".tsv" else ",")
