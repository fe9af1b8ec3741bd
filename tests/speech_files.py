"""Sound files for tests, written on the fly."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile

FORMATS = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"), "mp3": ("MP3", None)}


def tone(seconds: float, *, rate: int = 16000, hertz: float = 440.0) -> np.ndarray:
    """A sine at half of the full scale, float32 `(samples,)`."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, *, rate: int = 16000, extension: str = "wav") -> bytes:
    """The bytes of a sound file; `(samples,)` or `(samples, channels)`."""
    container, coding = FORMATS[extension]
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=coding)
    return buffer.getvalue()


def write(path: Path, seconds: float = 1.0, *, rate: int = 16000, hertz: float = 440.0) -> Path:
    """A tone in the format of the path's extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(tone(seconds, rate=rate, hertz=hertz), rate=rate, extension=path.suffix[1:]))
    return path
