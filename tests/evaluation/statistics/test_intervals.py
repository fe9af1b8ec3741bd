import itertools
import math
import time
import warnings

import numpy as np
import pytest
from scipy import stats

from distil_whisper_hf.evaluation.scores.metrics import score_utterance
from distil_whisper_hf.evaluation.scores.normalization import get_normalizer
from distil_whisper_hf.evaluation.statistics.intervals import (
    Resampling,
    error_arrays,
    independent_difference,
    make_clusters,
    paired_difference,
    rate_interval,
)

ERRORS = np.array([3, 1, 0, 4, 2, 2, 7, 0, 1, 5])
LENGTHS = np.array([5, 6, 4, 9, 8, 3, 9, 5, 7, 8])
SPEAKERS = ["a", "b", "a", "c", "b", "d", "e", "c", "f", "e"]


def simulate(rng, *, speakers=40, mean=0.25):
    """Speakers differ in their error rate (beta with this mean), and a speaker's utterances share it."""
    rates = rng.beta(4 * mean, 4 * (1 - mean), size=speakers)
    speaker = np.repeat(np.arange(speakers), rng.poisson(8, size=speakers) + 1)
    lengths = rng.poisson(8, size=len(speaker)) + 1
    return rng.binomial(lengths, rates[speaker]), lengths, [f"s{i}" for i in speaker]


def all_resamples(numerators, denominators):
    """Ratio and t-value of every possible resample, by the definition, in plain loops."""
    count = len(numerators)

    def ratio_and_error(chosen):
        x, y = [numerators[i] for i in chosen], [denominators[i] for i in chosen]
        ratio = sum(x) / sum(y)
        squares = sum((a - ratio * b) ** 2 for a, b in zip(x, y, strict=True))
        return ratio, math.sqrt(count / (count - 1) * squares) / sum(y)

    observed, error = ratio_and_error(range(count))
    ratios, t_values = [], []
    for chosen in itertools.product(range(count), repeat=count):
        ratio, own_error = ratio_and_error(chosen)
        ratios.append(100 * ratio)
        if own_error > 1e-9:
            t_values.append((ratio - observed) / own_error)
    return 100 * observed, 100 * error, ratios, t_values


def test_clusters_are_sums_over_speakers():
    clusters = make_clusters(ERRORS, LENGTHS, speakers=SPEAKERS)
    assert clusters.unit == "speaker"
    assert clusters.numerators.tolist() == [3, 3, 4, 2, 12, 1]
    assert clusters.denominators.tolist() == [9, 14, 14, 3, 17, 7]
    assert clusters.ratio == pytest.approx(ERRORS.sum() / LENGTHS.sum())
    macro = make_clusters(ERRORS, LENGTHS, speakers=SPEAKERS, average="macro")
    assert macro.ratio == pytest.approx(np.mean([3 / 9, 3 / 14, 4 / 14, 2 / 3, 12 / 17, 1 / 7]))


def test_intervals_agree_with_all_possible_resamples():
    """Both limits against the full enumeration of 5^5 resamples, which has no Monte Carlo error of its own."""
    numerators, denominators = [3.0, 1.0, 6.0, 2.0, 9.0], [9.0, 8.0, 14.0, 7.0, 16.0]
    estimate, error, ratios, t_values = all_resamples(numerators, denominators)
    clusters = make_clusters(numerators, denominators, speakers=list("vwxyz"))
    tails = [0.1, 0.9]

    percentile = rate_interval(clusters, Resampling(40_000, 0.8, "percentile"), rng=np.random.default_rng(0))
    assert percentile.estimate == pytest.approx(estimate)
    assert [percentile.low, percentile.high] == pytest.approx(np.quantile(ratios, tails), rel=0.01)

    studentized = rate_interval(clusters, Resampling(40_000, 0.8), rng=np.random.default_rng(0))
    low_t, high_t = np.quantile(t_values, tails)
    assert [studentized.low, studentized.high] == pytest.approx(
        [estimate - high_t * error, estimate - low_t * error], rel=0.02
    )


def test_percentile_interval_agrees_with_scipy():
    rng = np.random.default_rng(2)
    clusters = make_clusters(*simulate(rng)[:2], speakers=simulate(np.random.default_rng(2))[2])
    ours = rate_interval(clusters, Resampling(20_000, 0.9, "percentile"), rng=rng)
    theirs = stats.bootstrap(
        (clusters.numerators, clusters.denominators),
        lambda x, y, axis: 100 * x.sum(axis) / y.sum(axis),
        paired=True,
        confidence_level=0.9,
        n_resamples=20_000,
        method="percentile",
        rng=rng,
    ).confidence_interval
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=0.25)


