"""A sound file as one waveform: decoded by soundfile, and what it does not know (m4a, webm, amr, video, …) by ffmpeg.

A file whose end is missing is refused either way.
"""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Iterator
from functools import lru_cache
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .audio_headers import find_samples, is_read_in_part, shortage
from .ffmpeg_program import decode_with_ffmpeg, stream_with_ffmpeg

# Below this share of the length that its header announces, a file was cut short and no longer says its transcript. (The
# length of an mp3 is an estimate; every other format fails or gives its exact length.)
_COMPLETE = 0.9
# By so many s a stretch may reach beyond its file: tables round, and below that there is no word.
_ROUNDING = 0.1
_ANY_RATE = 16_000
# From so many s before a place these are decoded: libsndfile takes some frames to find its way in an mp3, and finds
# another place than it was asked for in the last pages of an Ogg stream.
_LED_INTO = ("MP3", "OGG")
_LEAD_IN = 5.0


class StretchError(ValueError):
    """A stretch that is not in its recording."""


class Decoded(NamedTuple):
    """A decoded file, or a stretch of one: mono `(samples,)`, float32, and its rate in Hz."""

    waveform: np.ndarray
    sampling_rate: int


def decode_file(
    file: str | bytes, sampling_rate: int, name: str, *, start: float | None = None, duration: float | None = None
) -> Decoded:
    """Decode a file and mix its channels to one.

    Args:
        file: path of a file, or its bytes.
        sampling_rate: in Hz, of what ffmpeg decodes; soundfile keeps the file's own.
        name: for errors.
        start, duration: the stretch to decode, in s; None is from the beginning, and up to the end.

    Raises:
        ImportError: soundfile is not installed.
        OSError: no such file, or none that may be read.
        StretchError: a stretch that is not in it.
        ValueError: what is no file, cannot be decoded or was cut short; a format that needs ffmpeg where there is none.
    """
    begin = start or 0.0
    if not 0.0 <= begin < math.inf or (duration is not None and not 0.0 < duration < math.inf):
        raise StretchError(f"Expected a stretch of {name} in seconds from 0 up, got {start} s for {duration} s.")
    sound = _open(file, name)
    if sound is None:
        waveform = decode_with_ffmpeg(file, sampling_rate, name, start=begin, duration=duration)
        if len(waveform) < ((duration or 0.0) - _ROUNDING) * sampling_rate or not len(waveform):
            check_stretch(name, begin, duration, file_seconds(file, name))
        return Decoded(waveform, sampling_rate)
    with sound:
        return Decoded(_read(sound, name, begin, duration), sound.samplerate)


def decode_blocks(file: str | bytes, sampling_rate: int, name: str, *, seconds: float = 30.0) -> Iterator[Decoded]:
    """As `decode_file` for the whole of a file of any length, in blocks of `seconds` s, of which one is in memory.

    Raises, at the latest behind the last block:
        ImportError, OSError, ValueError: as `decode_file`.
    """
    sound = _open(file, name)
    if sound is None:
        for waveform in stream_with_ffmpeg(file, sampling_rate, name, seconds=seconds):
            yield Decoded(waveform, sampling_rate)
        return
    with sound:
        # After a read soundfile tells the library where it is, and an mp3 decoder that is told so begins anew: the next
        # frames would be wrong. What cannot be sought in is only read on.
        sound.seekable = lambda: False
        read, block = 0, round(seconds * sound.samplerate)
        while len(waveform := _read_on(sound, name, block)):
            read += len(waveform)
            yield Decoded(waveform, sound.samplerate)
        _check_read(read, sound.frames, sound.samplerate, name)


def file_seconds(file: str | bytes, name: str) -> float:
    """Length of a file in s, by its header where soundfile knows the format (below 1 ms), else by decoding it.

    Raises:
        ImportError, OSError, ValueError: as `decode_file`.
    """
    sound = _open(file, name)
    if sound is not None:
        with sound:
            return sound.frames / sound.samplerate
    if isinstance(file, bytes):
        return len(decode_with_ffmpeg(file, _ANY_RATE, name)) / _ANY_RATE
    return _decoded_seconds(file, name, file_state(file))


