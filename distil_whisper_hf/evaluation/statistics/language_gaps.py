"""Gaps between languages: how error rates depend on Whisper's training data of a language and on the size of the
model.

Here the unit is the language: ten languages are ten observations, however many utterances stand behind each rate.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from scipy import stats

from ...languages import is_unspaced, language_tag
from ..scores.metrics import Metric
from .intervals import (
    DEFAULT_RESAMPLING,
    Clusters,
    Floats,
    Interval,
    Resampling,
    check_choice,
    cluster_warnings,
    independent_difference,
    paired_difference,
)
from .training_hours import resource_class, training_hours

_FEWEST_LANGUAGES = 4
# Of all orders of seven languages there are fewer, of eight more.
_MOST_ORDERS = 10_000


@dataclass(frozen=True)
class ResourceTrend:
    """How the error rate falls with hours of training data.

    `spearman` is the rank correlation of rate and hours (-1: the more data the better, without exception), with limits
    by Fisher's z (Bonett and Wright 2000) and a two-sided permutation p-value. `slope` is that of a least-squares line
    of log rate on log hours, with limits by Student's t: the rate is proportional to hours^slope. `left_out` gives
    the reason for each language that is not counted.
    """

    metric: Metric
    languages: tuple[str, ...]
    left_out: Mapping[str, str]
    level: float
    spearman: float
    spearman_low: float
    spearman_high: float
    p_value: float
    slope: float
    slope_low: float
    slope_high: float
    warnings: tuple[str, ...]


def resource_trend(
    rates: Mapping[str, float],
    metric: Metric = "wer",
    *,
    rng: np.random.Generator,
    hours: Mapping[str, float] | None = None,
    level: float = 0.95,
) -> ResourceTrend:
    """Correlation and regression of error rates (%, by language) with hours of training data.

    `hours` are by default those of `training_hours`. Languages without published hours, with a rate of 0 or nan, and
    with `metric="wer"` those written without spaces are left out by name. Raises `ValueError` if fewer than four
    remain.
    """
    hours = _default_hours(hours)
    kept, left_out = _usable(rates, metric, hours)
    if len(kept) < _FEWEST_LANGUAGES:
        raise ValueError(
            f"a trend over languages needs at least {_FEWEST_LANGUAGES}, got {sorted(kept)}; left out: {left_out}"
        )
    y = np.array([kept[language] for language in kept])
    x = np.array([hours[language] for language in kept])
    if len(set(x)) == 1 or len(set(y)) == 1:
        raise ValueError(f"a trend needs different hours and different rates, got {kept} with hours {x.tolist()}")
    spearman = float(stats.spearmanr(x, y).statistic)
    quantile = stats.norm.ppf((1 + level) / 2)
    error = math.sqrt((1 + spearman**2 / 2) / (len(kept) - 3))
    center = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, spearman)))
    line = stats.linregress(np.log(x), np.log(y))
    margin = float(stats.t.ppf((1 + level) / 2, len(kept) - 2) * line.stderr)
    slope = float(line.slope)
    return ResourceTrend(
        metric=metric,
        languages=tuple(kept),
        left_out=left_out,
        level=level,
        spearman=spearman,
        spearman_low=math.tanh(center - quantile * error),
        spearman_high=math.tanh(center + quantile * error),
        p_value=_rank_p_value(x, y, rng=rng),
        slope=slope,
        slope_low=slope - margin,
        slope_high=slope + margin,
        warnings=cluster_warnings(len(kept), 0, "language"),
    )


def resource_gap(
    rates: Mapping[str, float],
    metric: Metric = "wer",
    *,
    rng: np.random.Generator,
    hours: Mapping[str, float] | None = None,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> tuple[Interval, float]:
    """Mean rate of low-resource languages minus that of high-resource ones, in points, and its p-value.

    Give differences of rates (after - before) instead of rates to ask whether quantisation widens the gap. Raises
    `ValueError` if a class has fewer than two languages; below five the interval is nan.
    """
    hours = _default_hours(hours)
    kept, _ = _usable(rates, metric, hours, positive=False)
    groups = {
        name: {language: rate for language, rate in kept.items() if resource_class(hours[language]) == name}
        for name in ("high", "low")
    }
    first, second = (language_clusters(group) for group in groups.values())
    return independent_difference(first, second, rng=rng, resampling=resampling)


@dataclass(frozen=True)
class SizeTrend:
    """How error rates fall with the number of parameters, over languages that all models were tested on.

    `means` are mean rates over languages (%) by size. `slopes` are those of each language's log rate on log parameters:
    doubling the model multiplies the rate by 2^slope.
    """

    metric: Metric
    sizes: tuple[float, ...]
    means: tuple[float, ...]
    slopes: Mapping[str, float]
    left_out: Mapping[str, str]


def size_trend(
    rates: Mapping[float, Mapping[str, float]],
    metric: Metric = "wer",
    *,
    hours: Mapping[str, float] | None = None,
) -> SizeTrend:
    """Error rates (%) by number of parameters and language, for two sizes or more.

    A language that one model lacks is left out of all. Raises `ValueError` for one size, or if no language remains.
    """
    hours = _default_hours(hours)
    sizes = tuple(sorted(rates))
    if len(sizes) < 2:
        raise ValueError(f"a trend over model sizes needs at least two, got {list(sizes)}")
    usable = {size: _usable(rates[size], metric, hours) for size in sizes}
    left_out = {language: reason for _, reasons in usable.values() for language, reason in reasons.items()}
    names = [language for language in usable[sizes[0]][0] if all(language in kept for kept, _ in usable.values())]
    left_out |= {
        language: "not every model has a rate"
        for kept, _ in usable.values()
        for language in kept
        if language not in names and language not in left_out
    }
    if not names:
        raise ValueError(f"no language has a usable rate for every model size; left out: {left_out}")
    table = np.array([[usable[size][0][language] for language in names] for size in sizes])
    slopes = np.polyfit(np.log(sizes), np.log(table), 1)[0]
    return SizeTrend(
        metric=metric,
        sizes=sizes,
        means=tuple(table.mean(axis=1).tolist()),
        slopes=dict(zip(names, slopes.tolist(), strict=True)),
        left_out=left_out,
    )


def size_trend_change(
    before: SizeTrend,
    after: SizeTrend,
    *,
    rng: np.random.Generator,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> tuple[Interval, float]:
    """Mean change (`after - before`) of the slopes over languages, with its p-value.

    Below 0, small models have lost more than large ones. Raises `ValueError` if the languages of the two differ.
    """
    if set(before.slopes) != set(after.slopes):
        raise ValueError(f"languages differ between the two trends: {sorted(set(before.slopes) ^ set(after.slopes))}")
    changes = {language: 100 * (after.slopes[language] - slope) for language, slope in before.slopes.items()}
    points, p_value = paired_difference(language_clusters(changes), resampling, rng=rng)
    return replace(points, estimate=points.estimate / 100, low=points.low / 100, high=points.high / 100), p_value


def language_clusters(rates: Mapping[str, float]) -> Clusters:
    """Rates in % with each language as a cluster of its own, so that their ratio is the mean over languages."""
    if len(rates) < 2:
        raise ValueError(f"a mean over languages needs at least two, got {sorted(rates)}")
    values = np.array(list(rates.values()), dtype=np.float64) / 100
    warnings = cluster_warnings(len(values), 0, "language")
    return Clusters(values, np.ones(len(values)), "language", len(values), warnings)


def _default_hours(hours: Mapping[str, float] | None) -> Mapping[str, float]:
    if hours is None:
        return {language: row.hours for language, row in training_hours().items()}
    return {language_tag(language): value for language, value in hours.items()}


def _usable(
    rates: Mapping[str, float], metric: Metric, hours: Mapping[str, float], *, positive: bool = True
) -> tuple[dict[str, float], dict[str, str]]:
    """Rates by language code, and the reason for each language that is left out."""
    check_choice("metric", metric, get_args(Metric))
    kept: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for name, rate in rates.items():
        language = language_tag(name)
        if language in kept or language in left_out:
            raise ValueError(f"the language {language!r} has two rates, the second as {name!r}")
        if metric == "wer" and is_unspaced(language):
            left_out[language] = "written without spaces: its WER cannot be compared"
        elif language not in hours:
            left_out[language] = "its hours of training speech are not known"
        elif not math.isfinite(rate):
            left_out[language] = "it has no rate"
        elif positive and rate <= 0:
            left_out[language] = "a rate of 0 has no logarithm"
        else:
            kept[language] = rate
    return kept, left_out


def _rank_p_value(x: Floats, y: Floats, *, rng: np.random.Generator) -> float:
    """Two-sided p-value of Spearman's correlation: all orders of the languages if these are few, else random ones."""
    ranks, others = (stats.rankdata(values) - (len(values) + 1) / 2 for values in (x, y))

    # For given ranks the correlation is this sum over a constant.
    def strength(order: Floats, axis: int) -> Floats:
        return np.abs((order * others).sum(axis))

    found = stats.permutation_test(
        (ranks,),
        strength,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=_MOST_ORDERS,
        # What is far from 0 on either side is extreme, so the larger absolute value is.
        alternative="greater",
        batch=_MOST_ORDERS,
        axis=-1,
        rng=rng,
    )
    return float(found.pvalue)