@pytest.mark.parametrize("average", ["pooled", "macro"])
def test_cluster_interval_covers_and_utterance_interval_does_not(average):
    """The reason for speakers as the unit: 95 % intervals over utterances hold the true rate in half of the cases."""
    rng = np.random.default_rng(11)
    resampling, runs, mean = Resampling(resamples=400), 400, 0.25
    covered = {"speaker": 0, "utterance": 0}
    for _ in range(runs):
        errors, lengths, speakers = simulate(rng, mean=mean)
        for unit, known in (("speaker", speakers), ("utterance", None)):
            interval = rate_interval(
                make_clusters(errors, lengths, speakers=known, average=average), resampling, rng=rng
            )
            assert interval.unit == unit
            covered[unit] += interval.low <= 100 * mean <= interval.high
    assert 0.92 <= covered["speaker"] / runs <= 0.98
    assert covered["utterance"] / runs < 0.8


def test_interval_of_few_speakers_still_covers():
    """The percentile interval of ten speakers covers 89 %: why the studentised one is the default."""
    rng = np.random.default_rng(12)
    runs, covered = 1000, {"studentized": 0, "percentile": 0}
    for _ in range(runs):
        errors, lengths, speakers = simulate(rng, speakers=10)
        for method in covered:
            interval = rate_interval(
                make_clusters(errors, lengths, speakers=speakers), Resampling(400, method=method), rng=rng
            )
            covered[method] += interval.low <= 25 <= interval.high
    assert 0.92 <= covered["studentized"] / runs <= 0.98
    assert covered["percentile"] / runs < 0.92


@pytest.mark.parametrize(("log", "truth"), [(False, 10.0), (True, math.log(0.3 / 0.2))])
def test_difference_of_two_groups_covers(log, truth):
    rng = np.random.default_rng(13)
    runs, covered = 400, 0
    for _ in range(runs):
        first, second = (
            make_clusters(errors, lengths, speakers=speakers, average="macro")
            for errors, lengths, speakers in (simulate(rng, speakers=15, mean=0.2), simulate(rng, mean=0.3))
        )
        interval, p = independent_difference(first, second, rng=rng, log=log, resampling=Resampling(400))
        covered += interval.low <= truth <= interval.high
        assert (interval.low > 0 or interval.high < 0) == (p < 0.05) or 0.04 < p < 0.06
    assert 0.92 <= covered / runs <= 0.98


def test_difference_of_two_groups_is_second_minus_first():
    """A gap with the wrong sign accuses the wrong group."""
    first = make_clusters(ERRORS, LENGTHS, speakers=SPEAKERS)
    second = make_clusters(2 * ERRORS, LENGTHS, speakers=SPEAKERS)
    points, _ = independent_difference(first, second, rng=np.random.default_rng(0))
    logarithm, _ = independent_difference(first, second, rng=np.random.default_rng(0), log=True)
    assert points.estimate == pytest.approx(100 * ERRORS.sum() / LENGTHS.sum())
    assert logarithm.estimate == pytest.approx(math.log(2))
    assert points.clusters == 12 and points.low < points.estimate < points.high


def test_logarithm_of_a_ratio_does_not_depend_on_the_scale():
    """Three times the errors in one group move the whole interval by ln 3, whatever the level of the other."""
    first = make_clusters(ERRORS, 9 * LENGTHS, speakers=SPEAKERS)
    intervals = [
        independent_difference(
            first, make_clusters(factor * ERRORS, LENGTHS, speakers=SPEAKERS), rng=np.random.default_rng(0), log=True
        )[0]
        for factor in (1, 3)
    ]
    for limit in ("low", "estimate", "high"):
        assert getattr(intervals[1], limit) - getattr(intervals[0], limit) == pytest.approx(math.log(3))


def test_p_value_agrees_with_the_interval():
    """A report where the interval leaves out 0 and p is above 0.05, or the reverse, contradicts itself."""
    rng = np.random.default_rng(4)
    outcomes = set()
    for shift in np.linspace(-0.3, 0.3, 25):
        errors, lengths, speakers = simulate(rng, speakers=12)
        clusters = make_clusters(errors - (0.25 + shift) * lengths, lengths, speakers=speakers)
        interval, p = paired_difference(clusters, Resampling(2000), rng=rng)
        excludes = interval.low > 0 or interval.high < 0
        outcomes.add(excludes)
        assert excludes == (p < 0.05) or 0.045 < p < 0.055
    assert outcomes == {True, False}


def test_two_equal_systems_do_not_differ():
    interval, p = paired_difference(
        make_clusters(np.zeros(10), LENGTHS, speakers=SPEAKERS), rng=np.random.default_rng(0)
    )
    assert (interval.estimate, interval.low, interval.high, p) == (0.0, 0.0, 0.0, 1.0)
    assert "no width" in interval.warnings[-1]


def test_equal_rates_of_all_speakers_are_recognised_in_spite_of_rounding():
    """Rounding leaves a variance of 1e-17, and dividing by it would give limits that look measured."""
    clusters = make_clusters(np.full(12, 0.3), np.full(12, 1.0), speakers=[f"s{i}" for i in range(12)])
    interval = rate_interval(clusters, rng=np.random.default_rng(0))
    assert interval.low == interval.high == pytest.approx(30.0) and "no width" in interval.warnings[-1]


