"""Which speech a program reads: the same flags, sources and splits for training, baselines and evaluation."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm.auto import tqdm
from transformers import WhisperFeatureExtractor

from ..training.datasets import RowMaker, StreamingSpeechDataset
from .clips import Clip, select_subset
from .columns import Columns
from .hub_datasets import ClipStream, load_hub_dataset, read_dataset, stream_dataset
from .labels import LabelBuilder
from .manifests import read_common_voice, read_folder, read_manifest
from .screening import Screen, ScreeningReport, screen_clips
from .splits import Splits, join_splits, split_clips

_MANIFESTS = (".csv", ".tsv", ".jsonl")
_METADATA = ("metadata.csv", "metadata.jsonl")
_SPLITS = ("train", "dev", "test")
# Clips that a stream holds to draw from.
_SHUFFLED = 500


@dataclass
class SpeechArguments:
    """Sources of speech with transcripts, and how they are divided."""

    data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Sources, each of them a folder with metadata.csv or .jsonl, a folder of Common Voice, a manifest "
            "(.csv, .tsv, .jsonl), or the name of a data set on the Hub."
        },
    )
    language: list[str] = field(
        default_factory=list,
        metadata={"help": "Language of each source, or one for all; left out, the table's language column says it."},
    )
    expert: list[str] = field(
        default_factory=list,
        metadata={"help": "Expert that each source trains, or one for all; left out, that of the language."},
    )
    test_data: list[str] = field(
        default_factory=list, metadata={"help": "Sources of other domains or languages, for testing alone."}
    )
    test_language: list[str] = field(default_factory=list, metadata={"help": "Their languages, likewise."})
    where: list[str] = field(
        default_factory=list, metadata={"help": "Rows to use, as column=value; those that lack the column are used."}
    )
    split_by: str = field(
        default="text",
        metadata={
            "help": "What train, dev and test must not share beside clips: text, speaker or nothing (clip); given: "
            "take them as the source has them (tables of Common Voice, splits on the Hub, a column `split`).",
            "choices": ("text", "speaker", "clip", "given"),
        },
    )
    dev_share: float = field(default=0.05, metadata={"help": "Share of the clips for choosing a checkpoint."})
    test_share: float = field(default=0.15, metadata={"help": "Share of the clips for the reported score."})
    split_seed: int = field(default=0, metadata={"help": "Another split of the same clips."})
    subset: int | None = field(
        default=None, metadata={"help": "Most training clips of each source; those with the most up-votes first."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of data sets on the Hub."})
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Revision of data sets on the Hub; FLEURS needs refs/convert/parquet."}
    )
    dataset_splits: list[str] = field(
        default_factory=lambda: ["train", "validation", "test"],
        metadata={"help": "Names of train, dev and test of data sets on the Hub."},
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training clips of data sets on the Hub while training (with --max_steps), without "
            "downloading them first. There is no dev set then, and what is tested is --test_data."
        },
    )
    audio_column: str | None = field(default=None, metadata={"help": "Column of the audio, if it has an unusual name."})
    text_column: str | None = field(default=None, metadata={"help": "Column of the transcript, likewise."})
    language_column: str | None = field(default=None, metadata={"help": "Column of the language, likewise."})
    speaker_column: str | None = field(default=None, metadata={"help": "Column of the speaker, likewise."})
    leading_space: str = field(
        default="as_whisper",
        metadata={
            "help": "as_whisper begins transcripts with a space, as Whisper does; never is the original's way.",
            "choices": ("as_whisper", "never"),
        },
    )

    def columns(self) -> Columns:
        """The columns that were named."""
        return Columns(
            audio=self.audio_column,
            text=self.text_column,
            language=self.language_column,
            speaker=self.speaker_column,
        )


@dataclass(frozen=True)
class Speech:
    """What was read.

    Attributes:
        splits: train, dev and test of `data`, all sources together.
        test_sets: name -> clips: the test part of each source of `data`, then each source of `test_data`.
        out_of_domain: names of the sets of `test_data`.
        report: what was left out.
    """

    splits: Splits
    test_sets: dict[str, list[Clip]]
    out_of_domain: tuple[str, ...]
    report: ScreeningReport

    def save(self, folder: Path) -> None:
        """Write `splits.json` (ids of every set) and `rejections.jsonl` into `folder`, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        ids = {name: [clip.id for clip in getattr(self.splits, name)] for name in _SPLITS}
        sets = {name: [clip.id for clip in clips] for name, clips in self.test_sets.items()}
        write_json(folder / "splits.json", {**ids, "test_sets": sets, "dropped": list(self.splits.dropped)})
        self.report.save(folder / "rejections.jsonl")


