"""A recording of any length, read block by block: a window of it is in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..audio_files import decode_blocks
from ..audio_input import load_audio
from .options import TranscriptionOptions

SAMPLING_RATE = 16_000


@dataclass(frozen=True, eq=False)
class Recording:
    """Something to transcribe.

    Attributes:
        audio: path or bytes of a file, an array, or a dict with one: what `audio_input.load_audio` takes. Files are
            read block by block.
        options: how.
        name: in errors and results; "" takes the path, or "audio".
        most_seconds: a longer one is refused, when that is known. None: any length.
    """

    audio: Any
    options: TranscriptionOptions = field(default_factory=TranscriptionOptions)
    name: str = ""
    most_seconds: float | None = None

    @property
    def label(self) -> str:
        """What it is called."""
        return self.name or (os.fspath(self.audio) if isinstance(self.audio, str | os.PathLike) else "audio")


class TooLongError(ValueError):
    """Audio that is longer than it may be."""


def at_most(blocks: Iterable[np.ndarray], seconds: float | None, name: str) -> Iterator[np.ndarray]:
    """The blocks as they are, and `TooLongError` in place of the one that is too much."""
    samples = 0
    for block in blocks:
        samples += len(block)
        if seconds is not None and samples > seconds * SAMPLING_RATE:
            raise TooLongError(f"Expected audio of at most {seconds:g} s, got more in {name}. Cut it into parts.")
        yield block


def read_blocks(audio: Any, name: str) -> Iterator[np.ndarray]:
    """The audio at `SAMPLING_RATE` Hz, mono, float32, in blocks `(samples,)` of a length that its source chooses.

    Raises, at the latest behind the last block, as `load_audio` does.
    """
    if isinstance(audio, dict) and audio.get("path") and not audio.get("bytes"):
        audio = audio["path"]
    if isinstance(audio, os.PathLike):
        audio = os.fspath(audio)
    is_address = isinstance(audio, str) and audio.startswith(("http://", "https://"))
    if is_address or not isinstance(audio, str | bytes):
        waveform, _ = load_audio(audio, SAMPLING_RATE)
        yield waveform
        return
    found = 0
    for waveform in _resampled(audio, name):
        if not np.isfinite(waveform).all():
            raise ValueError(f"Expected audio, got samples that are not finite in {name}. Leave such recordings out.")
        found += len(waveform)
        yield waveform
    if found == 0:
        raise ValueError(f"Expected audio, got no samples in {name}. Leave such recordings out.")


def _resampled(file: str | bytes, name: str) -> Iterator[np.ndarray]:
    blocks = decode_blocks(file, SAMPLING_RATE, name)
    resampler: Any = None
    for block in blocks:
        if block.sampling_rate == SAMPLING_RATE:
            yield block.waveform.astype(np.float32, copy=False)
            continue
        if resampler is None:
            import soxr

            # One for all blocks, so that there is no seam between them.
            resampler = soxr.ResampleStream(block.sampling_rate, SAMPLING_RATE, 1, dtype="float32")
        yield resampler.resample_chunk(block.waveform.astype(np.float32, copy=False))
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


class Reader:
    """Reads ahead in blocks and gives out windows, forwards only.

    Attributes:
        samples: how many were read so far; of the whole when `ended`.
        ended: whether the last block was read.
    """

    def __init__(self, blocks: Iterable[np.ndarray]) -> None:
        self._blocks = iter(blocks)
        self._held = np.zeros(0, np.float32)
        # Of the first held sample.
        self._position = 0
        self.samples = 0
        self.ended = False

    def window(self, start: int, length: int) -> np.ndarray:
        """Samples from `start` on, `length` of them or fewer at the end; what lies before is let go.

        Args:
            start: not before that of the last call.
        """
        while not self.ended and self.samples < start + length:
            block = next(self._blocks, None)
            if block is None:
                self.ended = True
                break
            gone = min(start - self._position, len(self._held))
            self._held = np.concatenate([self._held[gone:], block])
            self._position += gone
            self.samples += len(block)
        return self._held[max(0, start - self._position) : start - self._position + length]

    def has(self, start: int) -> bool:
        """Whether there are samples from `start` on."""
        return len(self.window(start, 1)) > 0

    def close(self) -> None:
        """Let go of the source."""
        close = getattr(self._blocks, "close", None)
        if close is not None:
            close()
