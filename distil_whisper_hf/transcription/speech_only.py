"""Silence left out: Silero's voice activity detector, over audio that comes block by block."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from .recordings import SAMPLING_RATE

# What the detector looks at at once, in samples.
_FRAME = 512


class SpeechOnly:
    """Blocks without the silence in them; says of a place in the result where in the recording it was.

    Args:
        blocks: mono audio at `SAMPLING_RATE` Hz.
        threshold: probability from which on a frame is speech.
        min_silence_seconds: shorter silence stays in.
        pad_seconds: silence kept on both sides of speech.

    Attributes:
        samples_read: of the recording.
        samples_kept: of speech.

    Raises:
        ImportError: silero-vad is not installed.
    """

    def __init__(
        self, blocks: Iterable[np.ndarray], *, threshold: float, min_silence_seconds: float, pad_seconds: float
    ) -> None:
        self._blocks = blocks
        self._detector = _detector(threshold, 1000 * min_silence_seconds, 1000 * pad_seconds)
        # So far back the detector may still put the beginning of speech, or its end.
        self._back = round((min_silence_seconds + pad_seconds) * SAMPLING_RATE) + _FRAME
        # Of each stretch of speech, its first sample in the result and in the recording.
        self._results: list[int] = []
        self._origins: list[int] = []
        self.samples_read = 0
        self.samples_kept = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        held = np.zeros(0, np.float32)
        # Samples of the recording: of the first held one, of what was looked at, and of the speech that is open.
        position = looked_at = 0
        speech: int | None = None
        for block in self._blocks:
            held = np.concatenate([held, block])
            self.samples_read += len(block)
            while looked_at + _FRAME <= self.samples_read:
                at = looked_at - position
                event = self._detector(torch.from_numpy(held[at : at + _FRAME]))
                looked_at += _FRAME
                if event and "start" in event:
                    speech = max(event["start"], position)
                    self._begin(speech)
                elif event and speech is not None:
                    end = min(event["end"], self.samples_read)
                    yield self._keep(held[speech - position : end - position])
                    position, held, speech = end, held[end - position :], None
            settled = max(position, looked_at - self._back)
            if speech is not None and settled > speech:
                yield self._keep(held[speech - position : settled - position])
                speech = settled
            held, position = held[settled - position :], settled
        if speech is not None:
            yield self._keep(held[speech - position :])

    def original(self, sample: int, *, is_end: bool = False) -> int:
        """The place in the recording of a sample of the result; `is_end`: of the end of something."""
        find = bisect_left if is_end else bisect_right
        index = max(0, find(self._results, sample) - 1)
        if not self._results:
            return sample
        return self._origins[index] + sample - self._results[index]

    def _begin(self, sample: int) -> None:
        self._results.append(self.samples_kept)
        self._origins.append(sample)

    def _keep(self, speech: np.ndarray) -> np.ndarray:
        self.samples_kept += len(speech)
        return speech


def _detector(threshold: float, min_silence_ms: float, pad_ms: float) -> Any:
    # It sets the number of threads of the whole process when it is imported.
    threads = torch.get_num_threads()
    from silero_vad import VADIterator, load_silero_vad

    torch.set_num_threads(threads)
    # One for each recording: it keeps what it has heard, and recordings are read side by side.
    return VADIterator(
        load_silero_vad(),
        threshold=threshold,
        sampling_rate=SAMPLING_RATE,
        min_silence_duration_ms=round(min_silence_ms),
        speech_pad_ms=round(pad_ms),
    )
