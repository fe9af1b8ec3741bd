"""Curves of gain against loss: what a method costs out of domain where it is as good in domain as another.

A method is not one point. With its rate, its steps and the share of its weights it moves along a curve from the model
that it started from (nothing gained, nothing lost) to the most that it learns. Its front is the lower left of all its
points, in error rates in and out of domain, with straight lines between neighbours: every point of such a line is near
what interpolation of weights gives. Two methods are compared at equal error rates in domain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Of percentile intervals.
LEVEL = 0.95


@dataclass(frozen=True)
class Errors:
    """Counts of one point on one set: `errors` and `words`, both `(clips,)`."""

    errors: Floats
    words: Floats


@dataclass(frozen=True)
class Candidate:
    """One setting of a method, trained with several seeds.

    Attributes:
        inside, outside: counts in and out of domain, a pair for each seed, on the same clips for all candidates.
    """

    inside: Sequence[Errors]
    outside: Sequence[Errors]


@dataclass(frozen=True)
class Difference:
    """Error rate out of domain less the reference's, in points, at an error rate in domain that both reach, in %.

    Attributes:
        value, low, high: with its interval over clips.
        by_seed: the same for each seed alone; nan where a seed's front does not reach the level.
    """

    level: float
    value: float
    low: float
    high: float
    by_seed: tuple[float, ...]


def rates(errors: Floats, words: Floats, draws: Floats) -> Floats:
    """Error rates in % of resampled clips.

    Args:
        errors, words: `(points, clips)`.
        draws: how often each clip is drawn, `(resamples, clips)`.

    Returns:
        `(resamples, points)`.
    """
    return 100 * (draws @ errors.T) / (draws @ words.T)


def front(points: Floats) -> NDArray[np.intp]:
    """Indices of the lower left of points `(points, 2)`, by falling error in domain: none is worse in both."""
    order = np.lexsort((points[:, 1], points[:, 0]))
    kept: list[int] = []
    lowest = np.inf
    for index in order:
        if points[index, 1] < lowest:
            kept.append(int(index))
            lowest = points[index, 1]
    return np.array(kept[::-1], dtype=np.intp)


def outside_at(points: Floats, level: float) -> float:
    """Error rate out of domain of the front of points `(points, 2)` at an error rate in domain.

    Above all of the front it is that of its last point, which is better in both; below, where nothing reaches, nan.
    """
    chosen = points[front(points)][::-1]
    if not chosen[0, 0] <= level <= chosen[-1, 0]:
        return float("nan") if level < chosen[0, 0] else float(chosen[-1, 1])
    return float(np.interp(level, chosen[:, 0], chosen[:, 1]))


def shared_levels(methods: Mapping[str, Floats], start: Sequence[float], number: int = 3) -> list[float]:
    """Error rates in domain that every method reaches, evenly between the best that all reach and the start's.

    Not these two themselves: at the best, half of the resampled fronts would end before.

    Args:
        methods: name -> points `(points, 2)`.
        start: the point that all began from.
    """
    best = max(points[:, 0].min() for points in methods.values())
    return np.linspace(best, start[0], number + 2)[1:-1].tolist() if best < start[0] else []


def differences(
    method: Sequence[Candidate],
    reference: Sequence[Candidate],
    start: Candidate,
    levels: Sequence[float],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Difference]:
    """A method against a reference at each level: on means over seeds, with an interval over clips.

    The front is drawn anew in each resample, so that the choice of the best settings is in the interval. Clips are the
    same for all points, and are drawn together. Resamples in which a front does not reach the level are left out.

    Args:
        method, reference: their candidates; both fronts begin at `start`.
        start: the model that was trained from, with one seed.
        levels: error rates in domain, in %.
        resamples: draws of clips.
        seed: of the draws.
    """
    both = [_Table([start, *candidates]) for candidates in (method, reference)]
    rng = np.random.default_rng(seed)
    draws = [
        np.concatenate([np.ones((1, clips)), rng.multinomial(clips, np.full(clips, 1 / clips), size=resamples)])
        for clips in (len(start.inside[0].errors), len(start.outside[0].errors))
    ]
    # (resamples + 1, candidates, 2) each; the first is what was measured.
    means = [table.means(*draws) for table in both]
    found = []
    for level in levels:
        values = np.array([
            outside_at(mine, level) - outside_at(theirs, level) for mine, theirs in zip(*means, strict=True)
        ])  # fmt: skip
        low, high = np.nanquantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        seeds = range(min(table.seeds for table in both))
        alone = [[table.of_seed(one) for table in both] for one in seeds]
        by_seed = tuple(outside_at(mine, level) - outside_at(theirs, level) for mine, theirs in alone)
        found.append(Difference(level, float(values[0]), float(low), float(high), by_seed))
    return found


class _Table:
    """Counts of candidates as arrays, every candidate with all seeds."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = candidates
        # The start has one seed, which stands for all.
        self.seeds = max(len(candidate.inside) for candidate in candidates)

    def means(self, inside: Floats, outside: Floats) -> Floats:
        """Mean over seeds of the rates of every candidate, `(resamples, candidates, 2)`."""
        sides = []
        for name, draws in (("inside", inside), ("outside", outside)):
            per_candidate = []
            for candidate in self.candidates:
                counts = getattr(candidate, name)
                errors, words = (np.stack([getattr(one, part) for one in counts]) for part in ("errors", "words"))
                per_candidate.append(rates(errors, words, draws).mean(axis=1))
            sides.append(np.stack(per_candidate, axis=1))
        return np.stack(sides, axis=2)

    def of_seed(self, seed: int) -> Floats:
        """Rates of every candidate with one seed, `(candidates, 2)`."""
        rows = []
        for candidate in self.candidates:
            counts = [sets[min(seed, len(sets) - 1)] for sets in (candidate.inside, candidate.outside)]
            rows.append([100 * one.errors.sum() / one.words.sum() for one in counts])
        return np.array(rows)
