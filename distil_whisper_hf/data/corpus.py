"""The speech of a run: its sources read, screened and divided into train, dev and test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from tqdm.auto import tqdm
from transformers import WhisperFeatureExtractor

from .arguments import DataArguments
from .atomic_files import write_json
from .clips import Clip, unique_ids
from .common_voice import SPLITS
from .hub_datasets import ClipStream
from .labels import LabelBuilder
from .rejections import Rejection
from .sampling import choose_clips, training_subset
from .screening import REJECTIONS_FILE, Screen, ScreeningReport, TooManyRejected, notes_on_audio, screen_clips
from .sources import Source, read_parts, read_source, stream_source, with_known_columns
from .splits import SplitBy, Splits, join_splits, split_clips

# Clips that a stream holds to draw from.
_SHUFFLED = 500


@dataclass(frozen=True)
class Corpus:
    """What was read.

    Attributes:
        splits: train, dev and test of `data`, all sources together.
        test_sets: name -> clips: the test part of each source of `data`, then each source of `test_data`.
        out_of_domain: names of the sets of `test_data`.
        report: what was left out.
        held_out: digests of all dev and test clips, of every set and however few of it are scored.
    """

    splits: Splits
    test_sets: dict[str, list[Clip]]
    out_of_domain: tuple[str, ...]
    report: ScreeningReport
    held_out: frozenset[str | None]

    def save(self, folder: Path) -> None:
        """Write `splits.json` (ids of every set), `rejections.jsonl` and `notes.jsonl` into `folder`, each whole or not
        at all."""
        folder.mkdir(parents=True, exist_ok=True)
        ids = {name: [clip.id for clip in getattr(self.splits, name)] for name in SPLITS}
        sets = {name: [clip.id for clip in clips] for name, clips in self.test_sets.items()}
        write_json(folder / "splits.json", {**ids, "test_sets": sets, "dropped": list(self.splits.dropped)})
        self.report.save(folder / REJECTIONS_FILE)


def read_corpus(
    arguments: DataArguments,
    labels: LabelBuilder,
    extractor: WhisperFeatureExtractor,
    *,
    test_limit: int | None = None,
) -> Corpus:
    """Read, screen and divide all sources.

    Args:
        arguments: what to read.
        labels: makes transcripts token ids.
        extractor: its window is the longest clip.
        test_limit: most clips of each test set (see `sampling.choose_clips`).

    Raises:
        ValueError: no source, a list of languages that fits neither the sources nor all of them, a language without a
            token, a column of `where` that no source has, or what a source's own reader refuses.
        TooManyRejected: a source of which nothing or too little is left.
    """
    if not arguments.data:
        raise ValueError("Expected at least one source of speech, got none. Name it: --data FOLDER --language ca.")
    screen = Screen(labels, max_seconds=float(extractor.chunk_length))
    report = ScreeningReport()
    parts: list[Splits] = []
    test_sets: dict[str, list[Clip]] = {}
    # What is streamed is not divided here.
    sources = [] if arguments.streaming else arguments.sources()
    chosen_on, tested_on = arguments.dev_sources(), arguments.test_sources()
    known = with_known_columns([*sources, *chosen_on, *tested_on])
    for source in known:
        if source.language is not None:
            labels.prompt(source.language)
    for source in known[: len(sources)]:
        splits = _splits(source, arguments, screen, report)
        parts.append(splits)
        test_sets[_name(source, test_sets)] = choose_clips(splits.test, test_limit)
    out_of_domain = []
    # Clips of any test set are taken out of training: all of a set, however few of it are scored.
    tested = [clip for part in parts for clip in part.test]
    dev = [clip for part in parts for clip in part.dev]
    for source in known[len(sources) : len(sources) + len(chosen_on)]:
        rejected: list[Rejection] = []
        part = "dev" if source.kind_found == "hub" else None
        found = {"dev": read_source(source, split=part, reject=rejected.append)}
        clips = _screened(source, found, rejected, screen, report, arguments.max_rejected)["dev"]
        dev += [replace(clip, domain="out") for clip in clips]
    for source in known[len(sources) + len(chosen_on) :]:
        part = "test" if source.kind_found == "hub" else None
        rejected = []
        # Named and chosen before they are screened, so that every program takes the same clips of a set.
        clips, _ = unique_ids(read_source(source, split=part, reject=rejected.append))
        chosen = {clip.id for clip in choose_clips(clips, test_limit)}
        clips = _screened(source, {"test": clips}, rejected, screen, report, arguments.max_rejected)["test"]
        tested += clips
        out_of_domain.append(_name(source, test_sets))
        test_sets[out_of_domain[-1]] = [clip for clip in clips if clip.id in chosen]
    report.notes += notes_on_audio(report.clips)
    joined = join_splits(
        train=[clip for part in parts for clip in part.train],
        dev=dev,
        test=tested,
    )
    test_sets = {
        name: [replace(clip, dataset=name, domain="out" if name in out_of_domain else "in") for clip in clips]
        for name, clips in test_sets.items()
    }
    own = [clip for part in parts for clip in part.test]
    held_out = frozenset(clip.digest for clip in (*dev, *tested))
    return Corpus(replace(joined, test=own), test_sets, tuple(out_of_domain), report, held_out)


def stream_clips(arguments: DataArguments) -> ClipTurns:
    """Training clips of data sets on the Hub, read while they are used, source after source in turn."""
    seed = arguments.split_seed
    return ClipTurns([stream_source(source, seed=seed, buffer=_SHUFFLED) for source in arguments.sources()])


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

    def for_process(self, index: int, count: int) -> ClipTurns:
        """The part of one of several processes: its share of every stream, so that languages are mixed there too."""
        return ClipTurns([stream.for_process(index, count) for stream in self.streams])


def _splits(source: Source, arguments: DataArguments, screen: Screen, report: ScreeningReport) -> Splits:
    """Train, dev and test of one source."""
    rejected: list[Rejection] = []
    given = arguments.split_by == "given"
    found = (
        read_parts(source, reject=rejected.append) if given else {"all": read_source(source, reject=rejected.append)}
    )
    sets = _screened(source, found, rejected, screen, report, arguments.max_rejected)
    if not given:
        splits = split_clips(
            sets["all"],
            by=cast(SplitBy, arguments.split_by),
            dev=arguments.dev_share,
            test=arguments.test_share,
            seed=arguments.split_seed,
        )
    else:
        if not sets["dev"] and arguments.dev_share > 0:
            divided = split_clips(
                sets["train"], by="text", dev=arguments.dev_share, test=0.0, seed=arguments.split_seed
            )
            sets = {"train": divided.train, "dev": divided.dev, "test": sets["test"]}
        splits = join_splits(**sets)
    if arguments.subset is None:
        return splits
    return replace(splits, train=training_subset(splits.train, arguments.subset))


def _screened(
    source: Source,
    parts: dict[str, list[Clip]],
    rejected: list[Rejection],
    screen: Screen,
    report: ScreeningReport,
    max_rejected: float,
) -> dict[str, list[Clip]]:
    """The parts of a source without what cannot be used, which is added to the report."""
    if not rejected and not any(parts.values()):
        chosen = " and ".join(f"{column}={value}" for column, value in source.where.items())
        raise ValueError(f"Expected rows in {source.path}, found none{f' with {chosen}' if chosen else ''}.")
    found, kept = ScreeningReport(rejections=rejected), {}
    for name, clips in parts.items():
        # A progress bar for what takes longest before the first step: every file is opened once.
        kept[name], screened = screen_clips(tqdm(clips, desc="Reading clips", unit="clip", leave=False), screen)
        found += screened
    report += found
    fault = found.fault(source.path, max_rejected)
    if fault is not None:
        raise TooManyRejected(fault, report)
    return kept


def _name(source: Source, taken: dict[str, list[Clip]]) -> str:
    """Last part of the source's name, made unique."""
    name = Path(source.path).stem or source.path
    number = sum(other == name or other.startswith(f"{name}-") for other in taken)
    return name if name not in taken else f"{name}-{number + 1}"
