"""What can be wrong with the audio of a clip that is evaluated.

Nothing that is wrong with a clip ends a run or leaves the report: it gives the clip a named outcome.
"""

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

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
