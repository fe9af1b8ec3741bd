"""Data sets of the `datasets` library as clips: FLEURS and any other on the Hub, whole or streamed.

Audio stays encoded in its table and is decoded by us, so that the library's own decoder (torchcodec) is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .audio import StoredAudio
from .clips import Clip
from .columns import Columns, RowReader, row_reader
from .rejections import BadRow, Reject, Rejection, refuse

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


def load_hub_dataset(
    name: str,
    *,
    config: str | None = None,
    split: str,
    revision: str | None = None,
    streaming: bool = False,
) -> Dataset | IterableDataset:
    """One split of a data set on the Hub, for `read_dataset` or `stream_dataset`. Local folders:
    `manifests.read_folder`.

    Args:
        name: such as "google/fleurs".
        config: such as "ca_es".
        split: such as "train".
        revision: branch or commit. FLEURS, other data sets that were once loaded by a program of their own, and
            folders of plain audio files need the tables that the Hub makes of them, "refs/convert/parquet".
        streaming: read while training instead of downloading first.

    Raises:
        ValueError: anything but one split.
    """
    from datasets import Dataset, IterableDataset, load_dataset

    dataset = load_dataset(name, config, split=split, revision=revision, streaming=streaming)
    if not isinstance(dataset, (Dataset, IterableDataset)):
        raise ValueError(f"Expected one split of {name}, got {type(dataset).__name__} for split {split!r}.")
    return dataset


def read_dataset(
    dataset: Dataset,
    *,
    name: str,
    language: str | None = None,
    expert: str | None = None,
    columns: Columns | None = None,
    where: Mapping[str, str] | None = None,
    reject: Reject = refuse,
) -> list[Clip]:
    """The rows of a data set as clips whose audio is fetched from it when it is needed, each of them whole.

    Args:
        dataset: one split.
        name: for the ids of the clips, which are `name:row`, and for errors.
        language: of all rows, whatever the data set says; None reads the language column.
        expert: of all rows, likewise.
        columns: names of the columns that do not have a usual name; the one audio column is found by its type.
        where: column to value; rows that differ are left out. Classes are compared by name, not by number.
        reject: is told of every row that describes no clip; by default the first ends the reading with a ValueError.

    Raises:
        ValueError: columns that are missing or ambiguous.
    """
    dataset, reader = _prepare(dataset, name, language, expert, columns, where)
    audio = reader.audio_column
    table = dataset.select_columns([audio])
    clips = []
    for number, row in enumerate(dataset.remove_columns([audio])):
        named = _with_class_names(row, dataset.features)
        if not reader.wants(named):
            continue
        stored, clip_id = StoredAudio(table, number, audio), f"{name}:{number}"
        try:
            clips.append(reader.clip(named, clip_id=clip_id, audio=stored, number=number + 1))
        except BadRow as error:
            reject(Rejection(clip_id, error.reason, str(error), name, number + 1))
    return clips


@dataclass
class ClipStream:
    """Clips of a data set that is read while it is iterated over; made by `stream_dataset`.

    A row that describes no clip comes as its rejection. In the workers of a DataLoader each worker yields its own part
    of the data set's shards. Ids are `name:path`, and `name:` alone where the data set keeps no path.
    """

    dataset: IterableDataset
    reader: RowReader
    name: str

    def __iter__(self) -> Iterator[Clip | Rejection]:
        for row in self.dataset:
            named = _with_class_names(row, self.dataset.features)
            if self.reader.wants(named):
                # A row without audio goes on as an empty file, which screening counts as unreadable.
                value = row[self.reader.columns.audio] or {}
                path = value.get("path") or ""
                audio, clip_id = value.get("bytes") or path or b"", f"{self.name}:{path}"
                try:
                    yield self.reader.clip(named, clip_id=clip_id, audio=audio)
                except BadRow as error:
                    yield Rejection(clip_id, error.reason, str(error), self.name)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle anew, if the data set is one that shuffles."""
        self.dataset.set_epoch(epoch)

    def for_process(self, index: int, count: int) -> ClipStream:
        """The part of one of several processes: whole shards where they can be dealt out evenly, else every
        `count`-th row."""
        from datasets.distributed import split_dataset_by_node

        return replace(self, dataset=split_dataset_by_node(self.dataset, rank=index, world_size=count))


def stream_dataset(
    dataset: IterableDataset,
    *,
    name: str,
    language: str | None = None,
    expert: str | None = None,
    columns: Columns | None = None,
    where: Mapping[str, str] | None = None,
) -> ClipStream:
    """The rows of a streamed data set as clips; arguments and errors are those of `read_dataset`."""
    dataset, reader = _prepare(dataset, name, language, expert, columns, where)
    return ClipStream(dataset, reader, name)


def _prepare(
    dataset: Dataset | IterableDataset,
    name: str,
    language: str | None,
    expert: str | None,
    columns: Columns | None,
    where: Mapping[str, str] | None,
) -> tuple[Dataset | IterableDataset, RowReader]:
    """The data set with undecoded audio, and a reader for its rows."""
    from datasets import Audio

    if dataset.features is None:
        raise ValueError(f"{name} does not say which columns it has: pass `features` to the `map` that it comes from.")
    columns = columns or Columns()
    typed = [column for column, feature in dataset.features.items() if isinstance(feature, Audio)]
    if columns.audio is None:
        if len(typed) != 1:
            raise ValueError(f"{name} has {len(typed)} audio columns ({', '.join(typed)}): name the one to use.")
        columns = Columns(**{**vars(columns), "audio": typed[0]})
    reader = row_reader(dataset.features, columns=columns, language=language, expert=expert, where=where, table=name)
    for column in dict.fromkeys([*typed, reader.columns.audio]):
        dataset = dataset.cast_column(column, Audio(decode=False))
    return dataset, reader


def _with_class_names(row: Mapping[str, Any], features: Mapping[str, Any]) -> dict[str, Any]:
    """The row with the names of classes in place of their numbers."""
    from datasets import ClassLabel

    return {
        column: features[column].int2str(value)
        if isinstance(features[column], ClassLabel) and value is not None and value >= 0
        else value
        for column, value in row.items()
    }
