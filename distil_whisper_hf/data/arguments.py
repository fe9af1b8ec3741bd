"""The flags that say which speech a program reads, the same for training and its baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..places import local_or_hub
from .columns import Columns
from .common_voice import SPLITS
from .sources import Source


@dataclass
class DataArguments:
    """Sources of speech with transcripts, and how they are divided."""

    data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Sources, each of them a folder with metadata.csv, .tsv or .jsonl, a folder of Common Voice, a "
            "manifest (.csv, .tsv, .jsonl, .json), or the name of a data set on the Hub."
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
    dev_data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Sources of another speaker or domain that checkpoints and interpolation are chosen on, beside the "
            "dev part of --data."
        },
    )
    dev_language: list[str] = field(default_factory=list, metadata={"help": "Their languages, likewise."})
    where: list[str] = field(
        default_factory=list, metadata={"help": "Rows to use, as column=value; of a source without the column, all."}
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
    max_rejected: float = field(
        default=0.5,
        metadata={"help": "Largest share of a source's rows that may be left out; a run with more does not begin."},
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

    def __post_init__(self) -> None:
        where_values(self.where)
        check_share(self.max_rejected)
        if not 1 <= len(self.dataset_splits) <= len(SPLITS):
            raise ValueError(f"Expected one to three names in --dataset_splits, got {len(self.dataset_splits)}.")

    def sources(self) -> list[Source]:
        """A source for each of `data`; ValueError for a list of languages or experts that fits neither all nor each."""
        languages = one_for_each(self.language, self.data, "language")
        experts = one_for_each(self.expert, self.data, "expert")
        return [self._source(*one) for one in zip(self.data, languages, experts, strict=True)]

    def test_sources(self) -> list[Source]:
        """A source for each of `test_data`, likewise: the test part of data sets on the Hub, all rows of the others."""
        languages = one_for_each(self.test_language, self.test_data, "test_language")
        return [self._source(path, language) for path, language in zip(self.test_data, languages, strict=True)]

    def dev_sources(self) -> list[Source]:
        """A source for each of `dev_data`, likewise."""
        # Those of the training stand in, where there is anything to stand in for.
        given = self.dev_language or (self.language if self.dev_data else [])
        languages = one_for_each(given, self.dev_data, "dev_language")
        return [self._source(path, language) for path, language in zip(self.dev_data, languages, strict=True)]

    def _source(self, path: str, language: str | None, expert: str | None = None) -> Source:
        return Source(
            local_or_hub(path, "a source of speech: a folder, a manifest"),
            language=language,
            expert=expert,
            columns=self.columns(),
            where=where_values(self.where),
            config=self.dataset_config,
            revision=self.dataset_revision,
            # A stream needs the first name alone.
            hub_splits=dict(zip(SPLITS, self.dataset_splits, strict=False)),
        )

    def columns(self) -> Columns:
        """The columns that were named."""
        return Columns(
            audio=self.audio_column,
            text=self.text_column,
            language=self.language_column,
            speaker=self.speaker_column,
        )


def where_values(pairs: Sequence[str]) -> dict[str, str]:
    """Column -> value of `--where column=value`; anything else is a ValueError."""
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise ValueError(f"Expected COLUMN=VALUE in --where, got {wrong[0]!r}.")
    values = dict(pair.split("=", 1) for pair in pairs)
    if len(values) < len(pairs):
        raise ValueError(f"Expected one value for each column in --where, got {' '.join(pairs)}.")
    return values


def check_share(max_rejected: float) -> None:
    """ValueError for a share that is not from 0 to 1."""
    if not 0 <= max_rejected <= 1:
        raise ValueError(f"Expected a share from 0 to 1 in --max_rejected, got {max_rejected:g}.")


def one_for_each(values: Sequence[str], sources: Sequence[str], what: str) -> list[str | None]:
    """A value for every source, from none, one for all, or one for each; anything else is a ValueError."""
    if len(values) not in (0, 1, len(sources)):
        raise ValueError(f"Expected one {what} for all {len(sources)} sources or one for each, got {len(values)}.")
    return list(values) if len(values) == len(sources) else [values[0] if values else None] * len(sources)
