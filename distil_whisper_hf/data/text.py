"""Transcripts as training targets: cleaned of what is not speech, and otherwise left as they are written.

One function cleans the text of every source, so that two data sets cannot teach two spellings. Case, punctuation and
combining marks stay: Whisper writes them.
"""

from __future__ import annotations

import html
import re
import unicodedata

from .rejections import NoteKind, Reason

# Invisible, but part of how Persian and the scripts of India are spelled.
_JOINERS = {"\u200c", "\u200d"}
_QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»"}
_SPECIAL_TOKEN = re.compile(r"<\|[^<>|]{0,40}\|>")
# With its semicolon alone: "R&D" and "this&that" are texts.
_ENTITY = re.compile(r"&(?:#[0-9]+|#[xX][0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]*);")
_TIMES_ESCAPED = 3
# What decoders write for bytes that they do not understand.
_REPLACEMENT = "\ufffd"


def clean_text(text: str) -> str:
    """Canonical composition (NFC), HTML entities as what they stand for, no control or invisible characters, single
    spaces, no quotes around the whole text.

    Args:
        text: a transcript in any language.

    Returns:
        The cleaned transcript; empty when no letter or digit is left, that is when nothing was said.
    """
    composed = unicodedata.normalize("NFC", _unescaped(text))
    visible = "".join(_visible(character) for character in composed)
    cleaned = _unquoted(" ".join(visible.split()))
    return cleaned if any(unicodedata.category(character)[0] in "LN" for character in cleaned) else ""


def text_key(text: str) -> str:
    """What two transcripts must share to count as the same text: their letters, marks and digits, without case."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    spoken = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in folded)
    return " ".join(spoken.split())


def text_fault(text: str) -> tuple[Reason, str] | None:
    """Why a transcript teaches something else than what was said, as reason and detail; None for one that does not."""
    plain = _unescaped(text)
    token = _SPECIAL_TOKEN.search(plain)
    if token is not None:
        return "special_token", f"{token[0]} in the text: prompts are made here, without timestamps. Take it out"
    damage = next((character for character in plain if _is_damage(character)), None)
    if damage is not None:
        return "damaged_text", f"U+{ord(damage):04X} in {plain!r}, which no transcript has"
    return None if clean_text(text) else ("empty_text", repr(text))


def text_notes(text: str) -> list[NoteKind]:
    """What `clean_text` mends that says something about the rest of a data set."""
    plain = _unescaped(text)
    found: dict[NoteKind, bool] = {
        "html_entities": plain != text,
        "other_unicode_form": unicodedata.normalize("NFC", plain) != plain,
        "invisible_characters": any(_visible(character) == "" for character in plain),
    }
    return [kind for kind, is_there in found.items() if is_there]


def _unescaped(text: str) -> str:
    """With HTML entities, also those that were escaped twice, as what they stand for."""
    for _ in range(_TIMES_ESCAPED):
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    return text


def _is_damage(character: str) -> bool:
    category = unicodedata.category(character)
    return category == "Cs" or character == _REPLACEMENT or (category == "Cc" and not character.isspace())


def _visible(character: str) -> str:
    """The character; a space for control characters such as tabs, nothing for invisible ones."""
    category = unicodedata.category(character)
    if category == "Cc":
        return " "
    if category in ("Cf", "Cs") and character not in _JOINERS:
        return ""
    return character


def _unquoted(text: str) -> str:
    """Without a pair of quotes around the whole text, as Common Voice has them around many sentences."""
    closing = _QUOTES.get(text[:1])
    inner = text[1:-1]
    if closing is None or len(text) < 2 or text[-1] != closing or text[0] in inner or closing in inner:
        return text
    return inner.strip()
