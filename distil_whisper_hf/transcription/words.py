"""Tokens to words, as openai-whisper divides them: by spaces, or by characters in languages without spaces."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..languages import NO_LEADING_SPACE_LANGUAGES

# What belongs to the word behind it, and to the one before it.
_OPENING = "\"'“¿([{-"
_CLOSING = "\"'.。,，!！?？:：”)]}、"
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class WordTokens(NamedTuple):
    """A word and its tokens."""

    text: str
    tokens: tuple[int, ...]


def split_words(tokenizer: Any, tokens: Sequence[int], language: str) -> list[WordTokens]:
    """Divide text tokens into words, punctuation with the word that it belongs to.

    Args:
        tokenizer: Whisper's.
        tokens: of text alone.
        language: Whisper's code.
    """
    found: list[WordTokens] = []
    by_character = language in NO_LEADING_SPACE_LANGUAGES
    for piece in _characters(tokenizer, tokens):
        alone = piece.text.strip() != "" and piece.text.strip() in string.punctuation
        blank = bool(found) and not found[-1].text.strip()
        if blank or (found and not (by_character or alone or piece.text.startswith(" "))):
            piece = WordTokens(found[-1].text + piece.text, (*found[-1].tokens, *piece.tokens))
            found.pop()
        found.append(piece)
    return _with_punctuation(found)


def _characters(tokenizer: Any, tokens: Sequence[int]) -> list[WordTokens]:
    """The shortest runs of tokens that are whole characters."""
    whole = tokenizer.decode(list(tokens))
    found, run, at = [], [], 0
    for token in tokens:
        run.append(token)
        text = tokenizer.decode(run)
        # A character that is none in the whole text either will not become one by more tokens.
        if _UNFINISHED not in text or whole[at : at + len(text)] == text:
            found.append(WordTokens(text, tuple(run)))
            at += len(text)
            run = []
    if run:
        found.append(WordTokens(tokenizer.decode(run), tuple(run)))
    return found


def _with_punctuation(words: list[WordTokens]) -> list[WordTokens]:
    found: list[WordTokens] = []
    for word in words:
        sign = word.text.strip()
        before = found[-1].text.strip() if found else ""
        follows = sign != "" and sign in _CLOSING and not word.text.startswith(" ")
        opened = before != "" and before in _OPENING and found[-1].text.startswith(" ")
        if found and (follows or opened):
            last = found.pop()
            word = WordTokens(last.text + word.text, (*last.tokens, *word.tokens))
        found.append(word)
    return found
