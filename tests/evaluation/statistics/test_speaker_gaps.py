import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest

from distil_whisper_hf.evaluation.scores.metrics import ErrorCounts, score_utterance
from distil_whisper_hf.evaluation.scores.normalization import get_normalizer
from distil_whisper_hf.evaluation.statistics.intervals import Resampling
from distil_whisper_hf.evaluation.statistics.speaker_gaps import gap_changes, group_of, speaker_gaps

QUICK = Resampling(resamples=400)
BLANK = score_utterance("a", "a", normalizer=get_normalizer(), language="uk", system="base")


def utterance(name, errors, length, **fields):
    """A score with these numbers, without texts that have them."""
    counts = ErrorCounts(hits=length - errors, substitutions=errors)
    labels = {"gender": fields.pop("gender", None), "age": fields.pop("age", None)}
    values = {**vars(BLANK), "utterance_id": name, "words": counts, "characters": counts, "labels": labels, **fields}
    return type(BLANK)(**values)


def people(gender, rates, *, clips=3, length=10, **fields):
    """Speakers with these error rates (a multiple of 0.1), each with the same number of clips."""
    return [
        utterance(f"{gender}{i}-{c}", round(rate * length), length, gender=gender, speaker=f"{gender}{i}", **fields)
        for i, rate in enumerate(rates)
        for c in range(clips)
    ]


WOMEN = people("female_feminine", [0.3, 0.5, 0.2, 0.4, 0.6, 0.1])
MEN = people("male", [0.1, 0.2, 0.1, 0.3, 0.2, 0.1, 0.4, 0.2])


def test_gap_is_group_minus_reference_and_its_three_forms_agree():
    """A reversed sign or a reversed ratio accuses the wrong group."""
    report = speaker_gaps([*WOMEN, *MEN], "gender", rng=np.random.default_rng(0))
    women, men = np.mean([0.3, 0.5, 0.2, 0.4, 0.6, 0.1]), np.mean([0.1, 0.2, 0.1, 0.3, 0.2, 0.1, 0.4, 0.2])
    (gap,) = report.gaps
    assert (gap.group, gap.reference) == ("female", "male"), "the reference is the group with most speakers"
    assert gap.absolute.estimate == pytest.approx(100 * (women - men))
    assert gap.ratio.estimate == pytest.approx(women / men)
    assert gap.relative.estimate == pytest.approx(100 * (women - men) / men)
    for interval in (gap.absolute, gap.relative, gap.ratio):
        assert interval.low < interval.estimate < interval.high
    assert gap.ratio.low > 0 and gap.relative.low == pytest.approx(100 * (gap.ratio.low - 1))
    assert (report.metric, report.language, report.system, report.normalizer) == ("wer", "uk", "base", "unicode")
    (reverse,) = speaker_gaps([*WOMEN, *MEN], "gender", rng=np.random.default_rng(0), reference="female").gaps
    assert reverse.absolute.estimate == pytest.approx(-gap.absolute.estimate)
    assert reverse.ratio.estimate == pytest.approx(1 / gap.ratio.estimate)


def test_groups_have_pooled_and_macro_rates_and_counts():
    """One talkative speaker decides a pooled rate: both are shown, and the gap is that of the mean over speakers."""
    talkative = [utterance(f"t{i}", 9, 10, gender="male", speaker="t") for i in range(30)]
    report = speaker_gaps([*WOMEN, *MEN, *talkative], "gender", rng=np.random.default_rng(0))
    men, women = report.groups
    assert (men.group, men.speakers, men.utterances) == ("male", 9, 54)
    assert men.pooled.estimate == pytest.approx(100 * (3 * 16 + 30 * 9) / (240 + 300))
    assert men.macro.estimate == pytest.approx(100 * (1.6 + 0.9) / 9)
    assert men.macro.unit == "speaker" and men.macro.clusters == 9
    assert report.gaps[0].absolute.estimate == pytest.approx(women.macro.estimate - men.macro.estimate)
    pooled = speaker_gaps([*WOMEN, *MEN, *talkative], "gender", rng=np.random.default_rng(0), average="pooled")
    assert pooled.gaps[0].absolute.estimate == pytest.approx(women.pooled.estimate - men.pooled.estimate)


def test_undeclared_is_reported_and_never_compared():
    """Undeclared speakers are no group: a gap to them would be a gap to anybody."""
    unknown = people(None, [0.9] * 12)
    report = speaker_gaps([*unknown, *WOMEN, *MEN], "gender", rng=np.random.default_rng(0), resampling=QUICK)
    assert [group.group for group in report.groups] == ["male", "female", "undeclared"]
    assert report.groups[-1].speakers == 12
    assert [(gap.group, gap.reference) for gap in report.gaps] == [("female", "male")]


