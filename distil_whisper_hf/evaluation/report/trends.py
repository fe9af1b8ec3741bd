"""Whether systems differ by the resourcefulness of a language and by the size of the model, and what quantisation does
to that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean

import numpy as np

from ..recipes import Recipe
from ..scores.metrics import Metric
from ..statistics.intervals import Interval, Resampling
from ..statistics.language_gaps import (
    ResourceTrend,
    SizeTrend,
    resource_gap,
    resource_trend,
    size_trend,
    size_trend_change,
)
from ..statistics.training_hours import resource_class, training_hours
from .analysis import RateRow, quantization_pairs


@dataclass(frozen=True)
class ResourceRow:
    """Error rate against hours of training speech, for one system."""

    system: str
    trend: ResourceTrend


@dataclass(frozen=True)
class ResourceChange:
    """How much more low-resource languages lose than high-resource ones from `before` to `after`, in points."""

    before: str
    after: str
    difference: Interval
    p_value: float


@dataclass(frozen=True)
class SizeRow:
    """Error rate against number of parameters, for one precision; `change` compares its slopes with float32's."""

    precision: str
    trend: SizeTrend
    change: Interval | None
    p_value: float | None


@dataclass
class Trends:
    """What could be computed, and sentences that say why the rest could not."""

    languages: list[tuple[str, str, float]] = field(default_factory=list)
    resources: list[ResourceRow] = field(default_factory=list)
    resource_changes: list[ResourceChange] = field(default_factory=list)
    sizes: list[SizeRow] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def language_rates(rates: Sequence[RateRow], system: str, metric: Metric = "wer") -> dict[str, float]:
    """Rate in % by language, the mean over the data sets in it."""
    found: dict[str, list[float]] = {}
    for row in rates:
        value = row.score.wer if metric == "wer" else row.score.cer
        if row.system == system and np.isfinite(value):
            found.setdefault(row.language, []).append(value)
    return {language: mean(values) for language, values in found.items()}


def find_trends(recipe: Recipe, rates: Sequence[RateRow], parameters: Mapping[str, int]) -> Trends:
    """All trends that the languages and models allow; `parameters` is their number by model label, where known."""
    rng = np.random.default_rng(recipe.seed)
    resampling = Resampling(resamples=recipe.resamples, level=recipe.level)
    trends = Trends()
    hours = training_hours()
    spoken = dict.fromkeys(row.language for row in rates)
    trends.languages = [
        (language, resource_class(hours[language].hours), hours[language].hours)
        for language in sorted((one for one in spoken if one in hours), key=lambda one: -hours[one].hours)
    ]
    for spec in recipe.systems:
        try:
            trend = resource_trend(language_rates(rates, spec.name), rng=rng, level=recipe.level)
        except ValueError as error:
            _note(trends, f"No trend over languages: {error}.")
        else:
            trends.resources.append(ResourceRow(spec.name, trend))
    for before, after in quantization_pairs(recipe.systems):
        first, second = language_rates(rates, before.name), language_rates(rates, after.name)
        differences = {language: second[language] - first[language] for language in first if language in second}
        try:
            interval, p_value = resource_gap(differences, rng=rng, resampling=resampling)
        except ValueError:
            _note(
                trends,
                "Whether quantisation costs low-resource languages more than high-resource ones cannot be said: that "
                "takes at least two languages below 100 hours and two from 1000 hours on.",
            )
        else:
            trends.resource_changes.append(ResourceChange(before.name, after.name, interval, p_value))
    _find_sizes(trends, recipe, rates, parameters, resampling, rng=rng)
    return trends


def _find_sizes(
    trends: Trends,
    recipe: Recipe,
    rates: Sequence[RateRow],
    parameters: Mapping[str, int],
    resampling: Resampling,
    *,
    rng: np.random.Generator,
) -> None:
    found: dict[str, SizeTrend] = {}
    for precision in dict.fromkeys(spec.precision for spec in recipe.systems):
        by_size = {
            float(parameters[spec.model_label]): language_rates(rates, spec.name)
            for spec in recipe.systems
            if spec.precision == precision and spec.model_label in parameters
        }
        if len(by_size) < 2:
            _note(
                trends,
                "Model size is no question here: that takes at least two models of different sizes, and their cost "
                "measured.",
            )
            continue
        try:
            found[precision] = size_trend(by_size)
        except ValueError as error:
            _note(trends, f"No trend over model sizes: {error}.")
    for precision, trend in found.items():
        change = p_value = None
        reference = found.get("float32")
        comparable = reference is not None and set(reference.slopes) == set(trend.slopes) and len(trend.slopes) > 1
        if precision != "float32" and comparable:
            change, p_value = size_trend_change(reference, trend, rng=rng, resampling=resampling)
        trends.sizes.append(SizeRow(precision, trend, change, p_value))


def _note(trends: Trends, sentence: str) -> None:
    if sentence not in trends.missing:
        trends.missing.append(sentence)
