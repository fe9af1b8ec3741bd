"""Sound decoded by the ffmpeg program: whatever it reads, from a file, in which it can look for an index at the end."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

# Below this share of the length that a container announces, it was cut short.
_COMPLETE = 0.9
# The container's index leads to so many s before a stretch, which is cut exactly from there: the first packets behind a
# place cannot always be decoded.
_PREROLL = 2.0
# From which byte on, first bytes, and the formats that begin so.
_FORMATS = (
    (4, b"ftyp", "mp4, m4a, mov or 3gp"),
    (0, b"\x1a\x45\xdf\xa3", "webm or mkv"),
    (0, b"\x30\x26\xb2\x75", "wma or wmv"),
    (0, b"#!AMR", "amr"),
    (0, b"\xff\xf1", "aac"),
    (0, b"\xff\xf9", "aac"),
    (0, b"FLV\x01", "flv"),
    (8, b"AVI ", "avi"),
    (0, b"OggS", "ogg of several streams, or with another codec"),
    (0, b"\xff\xfb", "mp3 that does not say its length"),
    (0, b"\xff\xf3", "mp3 that does not say its length"),
)
_INSTALL = "Install the ffmpeg program (apt install ffmpeg, brew install ffmpeg, https://ffmpeg.org)"


def decode_with_ffmpeg(
    file: str | bytes, sampling_rate: int, name: str, *, start: float = 0.0, duration: float | None = None
) -> np.ndarray:
    """The first audio stream of a file, mixed to one channel and resampled.

    Args:
        file: path of a regular file, or its bytes.
        sampling_rate: of the result, in Hz.
        name: for errors.
        start, duration: the stretch to decode, in s; the container's index is used to get there.

    Returns:
        float32 `(samples,)`; fewer than asked for where the file ends before.

    Raises:
        ValueError: no program, or a file that it cannot decode to its end.
    """
    with _opened(file, name) as (program, path):
        command = _command(program, path, sampling_rate, start, duration)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        log = done.stderr.decode(errors="replace")
        waveform = np.frombuffer(done.stdout, np.float32)
        whole = start == 0.0 and duration is None
        _check(path, name, _fault(log, done.returncode, len(waveform) / sampling_rate if whole else None))
    return waveform


def stream_with_ffmpeg(file: str | bytes, sampling_rate: int, name: str, *, seconds: float) -> Iterator[np.ndarray]:
    """As `decode_with_ffmpeg` for the whole of a file, in blocks of `seconds` s, of which one is in memory.

    Raises, at the latest behind the last block, as `decode_with_ffmpeg`.
    """
    samples, block = 0, 4 * round(seconds * sampling_rate)
    # A file for what it says: a pipe that nobody reads would fill, and hold the program up.
    with _opened(file, name) as (program, path), tempfile.TemporaryFile() as said:
        command = _command(program, path, sampling_rate, 0.0, None)
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said) as running:
            try:
                while running.stdout is not None and (content := running.stdout.read(block)):
                    waveform = np.frombuffer(content[: len(content) // 4 * 4], np.float32)
                    samples += len(waveform)
                    yield waveform
            except BaseException:
                # Nobody wants the rest.
                running.kill()
                raise
        said.seek(0)
        log = said.read().decode(errors="replace")
        _check(path, name, _fault(log, running.returncode, samples / sampling_rate))


@contextmanager
def _opened(file: str | bytes, name: str) -> Iterator[tuple[str, str]]:
    """The program, and the path of a file; one that is given as bytes lies on the disk as long as the block lasts."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise ValueError(_no_program(file, name))
    if isinstance(file, str):
        yield program, file
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audio"
        path.write_bytes(file)
        yield program, str(path)


def _command(program: str, file: str, sampling_rate: int, start: float, duration: float | None) -> list[str]:
    # An index of what has none is a guess, which for compressed wav is a wrong one.
    sought = 0.0 if _first_bytes(file).startswith(b"RIFF") else max(0.0, start - _PREROLL)
    there = ["-ss", f"{sought:.6f}"] if sought else []
    stretch = ["-ss", f"{start - sought:.6f}"] if start else []
    stretch += [] if duration is None else ["-t", f"{duration:.6f}"]
    # As a path of the file protocol no name is an option or an address; nothing that a playlist names is fetched.
    source = ["-protocol_whitelist", "file", *there, "-i", f"file:{file}"]
    sound = ["-map", "0:a:0", "-ac", "1", "-ar", str(sampling_rate), "-f", "f32le", "pipe:1"]
    quiet = ["-nostdin", "-hide_banner", "-nostats", "-v", "level+info", "-xerror"]
    return [program, *quiet, *source, *stretch, *sound]


def _check(file: str, name: str, fault: str | None) -> None:
    if fault is not None:
        raise ValueError(
            f"Expected an audio file, got {name} ({os.path.getsize(file)} bytes), which neither soundfile nor ffmpeg "
            f"can decode: {fault}. Check that the file is whole."
        )


def _fault(log: str, status: int, seconds: float | None) -> str | None:
    """Why a file was not decoded to its end; `seconds` is what came of a whole file."""
    if re.search(r"Input #0, (hls|concat|dash|imf)\b", log):
        return "it is a list of other files"
    errors = re.findall(r"\[(?:error|fatal)\] (.*)", log)
    if "matches no streams" in log:
        return "it has no sound"
    if "ended prematurely" in log:
        return "it was cut short"
    if status != 0:
        return errors[0].rstrip(".") if errors else f"ffmpeg ended with status {status}"
    announced = re.search(r"Duration: (\d+):(\d+):([\d.]+)", log)
    # Of a video the length may be that of its pictures.
    pictures = any(": Video:" in line and "attached pic" not in line for line in log.splitlines())
    if seconds is None or announced is None or pictures or "Estimating duration" in log:
        return None
    hours, minutes, rest = map(float, announced.groups())
    length = 3600 * hours + 60 * minutes + rest
    if seconds >= _COMPLETE * length:
        return None
    return f"it was cut short, its header announces {length:.2f} s, {seconds:.2f} s are there"


def _no_program(file: str | bytes, name: str) -> str:
    """What to say where there is no ffmpeg: certain of a format that it knows, else not."""
    content = _first_bytes(file)
    for offset, start, formats in _FORMATS:
        if content.startswith(start, offset):
            return f"Expected ffmpeg, to decode {name} ({formats}), found none. {_INSTALL}, or convert it to wav."
    size = len(file) if isinstance(file, bytes) else os.path.getsize(file)
    return (
        f"Expected an audio file, got {name} ({size} bytes), which soundfile cannot decode. Check that the file is "
        f"whole; wav, flac, ogg and mp3 always work. {_INSTALL} if it is of another format."
    )


def _first_bytes(file: str | bytes) -> bytes:
    if isinstance(file, bytes):
        return file[:16]
    with open(file, "rb") as content:
        return content.read(16)
