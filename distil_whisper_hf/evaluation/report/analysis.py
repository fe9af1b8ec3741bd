"""From stored hypotheses to the rows of a report: rates, comparisons, gaps, and how quantisation changes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...data.clips import Clip
from ..recipes import Recipe
from ..scores.metrics import (
    CorpusScore,
    ErrorCounts,
    Metric,
    UtteranceScore,
    aggregate,
    primary_metric,
    score_utterance,
    scored_utterances,
)
from ..scores.normalization import Normalizer, get_normalizer
from ..scores.numerals import can_spell, spelling_normalizer
from ..statistics.bleu_intervals import BleuScore, bleu_score
from ..statistics.intervals import TOO_FEW_CLUSTERS, Interval, Resampling, error_arrays, make_clusters, rate_interval
from ..statistics.paired import compare_systems, holm
from ..statistics.speaker_gaps import BiasReport, GapChange, gap_changes, group_of, speaker_gaps
from ..statistics.speakers import UNDECLARED
from ..systems.hypotheses import Hypothesis
from ..systems.opening import SystemSpec


@dataclass(frozen=True)
class RateRow:
    """Error rates of one system on one data set and language; intervals are None where there is too little."""

    dataset: str
    language: str
    domain: str
    system: str
    model: str
    precision: str
    metric: Metric
    score: CorpusScore
    wer: Interval | None
    cer: Interval | None
    cut: int


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same clips of one data set and language, in the language's primary metric.

    `difference` is `after - before` in points with its interval; `p_value` is that of the permutation test, and
    `p_corrected` the same after Holm's correction over all comparisons of the report.
    """

    dataset: str
    language: str
    before: str
    after: str
    metric: Metric
    first: float
    second: float
    difference: Interval
    p_value: float
    p_corrected: float


ALL_ERRORS = "all"
CAPPED = "at most 100 % a clip"


@dataclass(frozen=True)
class GapRow:
    """Groups of one attribute on one data set, for one system.

    `errors` is `ALL_ERRORS` or `CAPPED` (see `capped`); `loops` counts clips with a repetition loop by group.
    """

    dataset: str
    errors: str
    loops: Mapping[str, int]
    report: BiasReport


@dataclass(frozen=True)
class GapChangeRow:
    """A gap before and after, with the names of the systems."""

    dataset: str
    language: str
    errors: str
    before: str
    after: str
    change: GapChange


@dataclass(frozen=True)
class BleuRow:
    """Translation of one data set into English by one system."""

    dataset: str
    language: str
    domain: str
    system: str
    score: BleuScore


@dataclass
class Analysis:
    """All rows of a report; `uncompared` lists data sets by attribute and by the reason that there is no comparison."""

    rates: list[RateRow] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    gaps: list[GapRow] = field(default_factory=list)
    gap_changes: list[GapChangeRow] = field(default_factory=list)
    bleu: list[BleuRow] = field(default_factory=list)
    normalizers: dict[str, list[str]] = field(default_factory=dict)
    uncompared: dict[tuple[str, str], list[str]] = field(default_factory=dict)


Answers = Mapping[str, Mapping[str, Hypothesis]]  # system -> full id -> hypothesis


def normalizer_for(recipe: Recipe, language: str) -> Normalizer:
    """The recipe's normaliser for a language: Whisper's English one for English only, its basic one for the others;
    numerals are spelled out where their words are known."""
    name = "basic" if recipe.normalizer == "english" and language != "en" else recipe.normalizer
    normalizer = get_normalizer(name, language)
    if recipe.spell_numbers == "no" or not can_spell(language):
        return normalizer
    return spelling_normalizer(normalizer, recipe.spell_numbers, language)


def score_all(recipe: Recipe, clips: Sequence[Clip], answers: Answers) -> list[UtteranceScore]:
    """Scores of all transcribed utterances of all systems."""
    spoken = [clip for clip in clips if clip.task == "transcribe"]
    normalizers = {clip.language: normalizer_for(recipe, clip.language) for clip in spoken}
    scores = []
    for spec in recipe.systems:
        for clip in spoken:
            hypothesis = answers[spec.name][clip.full_id]
            scores.append(
                score_utterance(
                    clip.text,
                    hypothesis.text,
                    normalizer=normalizers[clip.language],
                    utterance_id=clip.full_id,
                    system=spec.name,
                    language=clip.language,
                    speaker=clip.speaker or None,
                    labels={
                        "gender": clip.gender or None,
                        "age": clip.age or None,
                        "domain": clip.domain,
                        "dataset": clip.dataset,
                        "outcome": hypothesis.outcome,
                        "cut": "yes" if hypothesis.cut else None,
                    },
                )
            )
    return scores


