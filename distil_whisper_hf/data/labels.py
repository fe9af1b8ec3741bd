"""Transcripts as token ids, with the prompt of their language.

A row of labels is `<|lang|> <|transcribe|> <|notimestamps|> text <|endoftext|>`: what the decoder is to say after
`<|startoftranscript|>`, which Whisper puts in front when it shifts the labels to the right. With times it is
`<|lang|> <|transcribe|> <|0.00|> text <|1.92|> <|2.32|> text <|4.00|> <|endoftext|>`, and earlier text may stand before
the start token: `<|startofprev|> text`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal, get_args

from tokenizers import Tokenizer
from transformers import WhisperTokenizer

from ..languages import NO_LEADING_SPACE_LANGUAGES, WHISPER_LANGUAGES, language_code

END_OF_TEXT = "<|endoftext|>"
# An English-only vocabulary has one text token fewer than a multilingual one, so its ids are others.
ENGLISH_ONLY_TEXT_TOKENS = 50256
# Of timestamp tokens, in s: from 0.00 to 30.00.
TIMESTAMP_STEP = 0.02

Task = Literal["transcribe", "translate"]
LeadingSpace = Literal["as_whisper", "never"]


class LabelBuilder:
    """Turn texts into labels, from any number of threads and processes.

    The tokenizer that it is made from is neither kept nor changed: stock Whisper tokenizers keep the language as
    state, which rows of several languages would overwrite for each other.

    Args:
        tokenizer: a multilingual Whisper tokenizer.
        task: what follows the language token.
        leading_space: "as_whisper" puts a space before the text in languages that are written with spaces, as Whisper
            itself does. "never" is what most fine-tuning scripts do, and the original DistilWhisper: the first word is
            then a token that the model does not expect, so that training first unlearns how Whisper begins.

    Attributes:
        start: id of `<|startoftranscript|>`.

    Raises:
        ValueError: an unknown choice, or a tokenizer that is not a multilingual Whisper's.
    """

    def __init__(
        self, tokenizer: WhisperTokenizer, *, task: Task = "transcribe", leading_space: LeadingSpace = "as_whisper"
    ) -> None:
        if task not in get_args(Task):
            raise ValueError(f"task must be one of {', '.join(get_args(Task))}, got {task!r}.")
        if leading_space not in get_args(LeadingSpace):
            known = ", ".join(get_args(LeadingSpace))
            raise ValueError(f"leading_space must be one of {known}, got {leading_space!r}.")
        self._ids = tokenizer.get_vocab()
        self.start = self._id("<|startoftranscript|>")
        self._task = [self._id(f"<|{task}|>"), self._id("<|notimestamps|>")]
        self._end = self._id(END_OF_TEXT)
        if self._end == ENGLISH_ONLY_TEXT_TOKENS:
            raise ValueError(
                f"Expected a multilingual tokenizer, got an English-only one ({self._end} text tokens), "
                "whose prompt names no language. Take the multilingual model of the same size."
            )
        self._languages = frozenset(code for code in WHISPER_LANGUAGES if f"<|{code}|>" in self._ids)
        self._unspaced = NO_LEADING_SPACE_LANGUAGES if leading_space == "as_whisper" else None
        self._text = _plain_text_tokenizer(tokenizer)

    def __call__(self, text: str, *, language: str) -> list[int]:
        """Labels of one clip, the start token left out.

        Args:
            text: the transcript, already cleaned; special tokens written in it are text like any other.
            language: as `languages.language_code` takes it: "ca", "Catalan".

        Raises:
            ValueError: the tokenizer has no token for the language.
        """
        return [*self.prompt(language), *self._ids_of(text, language), self._end]

    def timed(self, segments: Sequence[tuple[str, float, float]], *, language: str) -> list[int]:
        """Labels of one window that say when each of its segments begins and ends.

        Args:
            segments: texts with their begin and end in s from the window's own begin, in order.
            language: as above.

        Raises:
            ValueError: the tokenizer has no token for the language.
        """
        ids = self.prompt(language)[:-1]
        for text, begin, end in segments:
            ids += [self._time(begin), *self._ids_of(text, language), self._time(end)]
        return [*ids, self._end]

    def previous(self, text: str, *, language: str, most: int) -> list[int]:
        """`<|startofprev|> text`: what was said before a window, the last `most` tokens of it."""
        ids = self._ids_of(text, language)
        return [self._id("<|startofprev|>"), *ids[len(ids) - min(most, len(ids)) :]]

    def _ids_of(self, text: str, language: str) -> list[int]:
        if self._unspaced is not None and self._code(language) not in self._unspaced:
            text = f" {text}"
        return self._text.encode(text, add_special_tokens=False).ids

    def _time(self, seconds: float) -> int:
        # By place: tokenizers of 2022 do not name these tokens.
        return self._task[-1] + 1 + round(seconds / TIMESTAMP_STEP)

    def without_language(self, text: str) -> list[int]:
        """Labels of a clip in no language that Whisper has a token for: task, text and end."""
        return [*self._task, *self._text.encode(f" {text}", add_special_tokens=False).ids, self._end]

    def prompt(self, language: str) -> list[int]:
        """`<|lang|> <|task|> <|notimestamps|>` as ids.

        Raises:
            ValueError: the tokenizer has no token for the language.
        """
        return [self._ids[f"<|{self._code(language)}|>"], *self._task]

    def _code(self, language: str) -> str:
        # Also a language that has been given a token in this vocabulary.
        return language if f"<|{language}|>" in self._ids else language_code(language, self._languages)

    def _id(self, token: str) -> int:
        if token not in self._ids:
            raise ValueError(f"The tokenizer has no {token} token. Expected that of a multilingual Whisper.")
        return self._ids[token]


def _plain_text_tokenizer(tokenizer: WhisperTokenizer) -> Tokenizer:
    """A copy without special tokens, so that no transcript can smuggle in a language or an end, and without limit."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return Tokenizer.from_str(
        json.dumps({**state, "added_tokens": [], "truncation": None, "padding": None, "post_processor": None})
    )