def file_state(path: str) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns: what is known of a file in this state need not be found again.

    Raises:
        OSError: no such file.
        ValueError: a folder, or a pipe or device, which would be waited for.
    """
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):
        raise ValueError(f"Expected a file, got {path}, which is a folder, a pipe or a device.")
    return state.st_size, state.st_mtime_ns


def check_stretch(name: str, start: float, duration: float | None, whole: float) -> None:
    """Refuse, with `StretchError`, a stretch that is not in `name`, which lasts `whole` s."""
    end = whole if duration is None else start + duration
    if start >= whole or end > whole + _ROUNDING:
        got = f"{start:g} s and further" if duration is None else f"{start:g} to {end:g} s"
        raise StretchError(f"Expected a stretch of {name}, which lasts {whole:.2f} s, got {got}.")


def _open(file: str | bytes, name: str) -> Any:
    """A file as soundfile's SoundFile; None for one that it does not know, or not to its end."""
    soundfile = _soundfile(name)
    if isinstance(file, str):
        file_state(file)
    with io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as content:
        missing, samples = shortage(content), find_samples(content)
        if missing is not None:
            raise ValueError(
                f"Expected the whole of {name}, which was cut short: {missing}. Fetch it again or leave it out."
            )
        if is_read_in_part(content):
            return None
        if samples is not None and samples.announced is None:
            file = _with_length(content, samples.offset) or file
    try:
        return soundfile.SoundFile(io.BytesIO(file) if isinstance(file, bytes) else file)
    # A TypeError for what ends in .raw, which soundfile takes for samples without a header.
    except (soundfile.SoundFileError, TypeError):
        return None


def _read(sound: Any, name: str, start: float, duration: float | None) -> np.ndarray:
    first = round(start * sound.samplerate)
    if first or duration is not None:
        check_stretch(name, start, duration, sound.frames / sound.samplerate)
    wanted = sound.frames - first
    if duration is not None:
        wanted = min(wanted, round(duration * sound.samplerate))
    lead = 0 if sound.format not in _LED_INTO else min(first, round(_LEAD_IN * sound.samplerate))
    lead = lead if sound.seekable() else first
    try:
        if lead < first:
            sound.seek(first - lead)
    except _soundfile(name).SoundFileError as error:
        raise _damaged(name, error) from error
    waveform = _read_on(sound, name, lead + wanted)[lead:]
    _check_read(len(waveform), wanted, sound.samplerate, name)
    return waveform


def _read_on(sound: Any, name: str, samples: int) -> np.ndarray:
    """The next samples of an open file, fewer at its end."""
    try:
        return sound.read(samples, dtype="float32", always_2d=True).mean(axis=1)
    except _soundfile(name).SoundFileError as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"Expected the whole of {name}, which is damaged or was cut short: {error} Fetch it again or leave it out."
    )


def _check_read(samples: int, wanted: int, rate: int, name: str) -> None:
    if samples < _COMPLETE * wanted:
        raise ValueError(
            f"Expected the whole of {name}, which was cut short: its header announces {wanted / rate:.2f} "
            f"s, {samples / rate:.2f} s are there. Fetch it again or leave it out."
        )


def _soundfile(name: str) -> ModuleType:
    # Imported here, and in a `try`, so that remote code opens where it is not installed.
    try:
        import soundfile
    except ImportError as error:
        raise ImportError(f"Expected soundfile, to decode {name}. Run `pip install soundfile`.") from error
    return soundfile


def _with_length(content: BinaryIO, offset: int) -> bytes | None:
    """The bytes of a WAV whose writer never came back to its header, with "not known" for its length of 0; None for
    any other file."""
    content.seek(offset - 4)
    if content.read(4) != bytes(4):
        return None
    content.seek(0)
    whole = content.read()
    return whole[: offset - 4] + b"\xff" * 4 + whole[offset:]


@lru_cache(maxsize=1024)
def _decoded_seconds(path: str, name: str, state: tuple[int, int]) -> float:
    """Length in s of a file in a `file_state`; decoded once for all of its stretches."""
    return len(decode_with_ffmpeg(path, _ANY_RATE, name)) / _ANY_RATE
