"""The one place that knows a language: Whisper's codes and English names, and what else people call them."""

from __future__ import annotations

from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

# Whisper's code -> English name in lower case, in the order of the language tokens.
WHISPER_LANGUAGES: dict[str, str] = dict(LANGUAGES)


def language_code(language: str) -> str:
    """Whisper's code of a language given by code, English name or token: "ca", "Catalan", "<|ca|>" -> "ca"."""
    code = language.lower().removeprefix("<|").removesuffix("|>")
    code = TO_LANGUAGE_CODE.get(code, code)
    if code not in LANGUAGES:
        raise ValueError(
            f"Expected a language that Whisper has a token for, got {language!r}. One of: {list(LANGUAGES)}"
        )
    return code
