"""Audio of any form as one waveform: files and bytes decoded by soundfile (or the ffmpeg program), resampled by soxr.

No torchaudio, no torchcodec, and no ffmpeg program for wav, flac, ogg, opus and mp3. The one decoder of the package:
the pipeline opens its inputs here, training and evaluation their clips.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.pipelines.audio_utils import ffmpeg_read


def load_audio(
    audio: Any, sampling_rate: int, *, start: float | None = None, duration: float | None = None
) -> tuple[np.ndarray, float]:
    """Open audio of any form, mix its channels to their mean, resample it to `sampling_rate` Hz.

    Args:
        audio: path or bytes of a file; floats of numpy or torch, `(samples,)` or `(channels, samples)`, at
            `sampling_rate`; a dict of these under "raw" or "array" and their own "sampling_rate"; a dict of a file
            under "bytes" or "path"; torchcodec's AudioDecoder.
        start, duration: the stretch to take, in s; None is from the beginning, and up to the end.

    Returns:
        Waveform `(samples,)`, float32, and the sampling rate in Hz that it had before.

    Raises:
        FileNotFoundError: no such file.
        ImportError: soundfile or soxr is needed and not installed.
        TypeError: none of these forms.
        ValueError: audio that is empty, cannot be decoded or is not finite; another shape or number format; a stretch
            that is not in it.
    """
    source_rate: float = sampling_rate
    # Only who has imported torchcodec can have made one of its decoders; it is not imported for this check.
    torchcodec = sys.modules.get("torchcodec")
    if torchcodec is not None and isinstance(audio, torchcodec.decoders.AudioDecoder):
        decoded = audio.get_all_samples()
        audio = {"array": decoded.data, "sampling_rate": decoded.sample_rate}
    if isinstance(audio, dict):
        given = {key for key, value in audio.items() if value is not None}
        if "sampling_rate" in given and given & {"raw", "array"}:
            audio, source_rate = audio["raw" if "raw" in given else "array"], audio["sampling_rate"]
        elif given & {"bytes", "path"} and not given & {"raw", "array"}:
            audio = audio["bytes" if "bytes" in given else "path"]
        else:
            raise ValueError(
                'Expected a dict with "raw" or "array" and "sampling_rate" in Hz, with "bytes" or "path" of a file, '
                f'or with any audio under "audio", got the keys {sorted(given)}.'
            )
    name = os.fspath(audio) if isinstance(audio, (str, os.PathLike)) else type(audio).__name__
    if isinstance(audio, (str, os.PathLike)):
        with open(audio, "rb") as file:
            audio = file.read()
    if isinstance(audio, bytes):
        decoded = decode_file(audio, sampling_rate, name)
        waveform, source_rate = decoded.waveform, decoded.sampling_rate
    else:
        waveform = mono_waveform(audio)
    if start is not None or duration is not None:
        first, whole = round((start or 0.0) * source_rate), len(waveform) / source_rate
        end = whole if duration is None else (start or 0.0) + duration
        if first >= len(waveform) or end > whole + 0.1:
            raise ValueError(
                f"Expected a stretch of {name}, which lasts {whole:.2f} s, got {start or 0.0:g} to {end:g} s."
            )
        waveform = waveform[first : round(end * source_rate)]
    waveform = resample(waveform, source_rate, sampling_rate, name)
    if waveform.size == 0 or not np.isfinite(waveform).all():
        fault = "no samples" if waveform.size == 0 else "samples that are not finite"
        raise ValueError(f"Expected audio, got {fault} in {name}. Leave such recordings out.")
    return waveform, source_rate


def mono_waveform(waveform: Any) -> np.ndarray:
    """`(samples,)` or `(channels, samples)`, floats of numpy or torch -> mean of channels `(samples,)`, float32."""
    if isinstance(waveform, torch.Tensor):
        # numpy has no bfloat16.
        waveform = (waveform.float() if waveform.is_floating_point() else waveform).detach().cpu().numpy()
    if not isinstance(waveform, np.ndarray):
        kind = type(waveform).__name__
        raise TypeError(f"Expected a path, bytes, a numpy array, a torch tensor or a dict of these, got {kind}.")
    if not np.issubdtype(waveform.dtype, np.floating):
        raise ValueError(f"Expected floats in [-1, 1], got {waveform.dtype}. Divide int16 samples by 32768.")
    if waveform.ndim == 2 and waveform.shape[0] <= waveform.shape[1]:
        waveform = waveform.mean(axis=0)
    if waveform.ndim != 1:
        raise ValueError(f"Expected (samples,) or (channels, samples), got {waveform.shape}. Transpose if need be.")
    return waveform.astype(np.float32, copy=False)


def resample(waveform: np.ndarray, source_rate: float, sampling_rate: int, name: str) -> np.ndarray:
    """`(samples,)` at `source_rate` Hz -> `(samples,)` at `sampling_rate` Hz; `name` is for errors."""
    if source_rate == sampling_rate:
        return waveform
    try:
        import soxr
    except ImportError as error:
        raise ImportError(f"Expected soxr, to resample {name}. Run `pip install soxr`.") from error
    return soxr.resample(waveform, source_rate, sampling_rate)


class Decoded(NamedTuple):
    """A decoded file: mono `(samples,)`, float32; its rate in Hz; how many samples its header announced."""

    waveform: np.ndarray
    sampling_rate: int
    announced: int


def decode_file(content: bytes, sampling_rate: int, name: str) -> Decoded:
    """Decode a file with soundfile, or, if it does not know the format (such as m4a), with the ffmpeg program, which
    resamples to `sampling_rate` as well.

    Raises:
        ImportError: soundfile is not installed.
        ValueError: neither can decode it.
    """
    # Imported here, and in a `try`, so that remote code opens where it is not installed.
    try:
        import soundfile
    except ImportError as error:
        raise ImportError(f"Expected soundfile, to decode {name}. Run `pip install soundfile`.") from error
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            waveform = file.read(dtype="float32", always_2d=True).mean(axis=1)
            return Decoded(waveform, file.samplerate, file.frames)
    except soundfile.SoundFileError as unknown:
        try:
            waveform = ffmpeg_read(content, sampling_rate)
            return Decoded(waveform, sampling_rate, len(waveform))
        except ValueError as error:
            raise ValueError(
                f"Expected an audio file, got {name} ({len(content)} bytes), which cannot be decoded. soundfile: "
                f"{unknown} ffmpeg: {error} Check that the file is whole; wav, flac, ogg and mp3 always work, other "
                "formats such as m4a need the ffmpeg program."
            ) from error