def test_small_groups_are_reported_with_a_warning_and_not_compared():
    """Two speakers are two people; a table that compares them with others invites to read more into it."""
    few = people("non-binary", [0.8, 0.9])
    one = people("other", [0.7])
    report = speaker_gaps([*WOMEN, *MEN, *few, *one], "gender", rng=np.random.default_rng(0), resampling=QUICK)
    by_name = {group.group: group for group in report.groups}
    assert by_name["non-binary"].macro.estimate == pytest.approx(85.0) and math.isnan(by_name["non-binary"].macro.low)
    assert by_name["other"].macro.estimate == pytest.approx(70.0) and math.isnan(by_name["other"].macro.low)
    assert [gap.group for gap in report.gaps] == ["female"]
    assert "non-binary: only 2 speakers, too few to compare (at least 5)." in report.warnings
    assert any(warning.startswith("other: only 1 speaker") for warning in report.warnings)
    assert [warning.split(":")[0] for warning in report.gaps[0].warnings] == ["female", "male"]
    large = people("male", [0.1, 0.2, 0.3] * 4)
    (gap,) = speaker_gaps([*WOMEN, *large], "gender", rng=np.random.default_rng(0), resampling=QUICK).gaps
    assert [warning.split(":")[0] for warning in gap.warnings] == ["female"]


def test_nothing_to_compare_is_said():
    report = speaker_gaps(people(None, [0.1, 0.4]), "gender", rng=np.random.default_rng(0), resampling=QUICK)
    assert not report.gaps and "nothing is compared" in report.warnings[-1]
    alone = speaker_gaps(MEN, "gender", rng=np.random.default_rng(0), resampling=QUICK)
    assert not alone.gaps and "nothing is compared" in alone.warnings[-1]


def test_speakers_with_two_labels_count_as_undeclared():
    """A speaker in both groups breaks the independence on which the interval rests."""
    changed = [utterance("x1", 1, 10, gender="female", speaker="male0")]
    report = speaker_gaps([*WOMEN, *MEN, *changed], "gender", rng=np.random.default_rng(0), resampling=QUICK)
    by_name = {group.group: group for group in report.groups}
    assert by_name["male"].speakers == 7 and by_name["undeclared"].utterances == 4
    assert report.warnings == ("1 speakers declare more than one gender and count as undeclared.",)


def test_unknown_speakers_are_replaced_by_utterances_with_a_warning():
    without = [utterance(str(i), i % 5, 10, gender="male" if i % 3 else "female") for i in range(60)]
    report = speaker_gaps(without, "gender", rng=np.random.default_rng(0), resampling=QUICK)
    (gap,) = report.gaps
    assert gap.absolute.unit == "utterance" and report.groups[0].speakers == 0
    assert any("Speakers are unknown" in warning for warning in gap.warnings)


def test_age_groups_are_compared_with_the_largest_and_corrected():
    """Choosing the best group as the reference would find gaps in pure chance, and so would many tests uncorrected."""
    rng = np.random.default_rng(3)
    scores = [
        utterance(f"{age}{i}", rng.binomial(10, 0.3), 10, age=age, speaker=f"{age}{i}")
        for age, speakers in (("twenties", 20), ("fourties", 10), ("sixties", 12))
        for i in range(speakers)
    ]
    report = speaker_gaps(scores, "age", rng=rng, resampling=QUICK)
    assert [(gap.group, gap.reference) for gap in report.gaps] == [("sixties", "twenties"), ("forties", "twenties")]
    first, second = sorted(report.gaps, key=lambda gap: gap.p_value)
    assert first.p_corrected == pytest.approx(min(1, 2 * first.p_value))
    assert second.p_corrected == pytest.approx(max(first.p_corrected, second.p_value))


def test_other_attributes_keep_their_labels():
    score = utterance("a", 0, 1)
    score.labels["accent"] = "balear"
    assert group_of(score, "accent") == "balear" and group_of(score, "gender") == "undeclared"


def test_a_group_without_errors_has_a_gap_and_no_ratio():
    report = speaker_gaps([*WOMEN, *people("male", [0.0] * 8)], "gender", rng=np.random.default_rng(0))
    (gap,) = report.gaps
    assert gap.absolute.estimate == pytest.approx(35.0)
    assert gap.absolute.low < 35 < gap.absolute.high
    assert gap.ratio.estimate == math.inf and math.isnan(gap.ratio.low)
    assert any("no error at all" in warning for warning in gap.warnings)


