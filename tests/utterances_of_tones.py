"""Utterances whose audio is a tone, for tests of evaluation."""

from dataclasses import replace

import numpy as np

from distil_whisper_hf.evaluation.systems.costs import LoadedAudio
from distil_whisper_hf.evaluation.utterances import Utterance


def tone(index, seconds):
    times = np.arange(round(seconds * 16000)) / 16000
    return (0.3 * np.sin(2 * np.pi * (200 + 90 * index) * times)).astype(np.float32)


def make_utterance(index, seconds=0.5, **changes):
    utterance = Utterance(
        id=f"{index}.wav",
        dataset="tones",
        language="ca",
        reference="bon dia",
        audio=LoadedAudio(tone(index, seconds)),
        digest=f"d{index}",
        seconds=seconds,
    )
    return replace(utterance, **changes)
