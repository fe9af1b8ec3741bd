"""Tests between two systems on the same utterances, and the correction of p-values for many comparisons.

As in `intervals`, what is resampled or exchanged is a cluster: all utterances of one speaker.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..scores.metrics import Metric, UtteranceScore, scored_utterances
from .intervals import (
    DEFAULT_RESAMPLING,
    Average,
    Floats,
    Interval,
    Resampling,
    error_arrays,
    make_clusters,
    paired_difference,
)

# Signs drawn at a time, so that memory stays bounded.
_CHUNK = 2_000_000


@dataclass(frozen=True)
class PairedComparison:
    """Two systems on the same utterances.

    `difference` is `second - first` in percentage points, negative when the second makes fewer errors; `first` and
    `second` are the rates in %. The two-sided `p_permutation` is that of exchanging the two systems within clusters
    (`exact`: all exchanges were tried, not a sample of them). `average` is "pooled" over utterances or "macro", the
    mean over speakers.
    """

    metric: Metric
    average: Average
    first: float
    second: float
    difference: Interval
    p_permutation: float
    exact: bool


def pair_utterances(
    first: Sequence[UtteranceScore], second: Sequence[UtteranceScore]
) -> tuple[list[UtteranceScore], list[UtteranceScore]]:
    """Scored utterances of two systems in one order, those of the first.

    Raises `ValueError` when ids repeat, when one system lacks an utterance, or when references or normalisers differ.
    """
    by_id = {score.utterance_id: score for score in second}
    names = [score.utterance_id for score in first]
    if len(set(names)) != len(names) or len(by_id) != len(second):
        raise ValueError("utterance ids repeat: two systems can only be paired by ids that are unique in each")
    missing = sorted(set(names) ^ set(by_id))
    if missing:
        shown = ", ".join(map(repr, missing[:5]))
        raise ValueError(f"{len(missing)} utterances are scored by one of the two systems only, such as {shown}")
    pairs = [(score, by_id[score.utterance_id]) for score in first]
    for a, b in pairs:
        if (a.normalized_reference, a.normalizer) != (b.normalized_reference, b.normalizer):
            raise ValueError(
                f"utterance {a.utterance_id!r} has the reference {a.normalized_reference!r} ({a.normalizer}) for one "
                f"system and {b.normalized_reference!r} ({b.normalizer}) for the other"
            )
    pairs = [pair for pair in pairs if len(scored_utterances(pair)) == 2]
    return [a for a, _ in pairs], [b for _, b in pairs]


def compare_systems(
    first: Sequence[UtteranceScore],
    second: Sequence[UtteranceScore],
    *,
    rng: np.random.Generator,
    metric: Metric = "wer",
    average: Average = "pooled",
    by_speaker: bool = True,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> PairedComparison:
    """Whether `second` makes more or fewer errors than `first` on the same utterances.

    `by_speaker=False` resamples utterances even where speakers are known. Raises `ValueError` when the utterances do
    not pair (`pair_utterances`) or come from one speaker only.
    """
    first, second = pair_utterances(first, second)
    first_errors, lengths, speakers = error_arrays(first, metric)
    second_errors, _, _ = error_arrays(second, metric)
    known = speakers if by_speaker else None
    clusters = make_clusters(second_errors - first_errors, lengths, speakers=known, average=average)
    difference, _ = paired_difference(clusters, resampling, rng=rng)
    p_permutation, exact = sign_flip_p_value(clusters.numerators, resamples=resampling.resamples, rng=rng)
    rates = (
        100 * make_clusters(errors, lengths, speakers=known, average=average).ratio
        for errors in (first_errors, second_errors)
    )
    return PairedComparison(metric, average, *rates, difference=difference, p_permutation=p_permutation, exact=exact)


def sign_flip_p_value(differences: Floats, *, rng: np.random.Generator, resamples: int = 10_000) -> tuple[float, bool]:
    """Two-sided p-value of the sum of `differences` (clusters,) when each sign is as likely as the other.

    If two systems are equally good, exchanging them within a cluster changes nothing but the sign. All sign patterns
    are tried when there are no more than `resamples` (the second value is then True), else that many random ones, with
    the observed one counted among them, so that p is never 0. Clusters without a difference have no sign to change and
    are left out, which changes nothing but the number of patterns.
    """
    differences = np.asarray(differences, dtype=np.float64)
    differences = differences[differences != 0]
    # The sum of one changes its sign and never its size.
    if len(differences) < 2:
        return 1.0, True
    found = stats.permutation_test(
        (differences,),
        lambda flipped, axis: np.abs(flipped.sum(axis)),
        # Of one sample scipy changes the signs.
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        # What is far from 0 on either side is extreme, so the larger absolute value is.
        alternative="greater",
        batch=max(1, _CHUNK // len(differences)),
        axis=-1,
        rng=rng,
    )
    return float(found.pvalue), 2 ** len(differences) <= resamples


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values corrected for their number (Holm 1979), by name and in the given order.

    The chance that any true hypothesis is rejected stays below the level, however the tests depend on each other. The
    k-th smallest of m is multiplied by m - k + 1, then made no smaller than those before it and no larger than 1.
    Raises `ValueError` for a value outside 0 to 1.
    """
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"the p-value of {name!r} must lie between 0 and 1, got {p}")
    corrected: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, p_values[name] * (len(p_values) - rank)))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}
