"""Whisper's tokenizer for texts that name their own language, so that one data set can hold several."""

from __future__ import annotations

import re
from typing import Any

from transformers import BatchEncoding, WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES

LANGUAGE_TOKEN = re.compile(rf"\s*<\|({'|'.join(LANGUAGES)})\|>")


class DistilWhisperTokenizer(WhisperTokenizer):
    """WhisperTokenizer that takes a language token at the beginning of a text for the language of its prompt.

    `"<|ca|> bon dia"` gets the prompt `<|startoftranscript|><|ca|>…`, whatever language the tokenizer is set to, and
    the text " bon dia". The expert follows from the prompt, so scripts that know nothing of experts train each language's
    own. Texts without such a token, and everything else, are as in WhisperTokenizer.
    """

    def __call__(self, text: Any = None, *args: Any, **kwargs: Any) -> BatchEncoding:
        """Encode a text or a list of texts; arguments and result as in WhisperTokenizer."""
        if isinstance(text, (list, tuple)):
            if not any(isinstance(one, str) and LANGUAGE_TOKEN.match(one) for one in text):
                return super().__call__(text, *args, **kwargs)
            collect = {
                key: kwargs.pop(key) for key in ("padding", "return_tensors", "pad_to_multiple_of") if key in kwargs
            }
            rows = [self(one, *args, **kwargs) for one in text]
            batch = BatchEncoding({key: [row[key] for row in rows] for key in rows[0]})
            return self.pad(batch, **collect) if collect else batch
        found = LANGUAGE_TOKEN.match(text) if isinstance(text, str) else None
        if found is None:
            return super().__call__(text, *args, **kwargs)
        collect = {key: kwargs.pop(key) for key in ("padding", "return_tensors", "pad_to_multiple_of") if key in kwargs}
        encoded = super().__call__(text[found.end() :], *args, **kwargs)
        if kwargs.get("add_special_tokens", True):
            encoded = self._with_language(encoded, found.group(1))
        return self.pad(encoded, **collect) if collect else encoded

    def _with_language(self, encoded: BatchEncoding, code: str) -> BatchEncoding:
        # Behind <|startoftranscript|>, in place of the tokenizer's own language if it has one.
        cut = 2 if self.language is not None else 1
        inserted = {
            "input_ids": self.convert_tokens_to_ids(f"<|{code}|>"),
            "attention_mask": 1,
            "special_tokens_mask": 1,
        }
        return BatchEncoding(
            {key: [*values[:1], inserted.get(key, 0), *values[cut:]] for key, values in encoded.items()}
        )