def read_speech(arguments: SpeechArguments, labels: LabelBuilder, extractor: WhisperFeatureExtractor) -> Speech:
    """Read, screen and divide all sources.

    Args:
        arguments: what to read.
        labels: counts tokens.
        extractor: its window is the longest clip.

    Raises:
        ValueError: no source, a list of languages that fits neither the sources nor all of them, or what a source's
            own reader refuses.
    """
    if not arguments.data:
        raise ValueError("Expected at least one source of speech, got none. Name it: --data FOLDER --language ca.")
    screen = Screen(labels, max_seconds=float(extractor.chunk_length))
    report = ScreeningReport()
    parts: list[Splits] = []
    test_sets: dict[str, list[Clip]] = {}
    languages = one_for_each(arguments.language, arguments.data, "language")
    experts = one_for_each(arguments.expert, arguments.data, "expert")
    # What is streamed is not divided here.
    sources = [] if arguments.streaming else arguments.data
    for source, language, expert in zip(sources, languages, experts, strict=False):
        splits = _splits(source, language, expert, arguments, screen, report)
        parts.append(splits)
        test_sets[_name(source, test_sets)] = splits.test
    languages = one_for_each(arguments.test_language, arguments.test_data, "test_language")
    out_of_domain = []
    for source, language in zip(arguments.test_data, languages, strict=True):
        clips = _screened(_read(source, language, None, arguments, "test"), screen, report)
        out_of_domain.append(_name(source, test_sets))
        test_sets[out_of_domain[-1]] = clips
    # Clips of any test set are taken out of training, those of other domains too.
    test = [clip for part in parts for clip in part.test]
    joined = join_splits(
        train=[clip for part in parts for clip in part.train],
        dev=[clip for part in parts for clip in part.dev],
        test=[*test, *(clip for name in out_of_domain for clip in test_sets[name])],
    )
    return Speech(replace(joined, test=test), test_sets, tuple(out_of_domain), report)


def stream_speech(
    arguments: SpeechArguments,
    labels: LabelBuilder,
    make_row: RowMaker,
    *,
    rejections_file: Path | None = None,
) -> StreamingSpeechDataset:
    """Training clips of data sets on the Hub, read and screened while they are used, source after source in turn.

    Args:
        arguments: what to read; `dataset_splits` begins with the name of the training split.
        labels: counts tokens.
        make_row: makes a clip an input.
        rejections_file: gets a line of JSON for each clip left out.
    """
    languages = one_for_each(arguments.language, arguments.data, "language")
    experts = one_for_each(arguments.expert, arguments.data, "expert")
    streams = []
    for source, language, expert in zip(arguments.data, languages, experts, strict=True):
        dataset = load_hub_dataset(
            source,
            config=arguments.dataset_config,
            split=arguments.dataset_splits[0],
            revision=arguments.dataset_revision,
            streaming=True,
        ).shuffle(seed=arguments.split_seed, buffer_size=_SHUFFLED)
        choose = dict(pair.split("=", 1) for pair in arguments.where)
        streams.append(
            stream_dataset(
                dataset, name=source, language=language, expert=expert, columns=arguments.columns(), where=choose
            )
        )
    screen = Screen(labels, max_seconds=float(make_row.extractors["input_features"].chunk_length))
    return StreamingSpeechDataset(ClipTurns(streams), screen, make_row, rejections_file=rejections_file)


@dataclass
class ClipTurns:
    """Clips of several streams in turn, until the first of them ends: languages stay mixed from batch to batch."""

    streams: list[ClipStream]

    def __iter__(self) -> Iterator[Clip]:
        for turn in zip(*self.streams, strict=False):
            yield from turn

    def set_epoch(self, epoch: int) -> None:
        """Shuffle every stream anew."""
        for stream in self.streams:
            stream.set_epoch(epoch)


