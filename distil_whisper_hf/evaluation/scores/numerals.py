"""Numerals as words before scoring, for references that spell numbers out where Whisper writes digits."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from ...languages import language_tag
from .normalization import Normalizer

SpellNumbers = Literal["no", "digits", "cardinals"]

_DIGITS = re.compile(r"[0-9]+")
# Longer strings, and those with a leading zero, are not read as one number.
_LONGEST_CARDINAL = 6


def spelling_normalizer(normalizer: Normalizer, mode: SpellNumbers, language: str | None) -> Normalizer:
    """The normaliser with numerals spelled out in `language` between two passes of it; its label says so.

    - `"digits"`: each digit on its own ("795" is "seven nine five"), for telephone numbers and other strings of digits.
    - `"cardinals"`: each group of up to six digits as one number ("795" is "seven hundred and ninety-five"); longer
      groups, and those that begin with 0, digit by digit.
    - `"no"`: the normaliser itself.

    Words are those of the library num2words, in the nominative. Raises `ValueError` for another mode and for a language
    that it does not know.
    """
    if mode not in get_args(SpellNumbers):
        raise ValueError(f"unknown way {mode!r} to spell numbers; choose one of {', '.join(get_args(SpellNumbers))}")
    if mode == "no":
        return normalizer
    import num2words

    code = None if language is None else language_tag(language)
    if code not in num2words.CONVERTER_CLASSES:
        raise ValueError(
            f"numbers cannot be spelled out in the language {language!r}: num2words has "
            f"{', '.join(sorted(num2words.CONVERTER_CLASSES))}. Leave it as it is with spell_numbers='no'"
        )
    label = f"{normalizer.label} + {mode} spelled out by num2words"
    return Normalizer(normalizer.name, label, _Spelled(normalizer, mode, code))


def can_spell(language: str | None) -> bool:
    """Whether num2words knows the language."""
    import num2words

    return language is not None and language_tag(language) in num2words.CONVERTER_CLASSES


@dataclass(frozen=True)
class _Spelled:
    normalizer: Normalizer
    mode: SpellNumbers
    language: str

    def __call__(self, text: str) -> str:
        spelled = _DIGITS.sub(lambda found: f" {self._words(found[0])} ", self.normalizer(text))
        return self.normalizer(spelled)

    def _words(self, digits: str) -> str:
        from num2words import num2words

        one_number = self.mode == "cardinals" and len(digits) <= _LONGEST_CARDINAL and not digits.startswith("0")
        groups = [digits] if one_number else list(digits)
        return " ".join(str(num2words(int(group), lang=self.language)) for group in groups)