def capped(score: UtteranceScore) -> UtteranceScore:
    """The score with no more errors than its reference is long: insertions beyond that are not counted."""

    def cap(counts: ErrorCounts) -> ErrorCounts:
        room = counts.reference_length - counts.substitutions - counts.deletions
        return replace(counts, insertions=min(counts.insertions, room))

    return score if score.empty_reference else replace(score, words=cap(score.words), characters=cap(score.characters))


def analyse(recipe: Recipe, clips: Sequence[Clip], answers: Answers, scores: Sequence[UtteranceScore]) -> Analysis:
    """Every table of the report. Deterministic: random numbers come from the recipe's seed."""
    rng = np.random.default_rng(recipe.seed)
    resampling = Resampling(resamples=recipe.resamples, level=recipe.level)
    domains = {spec.name: spec.domain for spec in recipe.datasets}
    result = Analysis()
    for score in scores:
        languages = result.normalizers.setdefault(score.normalizer, [])
        if score.language not in languages:
            languages.append(score.language)
    for dataset, language, cell in _cells(recipe, scores):
        for spec in recipe.systems:
            row = _rate_row(cell[spec.name], spec, dataset, language, domains[dataset], resampling, rng=rng)
            result.rates.append(row)
        for before, after in pairs(recipe.systems):
            result.comparisons += _comparison(cell, dataset, language, before, after, resampling, rng=rng)
        for attribute in recipe.attributes:
            _compare_groups(result, recipe, cell, dataset, language, attribute, resampling, rng=rng)
    result.comparisons = _with_holm(result.comparisons)
    result.bleu = list(_bleu_rows(recipe, clips, answers, domains, resampling, rng=rng))
    return result


def pairs(systems: Sequence[SystemSpec]) -> list[tuple[SystemSpec, SystemSpec]]:
    """Which systems are compared: each precision with float32 of its model, each model with the first one in the same
    precision."""
    by_name = {spec.name: spec for spec in systems}
    found = []
    for spec in systems:
        unquantized = by_name.get(spec.unquantized().name)
        if spec.precision != "float32" and unquantized is not None:
            found.append((unquantized, spec))
        first = next(other for other in systems if other.precision == spec.precision)
        if first.model_label != spec.model_label:
            found.append((first, spec))
    return found


def quantization_pairs(systems: Sequence[SystemSpec]) -> list[tuple[SystemSpec, SystemSpec]]:
    """Those of `pairs` that differ in precision only."""
    return [(before, after) for before, after in pairs(systems) if before.model_label == after.model_label]


def _cells(
    recipe: Recipe, scores: Sequence[UtteranceScore]
) -> Iterator[tuple[str, str, dict[str, list[UtteranceScore]]]]:
    """Scores by data set and language, then by system; data sets in the recipe's order."""
    cells: dict[tuple[str, str], dict[str, list[UtteranceScore]]] = {}
    for score in scores:
        cell = cells.setdefault((score.labels["dataset"], score.language), {})
        cell.setdefault(score.system, []).append(score)
    order = [spec.name for spec in recipe.datasets]
    for key in sorted(cells, key=lambda key: order.index(key[0])):
        yield *key, cells[key]


def speakers_known(scores: Sequence[UtteranceScore]) -> bool:
    """Whether there are speakers enough to resample; if not, utterances take their place.

    Utterances without a speaker then count as one speaker each, and a warning says so.
    """
    return len({score.speaker for score in scored_utterances(scores)} - {None}) >= TOO_FEW_CLUSTERS


def _interval(
    scores: Sequence[UtteranceScore], metric: Metric, resampling: Resampling, *, rng: np.random.Generator
) -> Interval | None:
    scored = scored_utterances(scores)
    if len(scored) < 2:
        return None
    errors, lengths, speakers = error_arrays(scored, metric)
    if speakers_known(scored):
        return rate_interval(make_clusters(errors, lengths, speakers=speakers), resampling, rng=rng)
    interval = rate_interval(make_clusters(errors, lengths), resampling, rng=rng)
    return replace(interval, warnings=(_few_speakers(scored), *interval.warnings[1:]))


