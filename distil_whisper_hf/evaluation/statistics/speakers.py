"""What speakers declare about themselves, in one vocabulary: gender and age as Common Voice and FLEURS write them.

Nothing is inferred. A speaker who declares nothing stays "undeclared", a group that is reported and never compared.
"""

from typing import Literal, get_args

Gender = Literal["female", "male", "non-binary", "intersex", "transgender", "other", "undeclared"]
AgeGroup = Literal[
    "children",
    "teens",
    "twenties",
    "thirties",
    "forties",
    "fifties",
    "sixties",
    "seventies",
    "eighties",
    "nineties",
    "undeclared",
]

UNDECLARED = "undeclared"

_UNDECLARED_LABELS = frozenset(
    {"", "nan", "none", "null", "n/a", "unknown", "undeclared", "do_not_wish_to_say", "prefer_not_to_say"}
)

# Labels of Common Voice from version 17 on, of those before it, and of FLEURS (in capitals there).
_GENDERS: dict[str, Gender] = {
    "female": "female",
    "female_feminine": "female",
    "male": "male",
    "male_masculine": "male",
    "non-binary": "non-binary",
    "intersex": "intersex",
    "transgender": "transgender",
    "other": "other",
}

_AGES: dict[str, AgeGroup] = {group: group for group in get_args(AgeGroup)} | {"fourties": "forties"}
_DECADES: tuple[AgeGroup, ...] = get_args(AgeGroup)[2:10]


def canonical_gender(label: str | None) -> Gender:
    """The gender that a data set's label declares; nothing, "nan" or "do_not_wish_to_say" is "undeclared".

    Raises `ValueError` for a label that no supported data set uses: to guess would put speakers in a wrong group.
    """
    key = _key(label)
    if key in _UNDECLARED_LABELS:
        return UNDECLARED
    if key not in _GENDERS:
        raise ValueError(f"unknown gender label {label!r}; known are {', '.join(sorted(_GENDERS))} and nothing")
    return _GENDERS[key]


def canonical_age(label: str | float | None) -> AgeGroup:
    """The age group of a label such as "twenties" (Common Voice, "fourties" included) or of an age in years.

    Ages below 13 are "children", 13 to 19 "teens". Raises `ValueError` for any other label and for ages over 99.
    """
    key = _key(label)
    if key in _UNDECLARED_LABELS:
        return UNDECLARED
    if key in _AGES:
        return _AGES[key]
    known = f"known are {', '.join(sorted(_AGES))}, an age from 0 to 99 years, and nothing"
    try:
        years = float(key)
    except ValueError:
        raise ValueError(f"unknown age label {label!r}; {known}") from None
    if not 0 <= years < 100:
        raise ValueError(f"an age of {label!r} years is not plausible; {known}")
    if years < 20:
        return "children" if years < 13 else "teens"
    return _DECADES[int(years // 10) - 2]


def _key(label: str | float | None) -> str:
    return "" if label is None else str(label).strip().lower()
