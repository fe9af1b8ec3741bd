import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from distil_whisper_hf.evaluation.scores.metrics import score_utterance
from distil_whisper_hf.evaluation.scores.normalization import get_normalizer
from distil_whisper_hf.evaluation.statistics.intervals import Resampling, make_clusters, paired_difference
from distil_whisper_hf.evaluation.statistics.paired import (
    compare_systems,
    holm,
    pair_utterances,
    sign_flip_p_value,
)


def scores(hypotheses, *, reference="a b c d e", speakers=None, normalizer="unicode", **options):
    return [
        score_utterance(
            reference,
            hypothesis,
            normalizer=get_normalizer(normalizer),
            utterance_id=f"u{i}",
            speaker=None if speakers is None else speakers[i],
            **options,
        )
        for i, hypothesis in enumerate(hypotheses)
    ]


def test_exact_sign_flips_agree_with_the_definition():
    differences = np.array([3.0, -1.0, 2.0, 5.0, 0.0, -2.0, 4.0])
    extreme = sum(
        abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= abs(differences.sum())
        for signs in itertools.product((1, -1), repeat=7)
    )
    assert sign_flip_p_value(differences, rng=np.random.default_rng(0)) == (extreme / 2**7, True)


def test_sampled_sign_flips_agree_with_the_exact_ones():
    """A sample of patterns that leans to one side would give another p on every large data set."""
    differences = np.random.default_rng(1).normal(0.35, 1, size=13)
    exact, is_exact = sign_flip_p_value(differences, rng=np.random.default_rng(0))
    sampled, sample_is_exact = sign_flip_p_value(differences, rng=np.random.default_rng(0), resamples=8000)
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=13)]
    assert is_exact and not sample_is_exact
    assert exact == pytest.approx(np.mean([one >= abs(differences.sum()) - 1e-9 for one in sums]))
    assert sampled == pytest.approx(exact, abs=0.02)
    again = sign_flip_p_value(differences, rng=np.random.default_rng(0), resamples=8000)
    assert again == (sampled, False), "the same numbers from the same generator"


def test_equal_sums_count_as_equal():
    """Rounding would take patterns with the observed sum for less extreme ones, and p would come out too small."""
    differences = [Fraction(n, 10) for n in (1, 2, 3, 3, 7, 1, -2, 6)]
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=8)
    ]
    p, _ = sign_flip_p_value(np.array(differences, dtype=float), rng=np.random.default_rng(0))
    assert p == sum(one >= abs(sum(differences)) for one in sums) / 2**8


def test_clusters_without_a_difference_change_nothing():
    """Clips that both systems get right must neither add evidence nor make a small exact test a sampled one."""
    differences = np.array([3.0, -1.0, 2.0, 5.0])
    p, exact = sign_flip_p_value(differences, rng=np.random.default_rng(0))
    assert sign_flip_p_value(np.append(differences, np.zeros(500)), rng=np.random.default_rng(0)) == (p, exact)
    for few in ([], [2.0], [0.0, 0.0], [0.0, -3.0]):
        assert sign_flip_p_value(np.array(few), rng=np.random.default_rng(0)) == (1.0, True)


def test_p_is_never_zero():
    """A sampled p of 0 claims more than any number of samples can show."""
    p, exact = sign_flip_p_value(np.ones(200), rng=np.random.default_rng(0), resamples=999)
    assert (p, exact) == (1 / 1000, False)


def test_both_tests_reject_a_true_hypothesis_in_five_percent():
    """Systems that differ by speaker only: a test over utterances would find differences that are not there."""
    rng = np.random.default_rng(7)
    runs, rejected = 400, {"bootstrap": 0, "permutation": 0, "utterances": 0}
    for _ in range(runs):
        speaker = np.repeat(np.arange(20), rng.poisson(8, size=20) + 1)
        lengths = rng.poisson(8, size=len(speaker)) + 1
        base, tilt = rng.beta(2, 6, size=20)[speaker], rng.normal(0, 0.05, size=20)[speaker]
        first, second = (rng.binomial(lengths, np.clip(base + sign * tilt, 0, 1)) for sign in (1, -1))
        clusters = make_clusters(second - first, lengths, speakers=[str(s) for s in speaker])
        rejected["bootstrap"] += paired_difference(clusters, Resampling(400), rng=rng)[1] < 0.05
        rejected["permutation"] += sign_flip_p_value(clusters.numerators, rng=rng, resamples=400)[0] < 0.05
        rejected["utterances"] += sign_flip_p_value(second - first, rng=rng, resamples=400)[0] < 0.05
    assert 0.02 <= rejected["bootstrap"] / runs <= 0.08
    assert 0.02 <= rejected["permutation"] / runs <= 0.08
    assert rejected["utterances"] / runs > 0.12


