"""The audio of a clip: a cheap look at its header, a digest, and samples at one rate (decoded by `audio_input`)."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import soundfile

from ..audio_input import decode_file, resample

# Below this share of the length that its header announces, a clip was cut short and no longer says its transcript.
# (mp3 lengths are estimates; every other format fails or gives its exact length.)
_COMPLETE = 0.9


class AudioError(ValueError):
    """A clip that cannot be read; the message says which and why, `missing` whether there is no such file at all."""

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


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
class JoinedAudio:
    """Several clips spoken one after the other, with silence between them; made by `joining.join_clips`.

    Attributes:
        parts: paths, encoded bytes or rows of tables.
        gap_seconds: silence between two parts, in s.
    """

    parts: tuple[str | bytes | StoredAudio, ...]
    gap_seconds: float

    def __str__(self) -> str:
        return f"{len(self.parts)} clips from {_name(self.parts[0])} on"


AudioSource: TypeAlias = str | bytes | StoredAudio | JoinedAudio | Waveform


def audio_seconds(source: AudioSource) -> float:
    """Length in s according to the header; nothing is decoded (about 0.1 ms a clip).

    Raises:
        AudioError: no such file, or not a format that libsndfile knows.
    """
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

    The same recording encoded twice has two digests.

    Raises:
        AudioError: the file cannot be opened.
    """
    if isinstance(source, JoinedAudio):
        source = " ".join([str(source.gap_seconds), *map(audio_digest, source.parts)]).encode()
    if isinstance(source, Waveform):
        return hashlib.blake2b(source.samples.tobytes(), digest_size=16).hexdigest()
    return hashlib.blake2b(_content(source), digest_size=16).hexdigest()


def read_audio(source: AudioSource, *, sampling_rate: int) -> np.ndarray:
    """Decode, mix down to mono (the mean of the channels) and resample.

    Args:
        source: path, encoded bytes or a row of a table.
        sampling_rate: of the result, in Hz; 16000 for Whisper.

    Returns:
        float32 `(samples,)`, nominally in [-1, 1].

    Raises:
        AudioError: the clip cannot be opened or decoded, is more than a tenth shorter than its header says (a download
            that broke off), or holds values that are not finite.
    """
    if isinstance(source, JoinedAudio):
        gap = np.zeros(round(source.gap_seconds * sampling_rate), dtype=np.float32)
        parts = [read_audio(part, sampling_rate=sampling_rate) for part in source.parts]
        return np.concatenate([piece for part in parts for piece in (gap, part)][1:])
    if isinstance(source, Waveform):
        return resample(source.samples, source.sampling_rate, sampling_rate, str(source))
    content = _content(source)
    try:
        samples, rate, announced = decode_file(content, sampling_rate, _name(source))
    except ValueError as error:
        raise _unreadable(source, error) from error
    if len(samples) < _COMPLETE * announced:
        raise AudioError(
            f"Cannot read {_name(source)}: its header announces {announced / rate:.2f} s, only "
            f"{len(samples) / rate:.2f} s are there. Fetch it again or leave it out."
        )
    if not np.isfinite(samples).all():
        raise AudioError(f"Cannot use {_name(source)}: it holds samples that are not finite.")
    return resample(samples, rate, sampling_rate, _name(source))


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
    return AudioError(
        f"Cannot read {_name(source)}: {error} Expected an existing wav, flac, ogg, opus or mp3 file; convert others "
        "(m4a, webm, …) with ffmpeg.",
        missing=isinstance(source, str) and not Path(source).is_file(),
    )
