"""Whisper's tokenizer for texts that name their own language, so that one data set can hold several."""

from __future__ import annotations

import re
from typing import Any

from transformers import BatchEncoding, WhisperTokenizer

from .languages import WHISPER_LANGUAGES, language_code

PADDING_ARGUMENTS = ("padding", "return_tensors", "pad_to_multiple_of")
LANGUAGE_TOKEN = re.compile(rf"\s*<\|({'|'.join(WHISPER_LANGUAGES)})\|>")


class DistilWhisperTokenizer(WhisperTokenizer):
    """WhisperTokenizer that takes a language token at the beginning of a text for the language of its prompt.

    `"<|ca|> bon dia"` gets the prompt `<|startoftranscript|><|ca|>…`, whatever language the tokenizer is set to, and
    the text " bon dia". The expert follows from the prompt, so scripts that know nothing of experts train each
    language's own. Texts without such a token, and everything else, are as in WhisperTokenizer.
    """

    def __call__(self, text: Any = None, *args: Any, **kwargs: Any) -> BatchEncoding:
        """Encode a text or a list of texts; arguments and result as in WhisperTokenizer.

        Raises:
            ValueError: a text in a language that the vocabulary has no token for, as `<|yue|>` before large-v3.
        """
        texts = text if isinstance(text, (list, tuple)) else [text]
        if not any(isinstance(one, str) and LANGUAGE_TOKEN.match(one) for one in texts):
            return super().__call__(text, *args, **kwargs)
        # Texts are encoded one by one, for each has its prompt, and padded together.
        padding = {key: kwargs.pop(key) for key in PADDING_ARGUMENTS if key in kwargs}
        rows = [self._encode_with_language(one, *args, **kwargs) for one in texts]
        encoded = BatchEncoding({key: [row[key] for row in rows] for key in rows[0]}) if texts is text else rows[0]
        return self.pad(encoded, **padding) if padding else encoded

    def _encode_with_language(self, text: str, *args: Any, **kwargs: Any) -> BatchEncoding:
        found = LANGUAGE_TOKEN.match(text)
        encoded = super().__call__(text[found.end() :] if found else text, *args, **kwargs)
        if found is None or not kwargs.get("add_special_tokens", True):
            return encoded
        # Behind <|startoftranscript|>, in place of the tokenizer's own language if it has one.
        rest = 2 if self.language is not None else 1
        token_id = self.convert_tokens_to_ids(f"<|{found.group(1)}|>")
        if token_id == self.unk_token_id:
            # Whisper's unknown token is the end of the text.
            known = [code for code in WHISPER_LANGUAGES if f"<|{code}|>" in self.get_vocab()]
            token_id = self.convert_tokens_to_ids(f"<|{language_code(found.group(1), known)}|>")
        inserted = {"input_ids": token_id, "attention_mask": 1, "special_tokens_mask": 1}
        return BatchEncoding({key: [*ids[:1], inserted.get(key, 0), *ids[rest:]] for key, ids in encoded.items()})
