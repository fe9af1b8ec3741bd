"""What is evaluated: utterances with their references, and what can be wrong with their audio.

Nothing that is wrong with a clip ends a run or leaves the report: it gives the clip a named outcome.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Task = Literal["transcribe", "translate"]
# The first three are transcribed and scored. The others have no hypothesis, and count as wholly deleted.
Outcome = Literal[
    "ok", "silence", "noise", "missing", "unreadable", "no samples", "too long", "language unknown to the model"
]
Samples: TypeAlias = NDArray[np.float32]

SAMPLING_RATE = 16_000
# Whisper's window; longer clips are decoded window by window.
WINDOW_SECONDS = 30.0
# -60 dB of full scale: a quiet recording of speech peaks tens of decibels above it.
SILENCE_PEAK = 1e-3
# Geometric over arithmetic mean of the power spectrum: near 1 for white noise; speech stays far below 0.1.
NOISE_FLATNESS = 0.4
_FRAME = 512


class AudioUnreadable(ValueError):
    """Raised by an utterance's `audio`; `outcome` is "missing" or "unreadable"."""

    def __init__(self, message: str, *, outcome: Outcome = "unreadable") -> None:
        super().__init__(message)
        self.outcome = outcome


@dataclass(frozen=True)
class Utterance:
    """One clip with its reference.

    Attributes:
        id: unique within its data set (`unique_ids`).
        dataset: name of the data set, as in the report.
        language: Whisper's code, or a name of its own that an expert goes by.
        reference: what was said; for `task="translate"` the English translation.
        audio: returns samples `(samples,)` at 16 kHz, or raises `AudioUnreadable`.
        digest: of the encoded audio; changed audio under an old id is transcribed anew.
        seconds: length in s; None if unknown, as for a clip that cannot be read.
        speaker: None if unknown.
        labels: further keys to group by, such as gender, age and domain.
        task: what the model is asked for.
        expert: the expert to take, where the language does not say it.
    """

    id: str
    dataset: str
    language: str
    reference: str
    audio: Callable[[], Samples]
    digest: str = ""
    seconds: float | None = None
    speaker: str | None = None
    labels: Mapping[str, str | None] = field(default_factory=dict)
    task: Task = "transcribe"
    expert: str | None = None

    @property
    def full_id(self) -> str:
        """The id over all data sets."""
        return f"{self.dataset}:{self.id}"


def unique_ids(utterances: Sequence[Utterance]) -> tuple[list[Utterance], dict[str, int]]:
    """The utterances with ids that are unique in their data set, and how often each repeated id (full) occurs.

    Repetitions stay, as "id#2", "id#3": a data set that names two clips alike must not lose one of them.
    """
    seen: Counter[str] = Counter()
    taken = {utterance.full_id for utterance in utterances}
    result = []
    for utterance in utterances:
        seen[utterance.full_id] += 1
        number = seen[utterance.full_id]
        if number > 1:
            while f"{utterance.full_id}#{number}" in taken:
                number += 1
            utterance = replace(utterance, id=f"{utterance.id}#{number}")
            taken.add(utterance.full_id)
        result.append(utterance)
    return result, {name: times for name, times in seen.items() if times > 1}


def spectral_flatness(samples: Samples) -> float:
    """Geometric over arithmetic mean of the power spectrum averaged over frames, from 0 (a tone) to 1 (white noise).

    Clips below one frame (512 samples, 32 ms) give 0.
    """
    frames = len(samples) // _FRAME
    if frames == 0:
        return 0.0
    windowed = samples[: frames * _FRAME].reshape(frames, _FRAME) * np.hanning(_FRAME)
    power = (np.abs(np.fft.rfft(windowed, axis=1)) ** 2).mean(axis=0)[1:-1]
    if not power.min() > 0:
        return 0.0
    return float(np.exp(np.log(power).mean()) / power.mean())


def audio_outcome(samples: Samples) -> tuple[Outcome, str]:
    """What the samples alone say about a clip, and the figure behind it."""
    if len(samples) == 0:
        return "no samples", "0 s of audio"
    peak = float(np.abs(samples).max())
    if peak < SILENCE_PEAK:
        return "silence", f"peak {peak:.1e} of full scale"
    flatness = spectral_flatness(samples)
    if flatness > NOISE_FLATNESS:
        return "noise", f"spectral flatness {flatness:.2f}"
    return "ok", ""
