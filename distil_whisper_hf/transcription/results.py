"""What a transcription is: segments and words with their times, and figures that are what their names say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Word:
    """A word with its times in s; `word` begins with a space where the language has them, as in openai-whisper.

    `probability` is the mean of its tokens' probabilities among text tokens, in [0, 1].
    """

    word: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True)
class OpenGates:
    """Share of gates in [0, 1] that take the expert's path, over all layers: of the encoder in the frames of a segment,
    of the decoder at its tokens."""

    encoder: float
    decoder: float


@dataclass(frozen=True)
class Segment:
    """A stretch that Whisper gave times to.

    Attributes:
        id: position in the transcription.
        seek: where its window begins, in frames of 10 ms.
        start, end: in s.
        text: begins with a space where the language has them.
        tokens: of text and times, as the window was decoded.
        temperature: at which its window was decoded.
        avg_logprob: mean log-probability of its window's tokens, the end included, in nats; of the distribution in
            which what may not follow is left out, at temperature 1.
        compression_ratio: bytes of the window's text over those after zlib.
        no_speech_prob: probability of `<|nospeech|>` at the start of the window, in [0, 1].
        words: with their times, where they were asked for.
        open_gates: None on the shared path.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: tuple[Word, ...] | None = None
    open_gates: OpenGates | None = None


@dataclass(frozen=True)
class Transcription:
    """What was said in a recording.

    Attributes:
        language: Whisper's code.
        language_probability: of the detected one, in [0, 1]; None where it was given.
        duration: of the recording, in s.
        speech_seconds: of what the voice activity detector left; None where it was not asked.
        expert: name of the expert that was taken; None is the shared path, plain Whisper.
        name: of the recording.
    """

    segments: tuple[Segment, ...]
    language: str
    task: str
    duration: float
    expert: str | None = None
    language_probability: float | None = None
    speech_seconds: float | None = None
    name: str = ""
    open_gates: OpenGates | None = field(default=None)

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)

    def as_json(self) -> dict[str, Any]:
        """As openai-whisper's JSON, with the length, the detection, and what experts there were beside."""
        return {
            "text": self.text,
            "segments": [_segment(segment) for segment in self.segments],
            "language": self.language,
            "language_probability": self.language_probability,
            "task": self.task,
            "duration": self.duration,
            "speech_seconds": self.speech_seconds,
            "expert": self.expert,
            "open_gates": _gates(self.open_gates),
        }


def _segment(segment: Segment) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": segment.id,
        "seek": segment.seek,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
        "open_gates": _gates(segment.open_gates),
    }
    if segment.words is not None:
        found["words"] = [
            {"word": word.word, "start": word.start, "end": word.end, "probability": word.probability}
            for word in segment.words
        ]
    return found


def _gates(gates: OpenGates | None) -> dict[str, float] | None:
    return None if gates is None else {"encoder": gates.encoder, "decoder": gates.decoder}