def _splits(
    source: str,
    language: str | None,
    expert: str | None,
    arguments: SpeechArguments,
    screen: Screen,
    report: ScreeningReport,
) -> Splits:
    """Train, dev and test of one source."""
    if arguments.split_by != "given":
        clips = _screened(_read(source, language, expert, arguments, "train"), screen, report)
        splits = split_clips(
            clips,
            by=arguments.split_by,
            dev=arguments.dev_share,
            test=arguments.test_share,
            seed=arguments.split_seed,
        )
    else:
        sets = {
            name: _screened(_read(source, language, expert, arguments, name, given=True), screen, report)
            for name in _SPLITS
        }
        if not sets["dev"] and arguments.dev_share > 0:
            divided = split_clips(
                sets["train"], by="text", dev=arguments.dev_share, test=0.0, seed=arguments.split_seed
            )
            sets = {"train": divided.train, "dev": divided.dev, "test": sets["test"]}
        splits = join_splits(**sets)
    if arguments.subset is None or arguments.subset >= len(splits.train):
        return splits
    return replace(splits, train=_subset(splits.train, arguments.subset))


def _subset(clips: list[Clip], size: int) -> list[Clip]:
    """The paper's choice where listeners have voted, otherwise by a hash: a larger subset has every smaller one."""
    if all(clip.up_votes is not None for clip in clips):
        return select_subset(clips, size)
    return sorted(clips, key=lambda clip: clip.digest)[:size]


def _read(
    source: str,
    language: str | None,
    expert: str | None,
    arguments: SpeechArguments,
    split: str,
    *,
    given: bool = False,
) -> list[Clip]:
    """Clips of one source; with `given`, those that it counts to `split` itself, none if it has no such part."""
    path = Path(source)
    columns = arguments.columns()
    choose = dict(pair.split("=", 1) for pair in arguments.where)
    common = {"language": language, "expert": expert}
    if path.is_dir() and (path / "train.tsv").is_file():
        tables = _SPLITS if not given else (split,)
        present = [name for name in tables if (path / f"{name}.tsv").is_file()]
        return [clip for name in present for clip in read_common_voice(path, split=name, **common)]
    if path.is_dir() or path.suffix.lower() in _MANIFESTS:
        header = _header(path)
        if given:
            if "split" not in header:
                raise ValueError(f"{source} has no column `split`: divide it with --split_by text, speaker or clip.")
            choose["split"] = split
        choose = {column: value for column, value in choose.items() if column in header}
        read: Callable[..., list[Clip]] = read_folder if path.is_dir() else read_manifest
        return read(path, columns=columns, where=choose, **common)
    part = arguments.dataset_splits[_SPLITS.index(split)]
    dataset = load_hub_dataset(source, config=arguments.dataset_config, split=part, revision=arguments.dataset_revision)
    return read_dataset(dataset, name=f"{source}:{part}", columns=columns, where=choose, **common)


def _header(path: Path) -> list[str]:
    """Columns of a table, or of the table of a folder; those of the first row alone for JSON lines."""
    if path.is_dir():
        present = [path / name for name in _METADATA if (path / name).is_file()]
        if not present:
            raise ValueError(f"Expected {' or '.join(_METADATA)} or Common Voice's train.tsv in {path}, found none.")
        path = present[0]
    with path.open(encoding="utf-8-sig") as file:
        first = file.readline().rstrip("\r\n")
    if path.suffix == ".jsonl":
        return list(json.loads(first)) if first else []
    return first.split("\t" if path.suffix == ".tsv" else ",")


def _screened(clips: list[Clip], screen: Screen, report: ScreeningReport) -> list[Clip]:
    # A progress bar for what takes longest before the first step: every file is opened once.
    kept, found = screen_clips(tqdm(clips, desc="Reading clips", unit="clip", leave=False), screen)
    report.kept += found.kept
    report.seconds += found.seconds
    report.rejections += found.rejections
    return kept


def one_for_each(values: Sequence[str], sources: Sequence[str], what: str) -> list[str | None]:
    """A value for every source, from none, one for all, or one for each; anything else is a ValueError."""
    if len(values) not in (0, 1, len(sources)):
        raise ValueError(f"Expected one {what} for all {len(sources)} sources or one for each, got {len(values)}.")
    return list(values) if len(values) == len(sources) else [values[0] if values else None] * len(sources)


def _name(source: str, taken: dict[str, list[Clip]]) -> str:
    """Last part of the source's name, made unique."""
    name = Path(source).stem or source
    number = sum(other == name or other.startswith(f"{name}-") for other in taken)
    return name if name not in taken else f"{name}-{number + 1}"


def write_json(path: Path, content: object) -> None:
    """Write a JSON file beside and rename it into place."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, indent=1)
        file.write("\n")
    os.replace(name, path)
