"""Audio of any form as one waveform: files decoded by `audio_files`, arrays as they are, resampled by soxr.

No torchaudio, no torchcodec, and no ffmpeg program for wav, flac, ogg, opus and mp3.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import torch

# Under one name, whatever that version of transformers fetches with.
from transformers.pipelines.automatic_speech_recognition import httpx

from .audio_files import check_stretch, decode_file


def load_audio(
    audio: Any, sampling_rate: int, *, start: float | None = None, duration: float | None = None
) -> tuple[np.ndarray, float]:
    """Open audio of any form, mix its channels to their mean, resample it to `sampling_rate` Hz.

    Args:
        audio: path, address (http, https) or bytes of a file; floats of numpy or torch, `(samples,)` or `(channels,
            samples)`, at `sampling_rate`; a dict of these under "raw" or "array" and their own "sampling_rate"; a dict
            of a file under "bytes" or "path"; torchcodec's AudioDecoder.
        start, duration: the stretch to take, in s; None is from the beginning, and up to the end.

    Returns:
        Waveform `(samples,)`, float32, and the sampling rate in Hz that it had before.

    Raises:
        FileNotFoundError: no such file.
        httpx.HTTPError: an address that cannot be fetched.
        ImportError: soundfile or soxr is needed and not installed.
        TypeError: none of these forms.
        ValueError: audio that is empty, cannot be decoded, was cut short or is not finite; another shape or number
            format; a stretch that is not in it.
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
        audio = _fetched(name) if name.startswith(("http://", "https://")) else name
    if isinstance(audio, (str, bytes)):
        waveform, source_rate = decode_file(audio, sampling_rate, name, start=start, duration=duration)
    else:
        waveform = mono_waveform(audio)
        if start is not None or duration is not None:
            first = start or 0.0
            check_stretch(name, first, duration, len(waveform) / source_rate)
            end = None if duration is None else round((first + duration) * source_rate)
            waveform = waveform[round(first * source_rate) : end]
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


def _fetched(address: str) -> bytes:
    return httpx.get(address, follow_redirects=True).raise_for_status().content
