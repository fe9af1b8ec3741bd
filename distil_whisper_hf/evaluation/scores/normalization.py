"""Text normalisers by name: what is done to references and hypotheses before their words are compared.

An error rate means nothing without its normaliser, so each `Normalizer` carries the label to print beside the figure.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from ...languages import language_tag

NormalizerName = Literal["unicode", "basic", "english", "none"]

_DOTLESS_I_LANGUAGES = frozenset({"az", "tr"})
_DOTLESS_I = str.maketrans({"I": "ı", "İ": "i"})

# Every way in which an apostrophe gets typed. Mapped before NFKC, which would turn U+00B4 into a space and an accent.
_APOSTROPHES = dict.fromkeys(map(ord, "'`´ʹʻʼʽ‘’‛′＇ꞌ׳"), "'")
_CATALAN_DOT = "·"
_CATALAN_GEMINATE = re.compile(r"(?<=l)[·•‧∙⋅](?=l)")
_STRAY_DOT = re.compile(r"(?<!l)·|·(?!l)")
# After translation a character is a letter, mark, number, space or apostrophe, so "a letter on both sides" is "none of
# the others"; `\w` would not do, because it leaves out the vowel signs of Indic scripts.
_OUTER_APOSTROPHE = re.compile(r"(?<![^\s\d'])'|'(?![^\s\d'])")
_ZERO_WIDTH_SPACE = 0x200B


class _CharacterTable(dict[int, str]):
    """Replacement of each code point by its Unicode category, filled on first use (for `str.translate`)."""

    def __missing__(self, code_point: int) -> str:
        self[code_point] = replacement = _replace(code_point)
        return replacement


def _replace(code_point: int) -> str:
    character = chr(code_point)
    category = unicodedata.category(character)
    if character in ("'", _CATALAN_DOT) or category[0] == "L":
        return character
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "Me" or _is_variation_selector(code_point):
        return ""
    if category[0] in "MN":
        return character
    if category == "Cf" and code_point != _ZERO_WIDTH_SPACE:
        return ""
    return " "


def _is_variation_selector(code_point: int) -> bool:
    return 0xFE00 <= code_point <= 0xFE0F or 0xE0100 <= code_point <= 0xE01EF or 0x180B <= code_point <= 0x180F


_CHARACTERS = _CharacterTable()


@dataclass(frozen=True)
class Normalizer:
    """A function from text to text with the label that must be printed with every figure computed through it.

    `name` is the choice given to `get_normalizer`; `label` adds what else changes the result.
    """

    name: NormalizerName
    label: str
    function: Callable[[str], str]

    def __call__(self, text: str) -> str:
        return self.function(text)


def normalize_unicode(text: str, language: str | None = None) -> str:
    """Lower-case words of letters, marks and digits, separated by single spaces.

    The rules, in this order:

    1. NFKC and case folding (so "ß" equals "ss" and "ς" equals "σ"), with "I"/"ı" and "İ"/"i" paired in Turkish and
       Azerbaijani.
    2. Combining marks stay: the vowel signs of Hindi, Thai, Tamil or Bengali are part of their words.
    3. An apostrophe, however typed, is kept as "'" between two letters and is a space elsewhere: "l’home", "п'ять" and
       "aujourd'hui" are one word each; quotation marks around a word vanish.
    4. A hyphen is a space, also inside a word: it cannot be heard, and "vint-i-cinc" equals "vint i cinc".
    5. Catalan "l·l" stays one word, with any of the dots used for it.
    6. Digits stay, written in ASCII ("५" equals "5"); a decimal or thousands separator is a space. Numbers are not
       spelt out: "5" and "five" are different words.
    7. Invisible format characters (soft hyphen, zero-width joiner) and variation selectors are deleted. All other
       punctuation and symbols, also those read aloud such as "%" and "€", control characters and the zero-width space
       become spaces; white space is collapsed.

    Idempotent. Characters of the result are code points after NFKC (Thai "ำ" is two).
    """
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES))
    if language is not None and language_tag(language) in _DOTLESS_I_LANGUAGES:
        text = text.translate(_DOTLESS_I)
    # Folding can undo a composition, and composing can uncover a letter to fold: both twice, as in NFKC_Casefold.
    for _ in range(2):
        text = unicodedata.normalize("NFKC", text.casefold())
    text = text.translate(_APOSTROPHES)  # NFKC can bring one about, as from the Greek numeral sign
    text = _STRAY_DOT.sub(" ", _CATALAN_GEMINATE.sub(_CATALAN_DOT, text)).translate(_CHARACTERS)
    text = _OUTER_APOSTROPHE.sub(" ", _without_orphan_marks(text))
    return unicodedata.normalize("NFKC", " ".join(text.split()))


def _without_orphan_marks(text: str) -> str:
    """A mark whose letter was punctuation or an emoji would count as a word of its own."""
    kept: list[str] = []
    previous = " "
    for character in text:
        if previous in " '" and unicodedata.category(character)[0] == "M":
            continue
        kept.append(character)
        previous = character
    return "".join(kept)


def get_normalizer(name: NormalizerName = "unicode", language: str | None = None) -> Normalizer:
    """The normaliser called `name`, for texts in `language` (code or English name; `None`: any).

    - `"unicode"`: `normalize_unicode`, the default. Keeps combining marks.
    - `"basic"`: Whisper's own for all languages but English (Radford et al. 2022, appendix C), as in transformers. It
      deletes combining marks (Hindi "कि की" becomes "क क") and text in brackets, so use it only to compare with
      published figures. Letters are not split by spaces in any language.
    - `"english"`: Whisper's own for English: contractions and numbers. British and American spellings stay apart, as
      the label says: their table is part of Whisper checkpoints.
    - `"none"`: the text as it is; words are what white space separates.

    Raises `ValueError` for another name, and for `"english"` with another language.
    """
    if name == "unicode":
        code = None if language is None else language_tag(language)
        dotless = code if code in _DOTLESS_I_LANGUAGES else None
        return Normalizer(name, "unicode", _Unicode(dotless))
    if name == "basic":
        from transformers.models.whisper.english_normalizer import BasicTextNormalizer

        return Normalizer(name, "basic", _Stripped(BasicTextNormalizer()))
    if name == "english":
        if language is not None and language_tag(language) != "en":
            raise ValueError(
                f"the 'english' normalizer rewrites English contractions and numbers, the language is {language!r}: "
                "use 'unicode' or 'basic'"
            )
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

        return Normalizer(name, "english (no spelling table)", _Stripped(EnglishTextNormalizer({})))
    if name == "none":
        return Normalizer(name, "none", _unchanged)
    raise ValueError(f"unknown normalizer {name!r}; choose one of {', '.join(map(repr, get_args(NormalizerName)))}")


# Classes and a named function rather than lambdas, so that a normaliser can be sent to another process.
@dataclass(frozen=True)
class _Unicode:
    language: str | None

    def __call__(self, text: str) -> str:
        return normalize_unicode(text, self.language)


@dataclass(frozen=True)
class _Stripped:
    function: Callable[[str], str]

    def __call__(self, text: str) -> str:
        return self.function(text).strip()


def _unchanged(text: str) -> str:
    return text
