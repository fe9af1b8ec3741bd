"""What may be asked of a transcription, by the names and with the meanings of openai-whisper."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ..languages import language_code

Task = Literal["transcribe", "translate"]
# The temperatures that openai-whisper goes through.
FALLBACK = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class TranscriptionOptions:
    """How one recording is transcribed; recordings of one batch may differ in all of it.

    Attributes:
        language: as `languages.language_code` takes it; None detects it in the first window. Kept as Whisper's code.
        task: "translate" (into English) is plain Whisper, whatever experts there are.
        expert: name of a loaded expert, over what the language would choose; "shared": plain Whisper. None: that of the
            language.
        initial_prompt: text that stands before the first window, for names and spellings.
        temperature: tried one after the other, as long as a window's text is too repetitive or too unlikely. 0 takes
            the likeliest tokens, more draws them, in a way that a recording alone determines.
        beam_size: at temperature 0; 1 is greedy.
        compression_ratio_threshold: a text that zlib makes this many times smaller is too repetitive. None: never.
        logprob_threshold: an `avg_logprob` below it is too unlikely. None: never.
        no_speech_threshold: a window with a higher `no_speech_prob`, and too unlikely a text, is silence. None: never.
        condition_on_previous_text: whether a window is told the text before it.
        word_timestamps: find the time of every word, by a second pass.
        vad_filter: leave out what Silero's voice activity detector takes for silence.
        vad_threshold: its probability from which on something is speech, in (0, 1).
        vad_min_silence_seconds: shorter silence stays in, in s.
        vad_pad_seconds: silence kept on both sides of speech, in s.
        seed: of what is drawn at temperatures above 0.
    """

    language: str | None = None
    task: Task = "transcribe"
    expert: str | None = None
    initial_prompt: str | None = None
    temperature: tuple[float, ...] = FALLBACK
    beam_size: int = 1
    compression_ratio_threshold: float | None = 2.4
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6
    condition_on_previous_text: bool = True
    word_timestamps: bool = False
    vad_filter: bool = False
    vad_threshold: float = 0.5
    vad_min_silence_seconds: float = 2.0
    vad_pad_seconds: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.language is not None:
            object.__setattr__(self, "language", language_code(self.language))
        if self.task not in get_args(Task):
            raise ValueError(f"Expected the task transcribe or translate, got {self.task!r}.")
        if not self.temperature or not all(0.0 <= one <= 2.0 for one in self.temperature):
            raise ValueError(f"Expected one temperature or more from 0 to 2, got {self.temperature}.")
        if self.beam_size < 1:
            raise ValueError(f"Expected a beam size of at least 1, got {self.beam_size}.")
        for name in ("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold"):
            value = getattr(self, name)
            if value is not None and math.isnan(value):
                raise ValueError(f"Expected a number in {name}, got {value}.")
        if not 0.0 < self.vad_threshold < 1.0:
            raise ValueError(f"Expected a vad_threshold between 0 and 1, got {self.vad_threshold}.")
        for name in ("vad_min_silence_seconds", "vad_pad_seconds"):
            if not 0.0 <= getattr(self, name) <= 60.0:
                raise ValueError(f"Expected {name} from 0 to 60 s, got {getattr(self, name)}.")


def temperatures(first: float, increment: float | None) -> tuple[float, ...]:
    """The temperatures from `first` up to 1 in steps of `increment`; None: only the first.

    Raises:
        ValueError: a step that is not above 0.
    """
    if increment is None:
        return (first,)
    if not increment > 0.0:
        raise ValueError(f"Expected a temperature increment above 0, got {increment}.")
    steps = math.floor((1.0 - first) / increment + 1e-6)
    return tuple(round(first + step * increment, 6) for step in range(max(0, steps) + 1))
