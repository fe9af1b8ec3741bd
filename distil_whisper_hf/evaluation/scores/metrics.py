"""Word and character error rates: counts of each utterance first, then sums over any grouping of utterances.

Nothing is dropped silently. Each result says how many utterances had an empty reference, were not transcribed, or went
into a repetition loop, and which they are.
"""

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Literal, get_args

import jiwer

from ...languages import is_unspaced
from .normalization import Normalizer

Metric = Literal["wer", "cer"]

# Whisper's own limit, above which its decoder rejects a segment (Radford et al. 2022, section 4.5).
COMPRESSION_RATIO_LIMIT = 2.4
# Long texts, and scripts of several bytes a letter, compress well on their own: a loop compresses this much better
# than the reference.
LOOP_COMPRESSION_FACTOR = 1.5
# A phrase said this many times in a row is a loop, unless the reference has it as often.
LOOP_REPEATS = 4
# In scripts without spaces repeats are counted in characters, where four in a row are still common ("1000000").
LOOP_CHARACTERS = 12
LONGEST_REPEATED_NGRAM = 10


@dataclass(frozen=True)
class ErrorCounts:
    """Units (words or characters) of an alignment with the fewest errors; counts add up with `+`."""

    hits: int = 0
    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.insertions + self.deletions

    @property
    def reference_length(self) -> int:
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per reference unit in %, from 0 upwards (insertions can bring it over 100); nan without any unit."""
        return 100 * self.errors / self.reference_length if self.reference_length else math.nan

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.insertions + other.insertions,
            self.deletions + other.deletions,
        )


@dataclass(frozen=True)
class Repetition:
    """How much a hypothesis repeats itself.

    `compression_ratio`: bytes of the text over bytes of its zlib compression. `repeats`: the longest run of copies of
    one n-gram, `ngram`, right behind one another (1: nothing is repeated).
    """

    compression_ratio: float
    repeats: int
    ngram: str
    is_loop: bool


@dataclass(frozen=True)
class UtteranceScore:
    """One utterance of one system: its texts before and after normalisation, its error counts, and whom it belongs to.

    `hypothesis` is None when the utterance was not transcribed. `labels` are further keys to group by, such as gender,
    age or domain. `normalizer` is the label of the normaliser. Counts of a scored utterance with an empty reference
    are insertions.
    """

    utterance_id: str
    system: str
    language: str | None
    speaker: str | None
    reference: str
    hypothesis: str | None
    normalized_reference: str
    normalized_hypothesis: str
    words: ErrorCounts
    characters: ErrorCounts
    repetition: Repetition
    normalizer: str
    labels: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def transcribed(self) -> bool:
        return self.hypothesis is not None

    @property
    def empty_reference(self) -> bool:
        """Whether normalisation leaves no word of the reference, so that no error rate is defined."""
        return self.words.reference_length == 0

    def counts(self, metric: Metric) -> ErrorCounts:
        """Words for `"wer"`, characters for `"cer"`."""
        if metric not in get_args(Metric):
            raise ValueError(f"unknown metric {metric!r}; choose one of 'wer', 'cer'")
        return self.words if metric == "wer" else self.characters

    def key(self, name: str) -> str | None:
        """The value of `system`, `language`, `speaker`, `normalizer` or one of the labels."""
        if name in ("system", "language", "speaker", "normalizer"):
            return getattr(self, name)
        if name not in self.labels:
            known = ["system", "language", "speaker", "normalizer", *self.labels]
            raise ValueError(f"utterance {self.utterance_id!r} has no key {name!r}; it has {', '.join(known)}")
        return self.labels[name]


def primary_metric(language: str | None) -> Metric:
    """The figure to report first: CER for languages written without spaces, else WER."""
    return "cer" if is_unspaced(language) else "wer"


def word_counts(reference: str, hypothesis: str) -> ErrorCounts:
    """Counts over words, which are what white space separates; the texts are already normalised."""
    output = jiwer.process_words(" ".join(reference.split()), " ".join(hypothesis.split()))
    return ErrorCounts(output.hits, output.substitutions, output.insertions, output.deletions)


def character_counts(reference: str, hypothesis: str, *, spaces: bool = True) -> ErrorCounts:
    """Counts over code points of normalised texts, single spaces between words included unless `spaces` is False."""
    separator = " " if spaces else ""
    output = jiwer.process_characters(separator.join(reference.split()), separator.join(hypothesis.split()))
    return ErrorCounts(output.hits, output.substitutions, output.insertions, output.deletions)


def compression_ratio(text: str) -> float:
    """Bytes of the UTF-8 text over bytes of its zlib compression, as Whisper computes it; 0 for an empty text."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def longest_repetition(units: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """The longest run of consecutive copies of one n-gram, and the n-gram; of equally long runs the shortest n-gram.

    `["a", "b", "a", "b", "a", "c"]` gives `(2, ("a", "b"))`: a copy that is cut short does not count. `(0, ())` if
    empty.
    """
    best, ngram = (1, tuple(units[:1])) if units else (0, ())
    for n in range(1, min(LONGEST_REPEATED_NGRAM, len(units) // 2) + 1):
        equal = 0
        for start in range(len(units) - n):
            equal = equal + 1 if units[start] == units[start + n] else 0
            if equal // n + 1 > best:
                best, ngram = equal // n + 1, tuple(units[start + 1 : start + 1 + n])
    return best, ngram


def find_repetition(
    hypothesis: str, *, normalized_hypothesis: str, normalized_reference: str, language: str | None = None
) -> Repetition:
    """Whether a hypothesis is a repetition loop, the hallucination typical of Whisper.

    It is when the text compresses better than 2.4 to 1, as in Whisper's own decoding, and 1.5 times better than the
    reference; or when a phrase of up to ten words comes four times or more in a row (in languages without spaces: of
    up to ten characters, and twelve characters in all), and more often than in the reference, because "no, no, no, no"
    may be what was said.
    """
    unspaced = is_unspaced(language)
    units, reference_units = (
        list("".join(text.split())) if unspaced else text.split()
        for text in (normalized_hypothesis, normalized_reference)
    )
    ratio = compression_ratio(hypothesis.strip())
    repeats, ngram = longest_repetition(units)
    long_enough = not unspaced or repeats * len(ngram) >= LOOP_CHARACTERS
    repeated = repeats >= LOOP_REPEATS and long_enough and repeats > longest_repetition(reference_units)[0]
    ordinary = LOOP_COMPRESSION_FACTOR * compression_ratio(normalized_reference)
    compressed = ratio > max(COMPRESSION_RATIO_LIMIT, ordinary)
    return Repetition(ratio, repeats, ("" if unspaced else " ").join(ngram), repeated or compressed)


def score_utterance(
    reference: str,
    hypothesis: str | None,
    *,
    normalizer: Normalizer,
    utterance_id: str = "",
    system: str = "",
    language: str | None = None,
    speaker: str | None = None,
    labels: Mapping[str, str | None] | None = None,
) -> UtteranceScore:
    """Compare one hypothesis with its reference.

    A `hypothesis` of None means that there is none (the audio could not be read, the model failed): every reference
    unit is a deletion. An empty string is an ordinary hypothesis with the same counts. In languages without spaces
    characters are counted without the spaces, which are arbitrary there.
    """
    if reference is None:
        raise TypeError(
            f"utterance {utterance_id!r} has no reference: leave it out, or give '' if nothing is said in it"
        )
    normalized_reference = normalizer(reference)
    normalized_hypothesis = "" if hypothesis is None else normalizer(hypothesis)
    return UtteranceScore(
        utterance_id=utterance_id,
        system=system,
        language=language,
        speaker=speaker,
        reference=reference,
        hypothesis=hypothesis,
        normalized_reference=normalized_reference,
        normalized_hypothesis=normalized_hypothesis,
        words=word_counts(normalized_reference, normalized_hypothesis),
        characters=character_counts(normalized_reference, normalized_hypothesis, spaces=not is_unspaced(language)),
        repetition=find_repetition(
            hypothesis or "",
            normalized_hypothesis=normalized_hypothesis,
            normalized_reference=normalized_reference,
            language=language,
        ),
        normalizer=normalizer.label,
        labels=dict(labels or {}),
    )


@dataclass(frozen=True)
class CorpusScore:
    """Sums over utterances. Rates are in %, pooled: all errors over all reference units.

    `words` and `characters` leave out utterances with an empty reference. Those are listed in `empty_references`, and
    what was recognised in them, all of it insertions, is in `empty_reference_words` and `empty_reference_characters`.
    `untranscribed` lists the utterances without a hypothesis; they count as wholly deleted. `duplicates` lists ids that
    occur more than once; each occurrence counts. `loops` lists repetition loops.
    """

    key: Mapping[str, str | None]
    normalizer: str
    metric: Metric | None
    utterances: int
    scored: int
    speakers: int
    words: ErrorCounts
    characters: ErrorCounts
    empty_references: tuple[str, ...]
    empty_reference_words: ErrorCounts
    empty_reference_characters: ErrorCounts
    untranscribed: tuple[str, ...]
    loops: tuple[str, ...]
    duplicates: tuple[str, ...]

    @property
    def wer(self) -> float:
        """Word error rate in %; nan when no utterance is scored."""
        return self.words.rate

    @property
    def cer(self) -> float:
        """Character error rate in %; nan when no utterance is scored."""
        return self.characters.rate


def scored_utterances(scores: Iterable[UtteranceScore]) -> list[UtteranceScore]:
    """Utterances that enter an error rate: those with a reference, whether they were transcribed or not."""
    return [score for score in scores if not score.empty_reference]


def aggregate(scores: Iterable[UtteranceScore], by: Sequence[str] = ("system", "language")) -> list[CorpusScore]:
    """Sum utterances that agree in all keys of `by` (`system`, `language`, `speaker` or a label), in order of
    appearance.

    An utterance without a hypothesis counts as wholly deleted, and is listed. Raises `ValueError` for an unknown key,
    and when one sum would mix systems or normalisers.
    """
    cells: dict[tuple[str | None, ...], list[UtteranceScore]] = {}
    for score in scores:
        cells.setdefault(tuple(score.key(name) for name in by), []).append(score)
    return [_sum(dict(zip(by, key, strict=True)), cell) for key, cell in cells.items()]


def _sum(key: Mapping[str, str | None], cell: list[UtteranceScore]) -> CorpusScore:
    for name in ("system", "normalizer"):
        values = sorted({str(score.key(name)) for score in cell})
        if len(values) > 1:
            raise ValueError(f"one error rate over several {name}s ({', '.join(values)}): add {name!r} to `by`")
    metrics = {primary_metric(score.language) for score in cell}
    scored = scored_utterances(cell)
    empty = [score for score in cell if score.empty_reference]
    return CorpusScore(
        key=key,
        normalizer=cell[0].normalizer,
        metric=metrics.pop() if len(metrics) == 1 else None,
        utterances=len(cell),
        scored=len(scored),
        speakers=len({score.speaker for score in cell if score.speaker is not None}),
        words=reduce(add, (score.words for score in scored), ErrorCounts()),
        characters=reduce(add, (score.characters for score in scored), ErrorCounts()),
        empty_references=tuple(score.utterance_id for score in empty),
        empty_reference_words=reduce(add, (score.words for score in empty), ErrorCounts()),
        empty_reference_characters=reduce(add, (score.characters for score in empty), ErrorCounts()),
        untranscribed=tuple(score.utterance_id for score in cell if not score.transcribed),
        loops=tuple(score.utterance_id for score in cell if score.repetition.is_loop),
        duplicates=tuple(name for name, times in Counter(score.utterance_id for score in cell).items() if times > 1),
    )
