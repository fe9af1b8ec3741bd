"""Clips as model inputs, decoded and transformed in the workers of a DataLoader.

Nothing is stored, so 28k utterances cost no disk. A row of either data set has

    input_features          float32 (mel bins, 3000)
    teacher_input_features  the same for a teacher with features of its own
    num_frames              encoder frames before the padding, 50 per second
    labels                  token ids, from screening; of a clip that was not screened `text` and `language`
    expert                  of the clip, None where its language token routes
    anchor                  true where the row only holds its expert to Whisper; left out elsewhere
    previous                token ids before the start token; left out where there are none
    window                  digest of the audio, None where it is not known
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset
from transformers import WhisperFeatureExtractor

from ..data.audio import AudioError, read_audio
from ..data.clips import Clip
from ..data.rejections import REASONS, Reason, Rejection
from ..data.screening import Screen, audio_reason
from .features import FeatureCache, encoder_frames, fill_window, log_mel, needs_own_features

logger = logging.getLogger(__name__)

OnUnreadable = Literal["next", "raise"]


class _Stream(Protocol):
    def set_epoch(self, epoch: int) -> None: ...

    def for_process(self, index: int, count: int) -> Iterable[Clip | Rejection]: ...


class RowMaker:
    """Read one clip and compute what the student and, if it differs, the teacher hear.

    Args:
        extractor: the student's.
        teacher_extractor: the teacher's; its features are left out when they are the student's.
        cache: keeps features on disk.

    Raises:
        ValueError: extractors that do not share rate, window and hop.
    """

    def __init__(
        self,
        extractor: WhisperFeatureExtractor,
        *,
        teacher_extractor: WhisperFeatureExtractor | None = None,
        cache: FeatureCache | None = None,
    ) -> None:
        self.extractors = {"input_features": extractor}
        if teacher_extractor is not None and needs_own_features(extractor, teacher_extractor):
            self.extractors["teacher_input_features"] = teacher_extractor
        self.cache = cache

    def __call__(self, clip: Clip) -> dict[str, Any]:
        """The row of a clip.

        Raises:
            AudioError: a clip that cannot be decoded or does not fit the window.
        """
        samples: np.ndarray | None = None
        said = {"text": clip.text, "language": clip.language} if clip.labels is None else {"labels": clip.labels}
        row: dict[str, Any] = {**said, "expert": clip.expert, "window": clip.digest}
        if clip.anchor:
            row["anchor"] = True
        if clip.previous:
            row["previous"] = clip.previous
        for name, extractor in self.extractors.items():
            cached = None if self.cache is None or clip.digest is None else self.cache.get(clip.digest, extractor)
            if cached is None:
                if samples is None:
                    samples = read_audio(clip.audio, sampling_rate=extractor.sampling_rate)
                cached = log_mel(samples, extractor), encoder_frames(len(samples), extractor)
                if self.cache is not None and clip.digest is not None:
                    self.cache.put(clip.digest, extractor, *cached)
            features, row["num_frames"] = cached
            row[name] = fill_window(features, extractor)
        return row


class SpeechDataset(Dataset):
    """Clips by index.

    Args:
        clips: screened clips.
        make_row: reads and transforms a clip.
        on_unreadable: what to do with a clip that its header promised and its content breaks. "next" logs it, counts
            it in `failures` and gives the next readable clip instead, so that training goes on; "raise" is for
            evaluation, where a clip in another's place would change the score (screen with `decode=True` to find them
            before).
    """

    def __init__(self, clips: Sequence[Clip], make_row: RowMaker, *, on_unreadable: OnUnreadable = "next") -> None:
        if on_unreadable not in get_args(OnUnreadable):
            known = ", ".join(get_args(OnUnreadable))
            raise ValueError(f"on_unreadable must be one of {known}, got {on_unreadable!r}.")
        self.clips = clips
        self.make_row = make_row
        self.on_unreadable = on_unreadable
        # Shared memory: workers write, the main process reads.
        self._failed = torch.zeros(len(clips), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row of a clip, or of the first readable one after it.

        Raises:
            IndexError: no such clip; negative indices count from the end.
            AudioError: an unreadable clip with "raise", or no readable clip at all.
        """
        index = range(len(self.clips))[index]
        for step in range(len(self.clips)):
            place = (index + step) % len(self.clips)
            try:
                return self.make_row(self.clips[place])
            except AudioError as error:
                if self.on_unreadable == "raise":
                    raise
                if not self._failed[place]:
                    logger.warning("Left out clip %s: %s", self.clips[place].id, error)
                self._failed[place] = True
        raise AudioError(f"None of {len(self.clips)} clips can be read.")

    def lengths(self) -> LengthRows:
        """The rows without their audio, for samplers that put rows of like length into a batch."""
        return LengthRows([len(clip.text if clip.labels is None else clip.labels) for clip in self.clips])

    def failures(self) -> list[Clip]:
        """Clips that could not be read so far, by any worker."""
        return [self.clips[place] for place in self._failed.nonzero().flatten().tolist()]