def _few_speakers(scores: Sequence[UtteranceScore]) -> str:
    speakers = {score.speaker for score in scores} - {None}
    if not speakers:
        return "Speakers are unknown: utterances were resampled, and the interval is likely too narrow."
    people = "speaker" if len(speakers) == 1 else "speakers"
    return f"Only {len(speakers)} {people}: utterances were resampled, so it holds for other sentences of the same."


def _rate_row(
    scores: Sequence[UtteranceScore],
    spec: SystemSpec,
    dataset: str,
    language: str,
    domain: str,
    resampling: Resampling,
    *,
    rng: np.random.Generator,
) -> RateRow:
    (score,) = aggregate(scores)
    return RateRow(
        dataset=dataset,
        language=language,
        domain=domain,
        system=spec.name,
        model=spec.model_label,
        precision=spec.precision,
        metric=primary_metric(language),
        score=score,
        wer=_interval(scores, "wer", resampling, rng=rng),
        cer=_interval(scores, "cer", resampling, rng=rng),
        cut=sum(one.labels["cut"] is not None for one in scores),
    )


def _comparison(
    cell: Mapping[str, list[UtteranceScore]],
    dataset: str,
    language: str,
    before: SystemSpec,
    after: SystemSpec,
    resampling: Resampling,
    *,
    rng: np.random.Generator,
) -> list[Comparison]:
    first, second = cell[before.name], cell[after.name]
    if len(scored_utterances(first)) < 2:
        return []
    found = compare_systems(
        first,
        second,
        rng=rng,
        metric=primary_metric(language),
        by_speaker=speakers_known(first),
        resampling=resampling,
    )
    p = found.p_permutation
    return [
        Comparison(
            dataset, language, before.name, after.name, found.metric, found.first, found.second, found.difference, p, p
        )
    ]


def _with_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    corrected = holm({str(index): one.p_value for index, one in enumerate(comparisons)})
    return [replace(one, p_corrected=corrected[str(index)]) for index, one in enumerate(comparisons)]


def _compare_groups(
    result: Analysis,
    recipe: Recipe,
    cell: Mapping[str, list[UtteranceScore]],
    dataset: str,
    language: str,
    attribute: str,
    resampling: Resampling,
    *,
    rng: np.random.Generator,
) -> None:
    """Groups of one attribute: their gaps, and the change of these; or the sentence that says why there is none."""
    scored = scored_utterances(next(iter(cell.values())))
    groups = {group_of(score, attribute) for score in scored} - {UNDECLARED}
    if len(groups) < 2:
        who = f"only {groups.pop()} speakers" if groups else "undeclared by all speakers"
        result.uncompared.setdefault((attribute, who), []).append(f"{dataset} ({language})")
        return
    limited = {name: [capped(score) for score in members] for name, members in cell.items()}
    for errors, scores in ((ALL_ERRORS, cell), (CAPPED, limited)):
        for spec in recipe.systems:
            members = scores[spec.name]
            report = speaker_gaps(members, attribute, rng=rng, resampling=resampling)
            loops = Counter(group_of(score, attribute) for score in members if score.repetition.is_loop)
            result.gaps.append(GapRow(dataset, errors, dict(loops), report))
        for before, after in quantization_pairs(recipe.systems):
            changes = gap_changes(scores[before.name], scores[after.name], attribute, rng=rng, resampling=resampling)
            result.gap_changes += [
                GapChangeRow(dataset, language, errors, before.name, after.name, change) for change in changes
            ]


def _bleu_rows(
    recipe: Recipe,
    clips: Sequence[Clip],
    answers: Answers,
    domains: Mapping[str, str],
    resampling: Resampling,
    *,
    rng: np.random.Generator,
) -> Iterator[BleuRow]:
    cells: dict[tuple[str, str], list[Clip]] = {}
    for clip in clips:
        if clip.task == "translate":
            cells.setdefault((clip.dataset, clip.language), []).append(clip)
    for (dataset, language), members in cells.items():
        for spec in recipe.systems:
            score = bleu_score(
                [member.text for member in members],
                [answers[spec.name][member.full_id].text for member in members],
                speakers=[member.speaker or None for member in members],
                rng=rng,
                resampling=resampling,
            )
            yield BleuRow(dataset, language, domains[dataset], spec.name, score)