def test_comparison_of_two_systems():
    speakers = [f"s{i // 2}" for i in range(24)]
    worse = scores(["a b c x y"] * 24, speakers=speakers, system="base")
    better = scores(["a b c d e" if i % 3 else "a b c d" for i in range(24)], speakers=speakers, system="small")
    result = compare_systems(worse, better, rng=np.random.default_rng(0))
    assert result.first == pytest.approx(40.0) and result.second == pytest.approx(100 * 8 / 120)
    assert result.difference.estimate == pytest.approx(result.second - result.first)
    assert result.difference.high < 0
    assert result.p_permutation == 2 / 2**12 and result.exact
    assert (result.difference.unit, result.difference.clusters) == ("speaker", 12)
    by_utterance = compare_systems(worse, better, rng=np.random.default_rng(0), by_speaker=False)
    assert (by_utterance.difference.unit, by_utterance.difference.clusters) == ("utterance", 24)
    swapped = compare_systems(better, worse, rng=np.random.default_rng(0))
    assert swapped.difference.estimate == -result.difference.estimate


def test_macro_comparison_weighs_speakers_equally():
    """A speaker with many clips must not decide a mean over speakers."""
    speakers = ["talkative"] * 20 + [f"s{i}" for i in range(9)]
    first = scores(["a b c d e"] * 29, speakers=speakers)
    second = scores(["a b c d x"] * 20 + ["a b c d e"] * 9, speakers=speakers)
    pooled, macro = (
        compare_systems(first, second, rng=np.random.default_rng(0), average=average, metric="wer")
        for average in ("pooled", "macro")
    )
    assert pooled.difference.estimate == pytest.approx(100 * 20 / 145)
    assert macro.difference.estimate == pytest.approx(20 / 10) == pytest.approx(macro.second - macro.first)


def test_pairs_follow_ids_not_positions():
    """Results written in another order would compare different sentences without any error."""
    first = scores(["a b c d e", "a b c d", "a b c"])
    a, b = pair_utterances(first, first[::-1])
    assert [score.utterance_id for score in a] == [score.utterance_id for score in b] == ["u0", "u1", "u2"]


def test_pairs_that_do_not_match_raise():
    first = scores(["a", "b", "c"])
    with pytest.raises(ValueError, match=r"1 utterances.*'u2'"):
        pair_utterances(first, first[:2])
    with pytest.raises(ValueError, match="repeat"):
        pair_utterances([*first, first[0]], first)
    with pytest.raises(ValueError, match=r"'a b c d e'.*'other words'"):
        pair_utterances(first, scores(["a", "b", "c"], reference="other words"))
    with pytest.raises(ValueError, match=r"unicode.*none"):
        pair_utterances(first, scores(["a", "b", "c"], normalizer="none"))


def test_untranscribed_pairs_are_deletions_and_empty_references_are_left_out_of_both():
    """Leaving a failed clip out of one system only compares different sets."""
    first, second = scores(["a", None, "a", "a"]), scores(["a", "a", None, "a"])
    assert len(pair_utterances(first, second)[0]) == 4
    empty = scores(["x", "x"], reference="...")
    assert pair_utterances(empty, empty) == ([], [])


def test_holm_by_the_definition():
    """Hypotheses are rejected in order while p <= level / (m - k + 1); the corrected p must reject the same ones."""
    rng = np.random.default_rng(8)
    for _ in range(50):
        p_values = {f"test {i}": float(p) for i, p in enumerate(rng.beta(0.4, 3, size=7))}
        corrected = holm(p_values)
        assert list(corrected) == list(p_values)
        for level in (0.01, 0.05, 0.2):
            rejected = set()
            for k, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
                if p > level / (7 - k):
                    break
                rejected.add(name)
            assert {name for name, p in corrected.items() if p <= level} == rejected


def test_holm_bounds():
    assert holm({}) == {} and holm({"only": 0.03}) == {"only": 0.03}
    assert holm({"a": 0.5, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    for wrong in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="'a'"):
            holm({"a": wrong})
