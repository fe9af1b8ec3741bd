"""Hours of training speech by language, and the classes made of them."""

import math

import pytest

from distil_whisper_hf.evaluation.statistics.training_hours import resource_class, training_hours
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
    """A row under another code than the rates would be left out of every trend."""
    table = training_hours()
    for language, row in table.items():
        assert row.hours > 0 and "2212.04356" in row.source
        assert language == row.language == language_code(row.name)
    assert {language: table[language].hours for language in HOURS} == HOURS
    with pytest.raises(TypeError):
        table["xx"] = table["en"]


def test_resource_classes_at_their_limits():
    """A language on a limit must not belong to both classes or to none."""
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