class LengthRows(Dataset):
    """Rows whose `input_features` are as long as the row's labels are: windows all last 30 s, texts are padded.

    Args:
        lengths: numbers of labels; of clips that were not screened, of characters.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = lengths

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, index: int) -> dict[str, range]:
        return {"input_features": range(self._lengths[index])}


class StreamingSpeechDataset(IterableDataset):
    """Clips as they come from a stream, screened on the way.

    Args:
        clips: can be iterated over once for each epoch; in several workers it must yield each its own part, and of
            several processes it must know the part of each (`for_process`), as `stream_dataset` does. A row that
            describes no clip comes as its rejection.
        screen: decides which clips are used.
        make_row: reads and transforms a clip.
        rejections_file: a line of JSON (see `Rejection`) is appended to it for each clip left out, by any worker.
        endless: begin again, shuffled anew, when the stream is at its end. Trainer needs it to go on from a checkpoint:
            it does not know how long a stream is, and so not how often it began.
    """

    def __init__(
        self,
        clips: Iterable[Clip | Rejection],
        screen: Screen,
        make_row: RowMaker,
        *,
        rejections_file: str | Path | None = None,
        endless: bool = False,
    ) -> None:
        self.clips = clips
        self.screen = screen
        self.make_row = make_row
        self.rejections_file = rejections_file
        self.endless = endless
        self._counts = torch.zeros(len(REASONS), dtype=torch.int64).share_memory_()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self.endless:
            yield from self._rows()
            return
        for number in count():
            self.set_epoch(number)
            rows = 0
            for row in self._rows():
                rows += 1
                yield row
            if rows == 0:
                return

    def _rows(self) -> Iterator[dict[str, Any]]:
        for clip in self.clips:
            outcome = clip if isinstance(clip, Rejection) else self.screen(clip)
            if isinstance(outcome, Clip):
                try:
                    yield self.make_row(outcome)
                    continue
                except AudioError as error:
                    outcome = Rejection(clip.id, audio_reason(error), str(error))
            self._reject(outcome)

    def counts(self) -> dict[Reason, int]:
        """Number of clips left out so far for each reason that occurred, over all workers and epochs."""
        return {reason: number for reason, number in zip(REASONS, self._counts.tolist(), strict=True) if number}

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on to a stream that shuffles."""
        cast(_Stream, self.clips).set_epoch(epoch)

    def for_process(self, index: int, count: int) -> StreamingSpeechDataset:
        """The part of one of several processes, whose clips it alone decodes; what is left out is counted here too."""
        if count == 1:
            return self
        part = copy(self)
        part.clips = cast(_Stream, self.clips).for_process(index, count)
        return part

    def _reject(self, rejection: Rejection) -> None:
        logger.warning("Left out clip %s: %s, %s", rejection.id, rejection.reason, rejection.detail)
        self._counts[REASONS.index(rejection.reason)] += 1
        if self.rejections_file is not None:
            with open(self.rejections_file, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(rejection), ensure_ascii=False) + "\n")