def test_a_group_without_errors_has_no_ratio():
    """The logarithm of 0 must come out as missing and not as a warning of numpy or an infinite limit."""
    none = make_clusters(np.zeros(10), LENGTHS, speakers=SPEAKERS)
    some = make_clusters(ERRORS, LENGTHS, speakers=SPEAKERS)
    interval, p = independent_difference(none, some, rng=np.random.default_rng(0), log=True)
    assert interval.estimate == math.inf and math.isnan(interval.low) and math.isnan(p)
    rare = make_clusters([0, 0, 0, 0, 0, 2], [9] * 6, speakers=list("abcdef"))
    interval, _ = independent_difference(rare, some, rng=np.random.default_rng(0), log=True)
    assert any("no error at all" in message for message in interval.warnings)
    assert interval.low < interval.estimate < interval.high
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interval, _ = independent_difference(rare, rare, rng=np.random.default_rng(0), log=True)
    assert interval.estimate == 0.0


def test_same_seed_same_interval():
    clusters = make_clusters(ERRORS, LENGTHS, speakers=SPEAKERS)
    first, again, other = (rate_interval(clusters, rng=np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first == again != other
    with pytest.raises(TypeError, match="default_rng"):
        rate_interval(clusters, rng=5)


def test_rates_are_never_negative_but_differences_are():
    errors = np.array([0, 0, 0, 0, 0, 1])
    lengths = np.full(6, 10)
    clusters = make_clusters(errors, lengths, speakers=list("abcdef"))
    assert rate_interval(clusters, rng=np.random.default_rng(0)).low == 0.0
    assert paired_difference(clusters, rng=np.random.default_rng(0))[0].low < 0


def test_warnings_say_what_was_resampled_and_how_little():
    """An interval over utterances, or over six speakers, looks like any other once it stands in a table."""
    by_utterance = make_clusters(ERRORS, LENGTHS)
    assert by_utterance.unit == "utterance" and "Speakers are unknown" in by_utterance.warnings[0]
    few = rate_interval(make_clusters(ERRORS, LENGTHS, speakers=SPEAKERS), rng=np.random.default_rng(0))
    assert few.warnings == ("Only 6 speakers: the interval is rough and may be too narrow.",)
    some = make_clusters(ERRORS, LENGTHS, speakers=["0", None, *SPEAKERS[:7], None])
    assert some.unit == "speaker" and "2 utterances have no speaker" in some.warnings[0]
    assert len(some) == 8, "the unknown utterances are not merged with speaker '0'"
    assert make_clusters(*simulate(np.random.default_rng(0))[:2]).warnings == by_utterance.warnings


def test_four_speakers_give_a_warning_and_no_interval():
    clusters = make_clusters(ERRORS[:8], LENGTHS[:8], speakers=list("aabbccdd"))
    interval, p = paired_difference(clusters, rng=np.random.default_rng(0))
    assert math.isfinite(interval.estimate)
    assert math.isnan(interval.low) and math.isnan(interval.high) and math.isnan(p)
    assert "too few" in interval.warnings[0]


def test_one_speaker_raises_and_names_the_way_out():
    with pytest.raises(ValueError, match="speakers=None"):
        make_clusters(ERRORS, LENGTHS, speakers=["a"] * 10)
    with pytest.raises(ValueError, match=r"two utterances, got 0$"):
        make_clusters([], [])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1, 2], [3, 4, 5]), {}, r"\(2,\) and \(3,\)"),
        (([1, 2, 0], [3, 4, 0]), {}, "1 of 3 utterances have an empty reference"),
        (([1, 2], [3, 4]), {"speakers": ["a"]}, "1 speakers were given for 2"),
        (([1, 2], [3, 4]), {"average": "mean"}, "'pooled', 'macro'"),
    ],
)
def test_wrong_input_raises(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        make_clusters(*arguments, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"level": 95}, "0.95"), ({"resamples": 10}, "100"), ({"method": "bca"}, "'studentized', 'percentile'")],
)
def test_wrong_resampling_raises(options, message):
    with pytest.raises(ValueError, match=message):
        Resampling(**options)


def test_arrays_of_scored_utterances():
    scores = [
        score_utterance("a b", hypothesis, normalizer=get_normalizer(), speaker=speaker)
        for hypothesis, speaker in (("a", "s"), ("x y z", None))
    ]
    errors, lengths, speakers = error_arrays(scores)
    assert errors.tolist() == [1, 3] and lengths.tolist() == [2, 2] and speakers == ["s", None]
    assert error_arrays(scores, "cer")[1].tolist() == [3, 3]


def test_ten_thousand_resamples_of_two_thousand_utterances_are_quick():
    rng = np.random.default_rng(0)
    clusters = make_clusters(rng.integers(0, 5, 2000), rng.integers(5, 12, 2000))
    start = time.perf_counter()
    rate_interval(clusters, Resampling(resamples=10_000), rng=rng)
    assert time.perf_counter() - start < 5, "it takes about 0.6 s where nothing else runs"