def test_misuse_raises():
    with pytest.raises(ValueError, match=r"one language.*ca, uk"):
        speaker_gaps([*WOMEN, *people("male", [0.1], language="ca")], "gender", rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"one system.*base, int8"):
        speaker_gaps([*WOMEN, *people("male", [0.1], system="int8")], "gender", rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="'intersex'; there are male, female"):
        speaker_gaps([*WOMEN, *MEN], "gender", rng=np.random.default_rng(0), reference="intersex")
    with pytest.raises(ValueError, match="no utterance"):
        speaker_gaps([], "gender", rng=np.random.default_rng(0))


def two_systems(rng, *, widening, speakers=15):
    """A system that is worse for everybody, and by `widening` more so for women; speakers keep their own level."""
    before, after = [], []
    for gender, base, extra in (("male", 0.2, 0.0), ("female", 0.3, widening)):
        for i in range(speakers):
            level = np.clip(base + rng.normal(0, 0.1), 0.02, 0.7)
            worse = np.clip(level + 0.05 + extra + rng.normal(0, 0.03), 0, 1)
            for c in range(4):
                for system, rate, scores in (("base", level, before), ("int8", worse, after)):
                    errors = rng.binomial(20, rate)
                    name = f"{gender}{i}"
                    scores.append(utterance(f"{name}-{c}", errors, 20, gender=gender, speaker=name, system=system))
    return before, after


def test_change_of_a_gap_is_after_minus_before():
    before, after = two_systems(np.random.default_rng(5), widening=0.1)
    (change,) = gap_changes(before, after, "gender", rng=np.random.default_rng(0))
    gaps = [
        speaker_gaps(scores, "gender", rng=np.random.default_rng(0), reference=change.reference).gaps[0]
        for scores in (before, after)
    ]
    assert [change.before, change.after] == pytest.approx([gap.absolute.estimate for gap in gaps])
    assert change.absolute.estimate == pytest.approx(change.after - change.before)
    assert change.ratio.estimate == pytest.approx(gaps[1].ratio.estimate / gaps[0].ratio.estimate)
    assert change.ratio.low < change.ratio.estimate < change.ratio.high


def test_resampling_in_pairs_makes_the_change_visible():
    """If both systems were resampled apart, the level of each speaker would hide what the systems differ in."""
    before, after = two_systems(np.random.default_rng(6), widening=0.1)
    (change,) = gap_changes(before, after, "gender", rng=np.random.default_rng(0))
    widths = [
        (gap.absolute.high - gap.absolute.low)
        for scores in (before, after)
        for gap in speaker_gaps(scores, "gender", rng=np.random.default_rng(0)).gaps
    ]
    assert change.absolute.high - change.absolute.low < 0.6 * math.hypot(*widths)
    assert (change.absolute.low > 0 or change.absolute.high < 0) and change.p_value < 0.05


def test_interval_of_the_change_covers():
    rng = np.random.default_rng(7)
    runs, covered = 100, 0
    for _ in range(runs):
        before, after = two_systems(rng, widening=0.05)
        (change,) = gap_changes(before, after, "gender", rng=rng, reference="male", resampling=QUICK)
        covered += change.absolute.low <= 5 <= change.absolute.high
    assert 0.9 <= covered / runs <= 0.99


def test_no_change_between_a_system_and_itself():
    (change,) = gap_changes([*WOMEN, *MEN], [*MEN, *WOMEN], "gender", rng=np.random.default_rng(0))
    assert change.absolute.estimate == 0 and change.p_value == 1.0
    assert change.ratio.estimate == pytest.approx(1.0)


@pytest.mark.real
@pytest.mark.skipif("DISTIL_WHISPER_REAL_SPEECH" not in os.environ, reason="DISTIL_WHISPER_REAL_SPEECH is not set")
def test_real_speakers_and_labels():
    """Real metadata: 39 men and 49 women, and a system that drops a word of every third man's clip only."""
    folder = Path(os.environ["DISTIL_WHISPER_REAL_SPEECH"]) / "uk-digit-strings"
    with open(folder / "metadata.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = [
        score_utterance(
            row["sentence"],
            row["sentence"].partition(" ")[2] if row["gender"] == "male" and i % 3 == 0 else row["sentence"],
            normalizer=get_normalizer("unicode", row["language"]),
            utterance_id=row["file_name"],
            language=row["language"],
            speaker=row["speaker"],
            labels={"gender": row["gender"], "age": row["age"]},
        )
        for i, row in enumerate(rows)
    ]
    report = speaker_gaps(scores, "gender", rng=np.random.default_rng(0))
    assert {group.group: group.speakers for group in report.groups} == {"female": 49, "male": 39}
    (gap,) = report.gaps
    assert (gap.group, gap.reference) == ("male", "female") and gap.absolute.low > 0 and not gap.absolute.warnings
    ages = speaker_gaps(scores, "age", rng=np.random.default_rng(0))
    assert [group.group for group in ages.groups] == ["undeclared"] and not ages.gaps
