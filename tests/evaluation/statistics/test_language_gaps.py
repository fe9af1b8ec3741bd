import itertools
import math

import numpy as np
import pytest
from scipy import stats

from distil_whisper_hf.evaluation.statistics.language_gaps import (
    resource_class,
    resource_gap,
    resource_trend,
    size_trend,
    size_trend_change,
    training_hours,
)
from distil_whisper_hf.languages import language_code

HOURS = {"ca": 1883.0, "uk": 697.0, "gl": 8.9, "hu": 379.0, "pl": 4278.0, "cs": 192.0, "ta": 136.0, "sk": 90.0}


def test_hours_add_up_to_the_published_totals():
    """A row copied from the column of translation data, or a digit lost, would be noticed in the sum."""
    table = training_hours()
    assert table["en"].hours == 438_218
    multilingual = [row.hours for language, row in table.items() if language != "en"]
    assert len(multilingual) == 74
    rounding = 0.5 * sum(hours >= 10 for hours in multilingual) ** 0.5
    assert sum(multilingual) == pytest.approx(117_113, abs=rounding)


def test_every_row_of_the_hours_is_usable():
    table = training_hours()
    for language, row in table.items():
        assert row.hours > 0 and "2212.04356" in row.source
        assert language == row.language == language_code(row.name)
    assert {language: table[language].hours for language in HOURS} == HOURS
    with pytest.raises(TypeError):
        table["xx"] = table["en"]


def test_resource_classes_at_their_limits():
    assert [resource_class(hours) for hours in (0.1, 99.9, 100, 999, 1000, 438_218)] == [
        "low",
        "low",
        "mid",
        "mid",
        "high",
        "high",
    ]
    for wrong in (-1, math.nan):
        with pytest.raises(ValueError, match="negative"):
            resource_class(wrong)


def test_trend_of_an_exact_power_law():
    """Rates that fall by half with sixteen times the data, the law that the Whisper paper finds."""
    rates = {language: 200 * hours**-0.25 for language, hours in HOURS.items()}
    trend = resource_trend(rates, rng=np.random.default_rng(0))
    assert trend.spearman == pytest.approx(-1.0)
    assert trend.slope == pytest.approx(-0.25) and trend.r_squared == pytest.approx(1.0)
    assert trend.halving_factor == pytest.approx(16.0)
    assert trend.p_value == pytest.approx(1e-4, abs=2e-4)


def test_trend_agrees_with_the_definitions():
    rng = np.random.default_rng(1)
    rates = {language: 100 * hours**-0.2 * math.exp(rng.normal(0, 0.5)) for language, hours in HOURS.items()}
    trend = resource_trend(rates, rng=rng)
    x, y = list(HOURS.values()), list(rates.values())
    ranks = [[sorted(values).index(value) for value in values] for values in (x, y)]
    assert trend.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert trend.p_value == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.03)
    assert trend.slope == pytest.approx(np.polyfit(np.log(x), np.log(y), 1)[0])
    assert trend.slope_low < trend.slope < trend.slope_high
    assert -1 <= trend.spearman_low < trend.spearman < trend.spearman_high <= 1


def test_rank_p_value_of_few_languages_is_exact():
    few = dict(list(HOURS.items())[:6])
    rates = dict(zip(few, (9.0, 14.0, 60.0, 13.0, 8.0, 30.0), strict=True))
    trend = resource_trend(rates, rng=np.random.default_rng(0))
    x, y = (stats.rankdata(list(values)) for values in (few.values(), rates.values()))
    observed = abs(np.corrcoef(x, y)[0, 1])
    orders = [abs(np.corrcoef(x, order)[0, 1]) for order in itertools.permutations(y)]
    assert trend.p_value == pytest.approx(np.mean([value >= observed - 1e-9 for value in orders]))
    assert "Only 6 languages" in trend.warnings[0]


def test_more_data_that_does_not_help():
    trend = resource_trend({language: hours**0.1 for language, hours in HOURS.items()}, rng=np.random.default_rng(0))
    assert trend.halving_factor == math.inf and trend.spearman == pytest.approx(1.0)


