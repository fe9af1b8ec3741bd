"""Transcripts as training targets: cleaned of what is not speech, and otherwise left as they are written.

One function cleans the text of every source, so that two data sets cannot teach two spellings. Case, punctuation and
combining marks stay: Whisper writes them.
"""

from __future__ import annotations

import unicodedata

# Invisible, but part of how Persian and the scripts of India are spelled.
_JOINERS = {"\u200c", "\u200d"}
_QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»"}


def clean_text(text: str) -> str:
    """Canonical composition (NFC), no control or invisible characters, single spaces, no quotes around the whole text.

    Args:
        text: a transcript in any language.

    Returns:
        The cleaned transcript; empty when no letter or digit is left, that is when nothing was said.
    """
    composed = unicodedata.normalize("NFC", text)
    visible = "".join(_visible(character) for character in composed)
    cleaned = _unquoted(" ".join(visible.split()))
    return cleaned if any(unicodedata.category(character)[0] in "LN" for character in cleaned) else ""


def text_key(text: str) -> str:
    """What two transcripts must share to count as the same text: their letters, marks and digits, without case."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    spoken = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in folded)
    return " ".join(spoken.split())


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
