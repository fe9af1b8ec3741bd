"""What the samples of a clip alone say about it."""

import numpy as np
import pytest

from distil_whisper_hf.evaluation.systems.outcomes import audio_outcome, spectral_flatness

RATE = 16000


def speech_like(seconds=2.0):
    """Harmonics of a gliding voice over a little background noise."""
    rng = np.random.default_rng(0)
    times = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * times)) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 20)) * (np.sin(2 * np.pi * 3 * times) > 0)
    return (0.1 * voice + 0.002 * rng.standard_normal(len(times))).astype(np.float32)


@pytest.mark.parametrize(
    ("samples", "outcome"),
    [
        (np.zeros(0, dtype=np.float32), "no samples"),
        (np.zeros(RATE, dtype=np.float32), "silence"),
        (np.full(RATE, 5e-4, dtype=np.float32), "silence"),
        (0.1 * np.random.default_rng(1).standard_normal(RATE).astype(np.float32), "noise"),
        (speech_like(), "ok"),
        (speech_like(0.02), "ok"),
    ],
)
def test_outcome_of_samples(samples, outcome):
    """Prevents silence and noise from passing as speech, and speech from being called noise."""
    assert audio_outcome(samples)[0] == outcome


def test_flatness_is_the_ratio_of_means():
    """Prevents a threshold on a figure that is not what it is called."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    noise = np.random.default_rng(2).standard_normal(20 * RATE).astype(np.float32)
    assert spectral_flatness(tone) < 0.01
    assert spectral_flatness(noise) > 0.95
    assert spectral_flatness(noise[:100]) == 0.0
