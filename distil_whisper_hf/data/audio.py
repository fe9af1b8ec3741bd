"""The audio of a clip: a cheap look at its header, a digest, and samples at one rate (decoded by `audio_input`)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from ..audio_files import StretchError, check_stretch, decode_file, file_seconds, file_state
from ..audio_input import resample


class AudioError(ValueError):
    """A clip that cannot be read; the message says which and why, `missing` whether there is no such file at all."""

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


class SegmentError(AudioError):
    """A segment that is not, or not wholly, in its recording."""


@dataclass(frozen=True, eq=False)
class Waveform:
    """Audio that is in memory already: `samples` `(samples,)`, float32, mono, at `sampling_rate` Hz."""

    samples: np.ndarray
    sampling_rate: int

    def __str__(self) -> str:
        return f"{len(self.samples)} samples"


@dataclass(frozen=True)
class StoredAudio:
    """Encoded audio inside a table (a Hub data set), fetched when it is needed.

    Attributes:
        table: anything with `table[row]`, such as a `datasets.Dataset` whose audio column is not decoded.
        row: index of the row.
        column: name of the audio column, whose value has the keys `bytes` and `path`.
    """

    table: Any
    row: int
    column: str

    def fetch(self) -> str | bytes:
        """The bytes of the clip, or the path of its file where the table holds no bytes.

        Raises:
            AudioError: the row has neither.
        """
        value = self.table[self.row][self.column]
        if not isinstance(value, dict) or not (value.get("bytes") or value.get("path")):
            raise AudioError(f"Expected undecoded audio with bytes or a path in {self}, got {type(value).__name__}.")
        return value["bytes"] or value["path"]

    def __str__(self) -> str:
        return f"row {self.row}"


@dataclass(frozen=True)
class AudioSegment:
    """A stretch of a recording, decoded alone.

    Attributes:
        recording: path, encoded bytes or a row of a table.
        start: in s from the recording's beginning.
        duration: in s; None is up to the recording's end.
    """

    recording: str | bytes | StoredAudio
    start: float
    duration: float | None = None

    def __str__(self) -> str:
        return segment_name(_name(self.recording), self.start, self.duration)


def segment_name(recording: str, start: float, duration: float | None) -> str:
    """The stretch of a recording as it is called in reports, to the millisecond: "talk.flac@1.250-3.000"."""
    end = "" if duration is None else f"{start + duration:.3f}"
    return f"{recording}@{start:.3f}-{end}"


@dataclass(frozen=True)
class JoinedAudio:
    """Several clips spoken one after the other, with silence between them; made by `joining.join_clips`.

    Attributes:
        parts: paths, encoded bytes, rows of tables, or segments of these.
        gap_seconds: silence between two parts, in s.
    """

    parts: tuple[str | bytes | StoredAudio | AudioSegment, ...]
    gap_seconds: float

    def __str__(self) -> str:
        return f"{len(self.parts)} clips from {_name(self.parts[0])} on"


AudioSource: TypeAlias = str | bytes | StoredAudio | AudioSegment | JoinedAudio | Waveform


def audio_seconds(source: AudioSource) -> float:
    """Length in s: by the header (below 1 ms a clip), or by decoding what only ffmpeg knows.

    Raises:
        AudioError: no such file, one that was cut short, or that neither soundfile nor ffmpeg can decode.
        SegmentError: a segment that is not in its recording.
    """
    if isinstance(source, AudioSegment):
        return _end(source) - source.start
    if isinstance(source, JoinedAudio):
        return sum(map(audio_seconds, source.parts)) + source.gap_seconds * (len(source.parts) - 1)
    if isinstance(source, Waveform):
        return len(source.samples) / source.sampling_rate
    try:
        return file_seconds(_file(source), _name(source))
    except (OSError, ValueError) as error:
        raise _unreadable(source, error) from error


def audio_digest(source: AudioSource) -> str:
    """Hexadecimal digest of the encoded bytes, by which the same file under two names is known.

    The same recording encoded twice has two digests. A segment's is made of its recording's and its start and end to
    the millisecond; one that is the whole recording has the recording's own.

    Raises:
        AudioError: the file cannot be opened.
        SegmentError: a segment that is not in its recording.
    """
    if isinstance(source, AudioSegment):
        whole, end = audio_digest(source.recording), _end(source)
        if source.start < 0.0005 and audio_seconds(source.recording) - end < 0.0005:
            return whole
        source = f"{whole} {source.start:.3f} {end:.3f}".encode()
    if isinstance(source, str):
        try:
            return _file_digest(source, file_state(source))
        except (OSError, ValueError) as error:
            raise _unreadable(source, error) from error
    if isinstance(source, JoinedAudio):
        source = " ".join([str(source.gap_seconds), *map(audio_digest, source.parts)]).encode()
    if isinstance(source, Waveform):
        return hashlib.blake2b(source.samples.tobytes(), digest_size=16).hexdigest()
    if isinstance(source, StoredAudio):
        return audio_digest(source.fetch())
    return hashlib.blake2b(source, digest_size=16).hexdigest()


def read_audio(source: AudioSource, *, sampling_rate: int) -> np.ndarray:
    """Decode, mix down to mono (the mean of the channels) and resample.

    Args:
        source: what is heard; of a segment nothing but its stretch is decoded.
        sampling_rate: of the result, in Hz; 16000 for Whisper.

    Returns:
        float32 `(samples,)`, nominally in [-1, 1].

    Raises:
        AudioError: the clip cannot be opened or decoded, was cut short, or holds values that are not finite.
        SegmentError: a segment that is not in its recording.
    """
    if isinstance(source, JoinedAudio):
        gap = np.zeros(round(source.gap_seconds * sampling_rate), dtype=np.float32)
        parts = [read_audio(part, sampling_rate=sampling_rate) for part in source.parts]
        return np.concatenate([piece for part in parts for piece in (gap, part)][1:])
    if isinstance(source, Waveform):
        return resample(source.samples, source.sampling_rate, sampling_rate, str(source))
    segment = source if isinstance(source, AudioSegment) else AudioSegment(source, 0.0)
    recording = segment.recording
    try:
        samples, rate = decode_file(
            _file(recording), sampling_rate, _name(recording), start=segment.start, duration=segment.duration
        )
    except (OSError, ValueError) as error:
        raise _unreadable(recording, error) from error
    if not np.isfinite(samples).all():
        raise AudioError(f"Cannot use {_name(source)}: it holds samples that are not finite.")
    return resample(samples, rate, sampling_rate, _name(source))


def _end(segment: AudioSegment) -> float:
    """Where a segment ends in its recording, in s, as far as its recording goes."""
    whole = audio_seconds(segment.recording)
    try:
        check_stretch(_name(segment.recording), segment.start, segment.duration, whole)
    except StretchError as error:
        raise SegmentError(str(error)) from error
    return whole if segment.duration is None else min(segment.start + segment.duration, whole)


@lru_cache(maxsize=1024)
def _file_digest(path: str, state: tuple[int, int]) -> str:
    """Digest of a file in a `file_state`; read once for all of its segments."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _file(source: str | bytes | StoredAudio) -> str | bytes:
    """Path or bytes of a recording."""
    return source.fetch() if isinstance(source, StoredAudio) else source


def _name(source: AudioSource) -> str:
    return f"{len(source)} bytes of audio" if isinstance(source, bytes) else str(source)


def _unreadable(source: AudioSource, error: Exception) -> AudioError:
    if isinstance(error, AudioError):
        return error
    if isinstance(error, StretchError):
        return SegmentError(str(error))
    if isinstance(error, FileNotFoundError):
        return AudioError(f"There is no file {_name(source)}.", missing=True)
    # What is no OSError names the clip itself.
    return AudioError(f"Cannot read {_name(source)}: {error}" if isinstance(error, OSError) else str(error))