def test_languages_are_left_out_by_name_and_reason():
    """A language that disappears from a correlation changes it; the reader must see which."""
    rates = {"Catalan": 10.0, "uk": 20.0, "gl": 50.0, "hu": 30.0, "th": 99.0, "br": 80.0, "cs": 0.0, "pl": math.nan}
    trend = resource_trend(rates, rng=np.random.default_rng(0))
    assert trend.languages == ("ca", "uk", "gl", "hu")
    assert {language: reason.split(":")[0] for language, reason in trend.left_out.items()} == {
        "th": "written without spaces",
        "br": "its hours of training speech are not known",
        "cs": "a rate of 0 has no logarithm",
        "pl": "it has no rate",
    }
    assert "th" in resource_trend(rates, "cer", rng=np.random.default_rng(0)).languages
    with pytest.raises(ValueError, match=r"at least 4.*'br'"):
        resource_trend({"ca": 1.0, "uk": 2.0, "br": 3.0}, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="different rates"):
        resource_trend(dict.fromkeys(HOURS, 10.0), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="two rates"):
        resource_trend({"ca": 1.0, "Catalan": 2.0}, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="'wer', 'cer'"):
        resource_trend({"ca": 1.0}, "bleu", rng=np.random.default_rng(0))


def test_gap_between_low_and_high_resource_languages():
    rates = {"sk": 40.0, "gl": 44.0, "be": 60.0, "cy": 52.0, "is": 70.0}
    rates |= {"ca": 12.0, "pl": 9.0, "it": 8.0, "fr": 11.0, "de": 7.0, "uk": 20.0}
    interval, p = resource_gap(rates, rng=np.random.default_rng(0))
    low, high = np.mean([40, 44, 60, 52, 70]), np.mean([12, 9, 8, 11, 7])
    assert interval.estimate == pytest.approx(low - high)
    assert interval.unit == "language" and interval.low > 0 and p < 0.05
    change, p = resource_gap(dict.fromkeys(rates, 3.0), rng=np.random.default_rng(0))
    assert change.estimate == pytest.approx(0.0) and p == 1.0
    with pytest.raises(ValueError, match="at least two"):
        resource_gap({"ca": 1.0, "pl": 2.0, "sk": 3.0}, rng=np.random.default_rng(0))


SIZES = (39e6, 74e6, 244e6)


def power_law(exponents):
    return {size: {language: 80 * (size / 39e6) ** e for language, e in exponents.items()} for size in SIZES}


def test_size_trend():
    exponents = {"ca": -0.5, "pl": -0.6, "gl": -0.2, "sk": -0.3}
    rates = power_law(exponents)
    rates[74e6] = {**rates[74e6], "hu": 30.0}
    trend = size_trend({size: rates[size] for size in (244e6, 39e6, 74e6)})
    assert trend.sizes == SIZES and trend.left_out == {"hu": "not every model has a rate"}
    assert trend.slopes == pytest.approx(exponents)
    assert trend.means[0] == pytest.approx(80.0)
    assert trend.class_means["low"][2] == pytest.approx(np.mean([rates[244e6][name] for name in ("gl", "sk")]))
    assert set(trend.class_means) == {"low", "high"}
    with pytest.raises(ValueError, match="at least two"):
        size_trend({39e6: {"ca": 3.0}})
    with pytest.raises(ValueError, match="every model size"):
        size_trend({39e6: {"ca": 3.0}, 74e6: {"pl": 3.0}})


def test_change_of_the_size_trend():
    """Below 0: small models have suffered more. The sign is the whole answer."""
    exponents = {"ca": -0.5, "pl": -0.6, "gl": -0.2, "sk": -0.3, "hu": -0.4}
    before = size_trend(power_law(exponents))
    steeper = {language: e - 0.1 - 0.01 * i for i, (language, e) in enumerate(exponents.items())}
    interval, p = size_trend_change(before, size_trend(power_law(steeper)), rng=np.random.default_rng(0))
    assert interval.estimate == pytest.approx(-0.12) and interval.high < 0 and p < 0.05
    with pytest.raises(ValueError, match="'hu'"):
        size_trend_change(before, size_trend(power_law({"ca": -0.5, "pl": -0.6})), rng=np.random.default_rng(0))
