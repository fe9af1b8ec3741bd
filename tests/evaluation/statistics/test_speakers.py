import pytest

from distil_whisper_hf.evaluation.statistics.speakers import canonical_age, canonical_gender


@pytest.mark.parametrize(
    ("label", "gender"),
    [
        ("male", "male"),
        ("male_masculine", "male"),
        ("MALE", "male"),
        ("female", "female"),
        ("female_feminine", "female"),
        ("non-binary", "non-binary"),
        ("intersex", "intersex"),
        ("transgender", "transgender"),
        ("other", "other"),
        (" ", "undeclared"),
        (None, "undeclared"),
        ("nan", "undeclared"),
        ("do_not_wish_to_say", "undeclared"),
        ("undeclared", "undeclared"),
    ],
)
def test_genders_of_old_and_new_releases(label, gender):
    """If "female_feminine" were a group beside "female", each would be compared with half of its speakers."""
    assert canonical_gender(label) == gender


@pytest.mark.parametrize(
    ("label", "group"),
    [
        ("teens", "teens"),
        ("fourties", "forties"),
        ("forties", "forties"),
        ("nineties", "nineties"),
        ("", "undeclared"),
        (None, "undeclared"),
        (float("nan"), "undeclared"),
        (5, "children"),
        (12, "children"),
        (13, "teens"),
        ("19", "teens"),
        (20, "twenties"),
        ("34.5", "thirties"),
        (99, "nineties"),
    ],
)
def test_ages_of_labels_and_years(label, group):
    """Common Voice writes "fourties": one misspelt group of its own would look like missing speakers."""
    assert canonical_age(label) == group


def test_unknown_labels_raise_with_the_known_ones():
    """A label that falls through to "undeclared" would remove a whole group without a word."""
    with pytest.raises(ValueError, match="female_feminine"):
        canonical_gender("f")
    for wrong in ("adult", 100, -1):
        with pytest.raises(ValueError, match="fourties"):
            canonical_age(wrong)
