"""Numerals as words before scoring."""

import pytest

from distil_whisper_hf.evaluation.scores.normalization import get_normalizer
from distil_whisper_hf.evaluation.scores.numerals import can_spell, spelling_normalizer


@pytest.mark.parametrize(
    ("language", "mode", "text", "expected"),
    [
        ("uk", "digits", "7, 9, 5", "сім дев'ять п'ять"),
        ("uk", "digits", "795.", "сім дев'ять п'ять"),
        ("en", "cardinals", "In 25 days", "in twenty five days"),
        ("en", "cardinals", "Dial 007", "dial zero zero seven"),
        ("en", "cardinals", "1234567", "one two three four five six seven"),
        ("en", "digits", "A5b", "a five b"),
        ("uk", "digits", "нуль один", "нуль один"),
    ],
)
def test_numerals_become_words(language, mode, text, expected):
    """Prevents a model that writes digits from being scored as wrong where it is right."""
    assert spelling_normalizer(get_normalizer("unicode", language), mode, language)(text) == expected


def test_label_says_that_numbers_were_spelled_out():
    """Prevents two error rates with and without spelling from being compared unawares."""
    plain = get_normalizer("unicode", "uk")
    assert spelling_normalizer(plain, "digits", "uk").label == "unicode + digits spelled out by num2words"
    assert spelling_normalizer(plain, "no", "uk") is plain


def test_unknown_language_and_mode_are_refused():
    """Prevents numbers of one language from being spelled in another."""
    assert can_spell("uk") and can_spell("Catalan") and not can_spell("el") and not can_spell(None)
    with pytest.raises(ValueError, match=r"'el'.*spell_numbers='no'"):
        spelling_normalizer(get_normalizer("unicode", "el"), "digits", "el")
    with pytest.raises(ValueError, match="no, digits, cardinals"):
        spelling_normalizer(get_normalizer("unicode", "uk"), "words", "uk")
