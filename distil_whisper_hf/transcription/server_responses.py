"""A transcription in the forms that OpenAI's clients read."""

from __future__ import annotations

import json
from typing import Any

from ..languages import WHISPER_LANGUAGES
from .formats import to_srt, to_vtt
from .results import Transcription
from .server_requests import TranscriptionRequest

_MEDIA = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


def answer(found: Transcription, request: TranscriptionRequest) -> tuple[str, str]:
    """Body and media type."""
    if request.response_format in _MEDIA:
        write = {"text": lambda one: one.text.strip() + "\n", "srt": to_srt, "vtt": to_vtt}[request.response_format]
        return write(found), f"{_MEDIA[request.response_format]}; charset=utf-8"
    content = {"text": found.text.strip(), "usage": _usage(found)}
    if request.response_format == "verbose_json":
        content = _verbose(found, request)
    return json.dumps(content, ensure_ascii=False), "application/json"


def _verbose(found: Transcription, request: TranscriptionRequest) -> dict[str, Any]:
    known = found.as_json()
    content: dict[str, Any] = {
        "task": found.task,
        "language": WHISPER_LANGUAGES.get(found.language, found.language),
        "duration": found.duration,
        "text": found.text.strip(),
        "expert": found.expert,
        "open_gates": known["open_gates"],
        "usage": _usage(found),
    }
    if request.segments:
        content["segments"] = [
            {key: value for key, value in segment.items() if key != "words"} for segment in known["segments"]
        ]
    if request.words:
        content["words"] = [
            {**word, "word": word["word"].strip()} for segment in known["segments"] for word in segment["words"]
        ]
    return content


def delta(text: str) -> str:
    """An event with the text that was added."""
    return _event({"type": "transcript.text.delta", "delta": text})


def done(found: Transcription) -> str:
    """The event at the end."""
    return _event({"type": "transcript.text.done", "text": found.text.strip()})


def failed(body: dict[str, Any]) -> str:
    """The event in place of the end, where there is none."""
    return _event(body)


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _usage(found: Transcription) -> dict[str, Any]:
    return {"type": "duration", "seconds": found.duration}
