"""The audio of a clip: a cheap look at its header, a digest, and samples at one rate (decoded by `audio_input`)."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import soundfile

from ..audio_input import Decoded, decode_file, resample

# Below this share of the length that its header announces, a clip was cut short and no longer says its transcript.
# (mp3 lengths are estimates; every other format fails or gives its exact length.)
_COMPLETE = 0.9
# By so many s a segment may reach beyond its recording: tables round, and below that there is no word.
_ROUNDING = 0.1


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
    """Length in s according to the header; nothing is decoded (about 0.1 ms a clip).

    Raises:
        AudioError: no such file, or not a format that libsndfile knows.
        SegmentError: a segment that is not in its recording.
    """
    if isinstance(source, AudioSegment):
        return _end(source) - source.start
    if isinstance(source, JoinedAudio):
        return sum(map(audio_seconds, source.parts)) + source.gap_seconds * (len(source.parts) - 1)
    if isinstance(source, Waveform):
        return len(source.samples) / source.sampling_rate
    try:
        info = soundfile.info(_openable(source))
    except (soundfile.SoundFileError, OSError) as error:
        raise _unreadable(source, error) from error
    return info.frames / info.samplerate


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
            state = os.stat(source)
            return _file_digest(source, state.st_size, state.st_mtime_ns)
        except OSError as error:
            raise _unreadable(source, error) from error
    if isinstance(source, JoinedAudio):
        source = " ".join([str(source.gap_seconds), *map(audio_digest, source.parts)]).encode()
    if isinstance(source, Waveform):
        return hashlib.blake2b(source.samples.tobytes(), digest_size=16).hexdigest()
    return hashlib.blake2b(_content(source), digest_size=16).hexdigest()


def read_audio(source: AudioSource, *, sampling_rate: int) -> np.ndarray:
    """Decode, mix down to mono (the mean of the channels) and resample.

    Args:
        source: what is heard; of a segment nothing but its stretch is decoded.
        sampling_rate: of the result, in Hz; 16000 for Whisper.

    Returns:
        float32 `(samples,)`, nominally in [-1, 1].

    Raises:
        AudioError: the clip cannot be opened or decoded, is more than a tenth shorter than its header says (a download
            that broke off), or holds values that are not finite.
        SegmentError: a segment that is not in its recording.
    """
    if isinstance(source, JoinedAudio):
        gap = np.zeros(round(source.gap_seconds * sampling_rate), dtype=np.float32)
        parts = [read_audio(part, sampling_rate=sampling_rate) for part in source.parts]
        return np.concatenate([piece for part in parts for piece in (gap, part)][1:])
    if isinstance(source, Waveform):
        return resample(source.samples, source.sampling_rate, sampling_rate, str(source))
    try:
        if isinstance(source, AudioSegment):
            samples, rate, announced = _decode_segment(source, audio_seconds(source))
        else:
            samples, rate, announced = decode_file(_content(source), sampling_rate, _name(source))
    except AudioError:
        raise
    except (ValueError, soundfile.SoundFileError) as error:
        raise _unreadable(source, error) from error
    if len(samples) < _COMPLETE * announced:
        raise AudioError(
            f"Cannot read {_name(source)}: its header announces {announced / rate:.2f} s, only "
            f"{len(samples) / rate:.2f} s are there. Fetch it again or leave it out."
        )
    if not np.isfinite(samples).all():
        raise AudioError(f"Cannot use {_name(source)}: it holds samples that are not finite.")
    return resample(samples, rate, sampling_rate, _name(source))


def _end(segment: AudioSegment) -> float:
    """Where a segment ends in its recording, in s, as far as its recording goes."""
    whole = audio_seconds(segment.recording)
    end = whole if segment.duration is None else segment.start + segment.duration
    if segment.start >= whole or end > whole + _ROUNDING:
        stretch = f"from {segment.start:g} s on" if segment.duration is None else f"{segment.start:g} to {end:g} s"
        raise SegmentError(f"The segment {stretch} is not in {_name(segment.recording)}, which lasts {whole:.2f} s.")
    return min(end, whole)


def _decode_segment(segment: AudioSegment, seconds: float) -> Decoded:
    with soundfile.SoundFile(_openable(segment.recording)) as file:
        file.seek(round(segment.start * file.samplerate))
        wanted = round(seconds * file.samplerate)
        waveform = file.read(wanted, dtype="float32", always_2d=True).mean(axis=1)
        return Decoded(waveform, file.samplerate, wanted)


@lru_cache(maxsize=1024)
def _file_digest(path: str, size: int, changed: int) -> str:
    """Digest of a file of that size and time of change, in ns; read once for all of its segments."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _content(source: str | bytes | StoredAudio) -> bytes:
    """The encoded bytes of a clip."""
    found = source.fetch() if isinstance(source, StoredAudio) else source
    if isinstance(found, bytes):
        return found
    try:
        return Path(found).read_bytes()
    except OSError as error:
        raise _unreadable(source, error) from error


def _openable(source: str | bytes | StoredAudio) -> str | io.BytesIO:
    source = source.fetch() if isinstance(source, StoredAudio) else source
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _name(source: AudioSource) -> str:
    return f"{len(source)} bytes of audio" if isinstance(source, bytes) else str(source)


def _unreadable(source: AudioSource, error: Exception) -> AudioError:
    if isinstance(source, str) and not os.path.isfile(source):
        return AudioError(f"There is no file {source}.", missing=True)
    return AudioError(
        f"Cannot read {_name(source)}: {error} Expected a wav, flac, ogg, opus or mp3 file; convert others "
        "(m4a, webm, …) with ffmpeg."
    )
