"""Gaps between groups of speakers within a language, and whether a second system widens them.

A gap is always `group - reference`, so a positive one means that the group is recognised worse. The unit of all
intervals and tests is the speaker: a gap between five men and five women is a statement about ten people, however many
clips they recorded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..scores.metrics import Metric, UtteranceScore, primary_metric, scored_utterances
from .intervals import (
    DEFAULT_RESAMPLING,
    FEW_CLUSTERS,
    TOO_FEW_CLUSTERS,
    Average,
    Clusters,
    Interval,
    Resampling,
    cluster_warnings,
    error_arrays,
    independent_difference,
    make_clusters,
    rate_interval,
)
from .paired import holm, pair_utterances
from .speakers import UNDECLARED, canonical_age, canonical_gender


@dataclass(frozen=True)
class GroupRate:
    """One group: its rate pooled over all its utterances and as the mean over its speakers, both in %."""

    group: str
    speakers: int
    utterances: int
    pooled: Interval
    macro: Interval


@dataclass(frozen=True)
class GroupGap:
    """How much worse `group` is recognised than `reference`.

    `absolute` is `group - reference` in percentage points, `relative` that in % of the reference's rate, `ratio` the
    group's rate over the reference's (1: no gap). `p_value` is the two-sided one of `absolute`, `p_corrected` the same
    after correction for all gaps of the report (Holm); nan where no variation between speakers gives none.
    """

    group: str
    reference: str
    absolute: Interval
    relative: Interval
    ratio: Interval
    p_value: float
    p_corrected: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class BiasReport:
    """Groups of one attribute within one language and system, in order of speakers, and the gaps between them.

    `average` says which rate the gaps are of. `warnings` are sentences to print beside the table.
    """

    attribute: str
    system: str
    language: str | None
    metric: Metric
    average: Average
    normalizer: str
    groups: tuple[GroupRate, ...]
    gaps: tuple[GroupGap, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class GapChange:
    """Whether a gap differs between two systems on the same utterances, such as before and after quantisation.

    `before` and `after` are the gaps in percentage points. `absolute` is `after - before`: above 0 the group has
    fallen further behind in points. `ratio` is the group's ratio to the reference after, over that before: above 1 it
    has fallen behind in proportion too, not only because all rates have risen. `p_value` belongs to `absolute`.
    """

    attribute: str
    group: str
    reference: str
    metric: Metric
    average: Average
    before: float
    after: float
    absolute: Interval
    ratio: Interval
    p_value: float
    p_corrected: float
    warnings: tuple[str, ...]


def group_of(score: UtteranceScore, attribute: str) -> str:
    """The group of an utterance: gender and age in canonical labels, another attribute as it is, None undeclared."""
    label = score.key(attribute)
    if attribute == "gender":
        return canonical_gender(label)
    if attribute == "age":
        return canonical_age(label)
    return UNDECLARED if label is None or not label.strip() else label


def speaker_gaps(
    scores: Sequence[UtteranceScore],
    attribute: str,
    *,
    rng: np.random.Generator,
    metric: Metric | None = None,
    average: Average = "macro",
    reference: str | None = None,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> BiasReport:
    """Rates of the groups of `attribute` ("gender", "age" or any label), and the gap of each to a reference group.

    `metric` is by default the primary one of the language. `average="macro"` compares means over speakers, so that no
    talkative speaker decides; "pooled" all errors over all words. `reference` is by default the group with most
    speakers, a choice that does not depend on the rates.

    A group of fewer than five speakers is reported but not compared; from five to nine it is compared with a warning.
    Undeclared speakers are reported and never compared, and a speaker who declares two groups counts as undeclared.
    Where speakers are unknown, utterances take their place, and a warning says so. Raises `ValueError` when there is
    nothing to score, more than one system, language or normaliser, or no group called `reference`.
    """
    first = _only(scores)
    metric = metric or primary_metric(first.language)
    groups, warnings = _split(scored_utterances(scores), attribute)
    reference, compared, too_few = _choose_groups(groups, attribute, reference)
    clusters = {group: _clusters(groups[group], metric, average) for group in (reference, *compared) if compared}
    gaps = [_gap(group, clusters[group], reference, clusters[reference], resampling, rng=rng) for group in compared]
    corrected = _corrected(gaps)
    return BiasReport(
        attribute=attribute,
        system=first.system,
        language=first.language,
        metric=metric,
        average=average,
        normalizer=first.normalizer,
        groups=tuple(_group_rate(group, members, metric, resampling, rng=rng) for group, members in groups.items()),
        gaps=tuple(replace(gap, p_corrected=corrected[gap.group]) for gap in gaps),
        warnings=(*warnings, *too_few),
    )


def gap_changes(
    before: Sequence[UtteranceScore],
    after: Sequence[UtteranceScore],
    attribute: str,
    *,
    rng: np.random.Generator,
    metric: Metric | None = None,
    average: Average = "macro",
    reference: str | None = None,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> list[GapChange]:
    """The difference of each gap of `speaker_gaps` between two systems on the same utterances.

    Speakers are resampled within their group, with both systems' errors together, so that what the systems share
    cancels. Groups are chosen as in `speaker_gaps`; the list is empty if no two groups can be compared.
    """
    _only(before)
    before, after = pair_utterances(before, after)
    metric = metric or primary_metric(_only(before).language)
    groups, _ = _split(before, attribute)
    reference, compared, _ = _choose_groups(groups, attribute, reference)
    later = {score.utterance_id: score for score in after}
    pairs = {
        group: (
            _clusters(groups[group], metric, average),
            _clusters([later[score.utterance_id] for score in groups[group]], metric, average),
        )
        for group in (reference, *compared)
        if compared
    }
    changes = [_change(attribute, metric, average, group, reference, pairs, resampling, rng=rng) for group in compared]
    corrected = _corrected(changes)
    return [replace(change, p_corrected=corrected[change.group]) for change in changes]


def _only(scores: Sequence[UtteranceScore]) -> UtteranceScore:
    if not scores:
        raise ValueError("no utterance to compare groups of")
    for name in ("system", "language", "normalizer"):
        values = sorted({str(score.key(name)) for score in scores})
        if len(values) > 1:
            raise ValueError(f"groups are compared within one {name}, got {', '.join(values)}")
    return scores[0]


def _split(scores: Sequence[UtteranceScore], attribute: str) -> tuple[dict[str, list[UtteranceScore]], tuple[str, ...]]:
    """Utterances by group, the group with most speakers first and the undeclared last."""
    declared: dict[str, set[str]] = {}
    for score in scores:
        group = group_of(score, attribute)
        if score.speaker is not None and group != UNDECLARED:
            declared.setdefault(score.speaker, set()).add(group)
    contradictory = {speaker for speaker, groups in declared.items() if len(groups) > 1}
    groups: dict[str, list[UtteranceScore]] = {}
    for score in scores:
        group = UNDECLARED if score.speaker in contradictory else group_of(score, attribute)
        groups.setdefault(group, []).append(score)
    order = sorted(groups, key=lambda group: (group == UNDECLARED, -_units(groups[group]), group))
    warnings = []
    if contradictory:
        warnings.append(f"{len(contradictory)} speakers declare more than one {attribute} and count as undeclared.")
    return {group: groups[group] for group in order}, tuple(warnings)


def _units(members: Sequence[UtteranceScore]) -> int:
    """How many clusters the members make: speakers, and utterances without one."""
    return len({score.speaker for score in members} - {None}) + sum(score.speaker is None for score in members)


def _choose_groups(
    groups: dict[str, list[UtteranceScore]], attribute: str, reference: str | None
) -> tuple[str, list[str], list[str]]:
    """The reference group, the groups to compare with it, and why the others are not."""
    names = [group for group in groups if group != UNDECLARED]
    if reference is not None and reference not in names:
        raise ValueError(f"no scored speaker has the {attribute} {reference!r}; there are {', '.join(names) or 'none'}")
    warnings = [
        f"{group}: only {_units(groups[group])} speakers, too few to compare (at least {TOO_FEW_CLUSTERS})."
        for group in names
        if _units(groups[group]) < TOO_FEW_CLUSTERS
    ]
    large = [group for group in names if _units(groups[group]) >= TOO_FEW_CLUSTERS]
    if reference is None:
        reference = names[0] if names else UNDECLARED
    compared = [group for group in large if group != reference] if reference in large else []
    if not compared:
        warnings.append(f"No two groups of {attribute} have {TOO_FEW_CLUSTERS} speakers: nothing is compared.")
    return reference, compared, warnings


def _clusters(members: Sequence[UtteranceScore], metric: Metric, average: Average) -> Clusters:
    errors, lengths, speakers = error_arrays(members, metric)
    return make_clusters(errors, lengths, speakers=speakers, average=average)


def _group_rate(
    group: str,
    members: Sequence[UtteranceScore],
    metric: Metric,
    resampling: Resampling,
    *,
    rng: np.random.Generator,
) -> GroupRate:
    if _units(members) > 1:
        pooled, macro = (
            rate_interval(_clusters(members, metric, average), resampling, rng=rng) for average in ("pooled", "macro")
        )
    else:
        pooled = macro = _single(members, metric, resampling)
    speakers = len({score.speaker for score in members} - {None})
    return GroupRate(group, speakers, len(members), pooled, macro)


def _single(members: Sequence[UtteranceScore], metric: Metric, resampling: Resampling) -> Interval:
    """The rate of one speaker, about whose group nothing follows."""
    errors, lengths, speakers = error_arrays(members, metric)
    unit = "utterance" if speakers[0] is None else "speaker"
    return Interval(
        estimate=float(100 * errors.sum() / lengths.sum()),
        low=np.nan,
        high=np.nan,
        level=resampling.level,
        method=resampling.method,
        unit=unit,
        clusters=1,
        utterances=len(members),
        resamples=0,
        warnings=cluster_warnings(1, sum(speaker is None for speaker in speakers), unit),
    )


def _gap(
    group: str,
    clusters: Clusters,
    reference: str,
    reference_clusters: Clusters,
    resampling: Resampling,
    *,
    rng: np.random.Generator,
) -> GroupGap:
    absolute, p_value = independent_difference(reference_clusters, clusters, rng=rng, resampling=resampling)
    log_ratio, _ = independent_difference(reference_clusters, clusters, rng=rng, resampling=resampling, log=True)
    ratio = _exponential(log_ratio)
    return GroupGap(
        group=group,
        reference=reference,
        absolute=absolute,
        relative=_percent_above_one(ratio),
        ratio=ratio,
        p_value=p_value,
        p_corrected=p_value,
        warnings=_gap_warnings({group: clusters, reference: reference_clusters}, ratio),
    )


def _change(
    attribute: str,
    metric: Metric,
    average: Average,
    group: str,
    reference: str,
    pairs: dict[str, tuple[Clusters, Clusters]],
    resampling: Resampling,
    *,
    rng: np.random.Generator,
) -> GapChange:
    differences = {name: replace(a, numerators=b.numerators - a.numerators) for name, (a, b) in pairs.items()}
    growth = {name: replace(a, numerators=b.numerators, denominators=a.numerators) for name, (a, b) in pairs.items()}
    absolute, p_value = independent_difference(
        differences[reference], differences[group], rng=rng, resampling=resampling
    )
    log_ratio, _ = independent_difference(growth[reference], growth[group], rng=rng, resampling=resampling, log=True)
    ratio = _exponential(log_ratio)
    gaps = [100 * (pairs[group][i].ratio - pairs[reference][i].ratio) for i in (0, 1)]
    return GapChange(
        attribute=attribute,
        group=group,
        reference=reference,
        metric=metric,
        average=average,
        before=gaps[0],
        after=gaps[1],
        absolute=absolute,
        ratio=ratio,
        p_value=p_value,
        p_corrected=p_value,
        warnings=_gap_warnings({name: differences[name] for name in (group, reference)}, ratio),
    )


def _corrected(gaps: Sequence[GroupGap | GapChange]) -> dict[str, float]:
    """P-values by group, corrected for the number of those that are defined."""
    defined = holm({gap.group: gap.p_value for gap in gaps if not np.isnan(gap.p_value)})
    return {gap.group: defined.get(gap.group, np.nan) for gap in gaps}


def _exponential(interval: Interval) -> Interval:
    estimate, low, high = (float(np.exp(value)) for value in (interval.estimate, interval.low, interval.high))
    return replace(interval, estimate=estimate, low=low, high=high)


def _percent_above_one(ratio: Interval) -> Interval:
    estimate, low, high = (100 * (value - 1) for value in (ratio.estimate, ratio.low, ratio.high))
    return replace(ratio, estimate=estimate, low=low, high=high)


def _gap_warnings(clusters: dict[str, Clusters], ratio: Interval) -> tuple[str, ...]:
    warnings = [
        f"{group}: only {len(members)} {members.unit}s, so the gap may be that of these people and not of the group."
        for group, members in clusters.items()
        if len(members) < FEW_CLUSTERS
    ]
    if any(members.unit == "utterance" for members in clusters.values()):
        warnings.append("Speakers are unknown: utterances were resampled, and the intervals are likely too narrow.")
    if not 0 < ratio.estimate < np.inf:
        warnings.append("A group has no error at all, so relative gap and ratio have no interval.")
    return tuple(warnings)
