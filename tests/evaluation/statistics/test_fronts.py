"""Fronts of gain against loss, against what their definitions say."""

import itertools

import numpy as np
import pytest

from distil_whisper_hf.evaluation.statistics.fronts import (
    Candidate,
    Errors,
    differences,
    front,
    outside_at,
    rates,
    shared_levels,
)


def test_a_front_has_no_point_that_another_beats():
    """Silent: a setting on the front that is worse than another in both domains, or one that is missing."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = rng.integers(0, 8, size=(rng.integers(1, 12), 2)).astype(float)
        chosen = front(points)
        unbeaten = {
            tuple(one)
            for one in points
            if not any((other <= one).all() and (other < one).any() for other in points)
        }  # fmt: skip
        assert {tuple(points[index]) for index in chosen} == unbeaten
        assert all(points[a, 0] > points[b, 0] for a, b in itertools.pairwise(chosen))


def test_between_neighbours_a_front_is_a_line():
    """Silent: a rate taken from the nearest setting, or made up where no setting reaches."""
    points = np.array([[60.0, 30.0], [40.0, 40.0], [50.0, 33.0], [55.0, 45.0], [70.0, 35.0]])
    assert outside_at(points, 50) == 33 and outside_at(points, 45) == pytest.approx(36.5)
    assert outside_at(points, 55) == pytest.approx(31.5)
    # Above all of the front its last point is better in both; below it there is nothing.
    assert outside_at(points, 65) == 30
    assert np.isnan(outside_at(points, 39))


def test_levels_are_those_that_all_reach():
    """Silent: methods compared where one of them has no point."""
    methods = {"a": np.array([[30.0, 50.0], [60.0, 40.0]]), "b": np.array([[45.0, 42.0], [60.0, 40.0]])}
    assert shared_levels(methods, (60.0, 40.0)) == pytest.approx([48.75, 52.5, 56.25])
    assert shared_levels(methods, (40.0, 40.0)) == []


def counts(rng, clips: int, rate: float) -> Errors:
    words = rng.integers(1, 10, size=clips).astype(float)
    return Errors(np.minimum(rng.poisson(rate * words), words).astype(float), words)


def candidates(rng, settings, seeds: int = 2) -> list[Candidate]:
    return [
        Candidate([counts(rng, 30, inside) for _ in range(seeds)], [counts(rng, 40, outside) for _ in range(seeds)])
        for inside, outside in settings
    ]


def same_words(groups: list[list[Candidate]]) -> None:
    """The same clips for all: their words."""
    first = groups[0][0]
    for candidate in itertools.chain(*groups):
        for name in ("inside", "outside"):
            for one in getattr(candidate, name):
                one.words[:] = getattr(first, name)[0].words
                np.minimum(one.errors, one.words, out=one.errors)


def test_a_difference_is_that_of_the_means_fronts():
    """Silent: seeds pooled as settings, clips of two methods drawn apart, intervals around something else."""
    rng = np.random.default_rng(1)
    start = candidates(rng, [(0.6, 0.3)], seeds=1)
    mine, theirs = candidates(rng, [(0.3, 0.35), (0.45, 0.3)]), candidates(rng, [(0.3, 0.5), (0.45, 0.4)])
    same_words([start, mine, theirs])

    def points(group, seed=None):
        rows = []
        for one in [*start, *group]:
            sides = []
            for sets in (one.inside, one.outside):
                chosen = sets if seed is None or len(sets) == 1 else [sets[seed]]
                sides.append(np.mean([100 * s.errors.sum() / s.words.sum() for s in chosen]))
            rows.append(sides)
        return np.array(rows)

    level = max(points(mine)[:, 0].min(), points(theirs)[:, 0].min()) + 3
    (found,) = differences(mine, theirs, start[0], [level], resamples=400)
    assert found.value == pytest.approx(outside_at(points(mine), level) - outside_at(points(theirs), level))
    for seed in range(2):
        wanted = outside_at(points(mine, seed), level) - outside_at(points(theirs, seed), level)
        assert found.by_seed[seed] == pytest.approx(wanted, nan_ok=True)

    def drawn(group, inside, outside):
        """Means over seeds of clips that were drawn, by their indices."""
        rows = []
        for one in [*start, *group]:
            sides = zip((one.inside, one.outside), (inside, outside), strict=True)
            rows.append([np.mean([100 * s.errors[i].sum() / s.words[i].sum() for s in sets]) for sets, i in sides])
        return np.array(rows)

    values = []
    for _ in range(400):
        clips = rng.integers(0, 30, 30), rng.integers(0, 40, 40)
        values.append(outside_at(drawn(mine, *clips), level) - outside_at(drawn(theirs, *clips), level))
    assert np.allclose([found.low, found.high], np.nanquantile(values, [0.025, 0.975]), atol=1.5)
    (none,) = differences(mine, mine, start[0], [level], resamples=100)
    assert (none.value, none.low, none.high) == (0, 0, 0)


def test_resampled_rates_are_ratios_of_sums():
    """Silent: means of the clips' rates, in which a word of a short clip counts more."""
    errors, words = np.array([[1.0, 3.0], [0.0, 2.0]]), np.array([[2.0, 4.0], [2.0, 4.0]])
    draws = np.array([[1.0, 1.0], [2.0, 0.0]])
    assert np.allclose(rates(errors, words, draws), [[100 * 4 / 6, 100 * 2 / 6], [50, 0]])
