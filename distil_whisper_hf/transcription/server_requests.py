"""What a client may ask for, in OpenAI's words, and what is said to one that asks for something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..languages import language_code
from .options import FALLBACK, TranscriptionOptions

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
# The model and its experts: "base", "base:ca". OpenAI's own clients ask for whisper-1 by habit.
BASE = "base"
_ALIASES = (BASE, "whisper-1")
_FIELDS = {
    "transcribe": {"file", "model", "language", "prompt", "response_format", "temperature", "stream",
                   "timestamp_granularities[]"},
    "translate": {"file", "model", "prompt", "response_format", "temperature"},
}  # fmt: skip


class RequestError(Exception):
    """What is wrong with a request, as OpenAI says it.

    Attributes:
        status: of HTTP.
        message: a sentence.
        param: the field that is meant.
        code: for programs.
        headers: of the answer.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class TranscriptionRequest:
    """A request, without its file.

    Attributes:
        options: of the transcription.
        response_format: one of `FORMATS`.
        stream: send the text as it comes.
        words, segments: what verbose_json holds.
    """

    options: TranscriptionOptions
    response_format: str
    stream: bool
    words: bool
    segments: bool


def read_request(form: Any, task: str, experts: tuple[str, ...], languages: set[str]) -> TranscriptionRequest:
    """The request in a form of several parts.

    Args:
        form: with `get`, `getlist` and `keys`, such as Starlette's.
        task: "transcribe" or "translate".
        experts: names of those that there are.
        languages: codes that the model has a token for.

    Raises:
        RequestError: what it asks for is not known, or not given.
    """
    for key in form:
        if key not in _FIELDS[task]:
            known = ", ".join(sorted(_FIELDS[task]))
            raise RequestError(400, f"Expected fields of {known}; {key} is not supported.", param=key[:50])
    how = _text(form, "response_format") or "json"
    if how not in FORMATS:
        raise RequestError(
            400, f"Expected a format of {', '.join(FORMATS)}, got {how[:50]!r}.", param="response_format"
        )
    stream = (_text(form, "stream") or "false").lower()
    if stream not in ("true", "false"):
        raise RequestError(400, f"Expected true or false, got {stream[:50]!r}.", param="stream")
    asked = [str(one) for one in form.getlist("timestamp_granularities[]")]
    if not set(asked) <= {"word", "segment"}:
        raise RequestError(
            400, f"Expected word and segment, got {', '.join(asked)[:50]!r}.", param="timestamp_granularities[]"
        )
    if asked and how != "verbose_json":
        raise RequestError(
            400, "Expected the response_format verbose_json for timestamp_granularities.",
            param="timestamp_granularities[]",
        )  # fmt: skip
    words = "word" in asked
    options = TranscriptionOptions(
        task=task,  # type: ignore[arg-type]
        language=_language(form, languages),
        expert=_expert(form, experts, task),
        initial_prompt=_text(form, "prompt"),
        temperature=_temperature(form),
        word_timestamps=words,
    )
    return TranscriptionRequest(options, how, stream == "true", words, not asked or "segment" in asked)


def model_names(experts: tuple[str, ...]) -> list[str]:
    """What may be asked for as `model`."""
    return [BASE, *(f"{BASE}:{name}" for name in experts)]


def _text(form: Any, name: str) -> str | None:
    value = form.get(name)
    if value is not None and not isinstance(value, str):
        raise RequestError(400, f"Expected text in {name}, got a file.", param=name)
    return value or None


def _language(form: Any, languages: set[str]) -> str | None:
    language = _text(form, "language")
    if language is None:
        return None
    try:
        return language_code(language[:50], languages)
    except ValueError:
        raise RequestError(
            400, f"Expected a language of this model, such as en, got {language[:50]!r}.", param="language"
        ) from None


def _expert(form: Any, experts: tuple[str, ...], task: str) -> str | None:
    model = _text(form, "model")
    if model is None:
        raise RequestError(400, "Expected a model, got none.", param="model")
    if model in _ALIASES:
        return None
    base, _, name = model.partition(":")
    if base not in _ALIASES or name not in experts:
        raise RequestError(
            404, f"Expected a model of {', '.join(model_names(experts))}, got {model[:50]!r}.", param="model",
            code="model_not_found",
        )  # fmt: skip
    if task == "translate":
        raise RequestError(400, f"Expected the model {BASE} to translate: experts only transcribe.", param="model")
    return name


def _temperature(form: Any) -> tuple[float, ...]:
    said = _text(form, "temperature")
    try:
        temperature = 0.0 if said is None else float(said)
    except ValueError:
        temperature = -1.0
    if not 0.0 <= temperature <= 1.0:
        raise RequestError(400, f"Expected a temperature from 0 to 1, got {str(said)[:50]!r}.", param="temperature")
    # As OpenAI has it: at 0 it is raised where a text is bad.
    return FALLBACK if temperature == 0.0 else (temperature,)
