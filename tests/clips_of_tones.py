"""Clips whose audio is a tone, for tests of evaluation."""

from dataclasses import replace

import numpy as np

from distil_whisper_hf.data.audio import Waveform
from distil_whisper_hf.data.clips import Clip


def tone(index, seconds):
    times = np.arange(round(seconds * 16000)) / 16000
    return (0.3 * np.sin(2 * np.pi * (200 + 90 * index) * times)).astype(np.float32)


def make_clip(index, seconds=0.5, **changes):
    clip = Clip(
        id=f"{index}.wav",
        dataset="tones",
        language="ca",
        text="bon dia",
        audio=Waveform(tone(index, seconds), 16000),
        digest=f"d{index}",
        seconds=seconds,
    )
    return replace(clip, **changes)
