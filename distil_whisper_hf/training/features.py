"""Log-mel features of Whisper, computed on the fly and, if wanted, kept on disk.

A window is 30 s whatever the clip's length, and what follows the clip is silence, the same in every frame. So only the
clip is transformed, and its last, silent frame is repeated: 1 to 2 ms for a clip of 3 s instead of 15, with the values
of `WhisperFeatureExtractor` (to the bit for ordinary clips, to 1e-6 for clips of some milliseconds).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor
from transformers import WhisperFeatureExtractor

from ..data.atomic_files import replacing
from ..data.audio import AudioError

# Frames of the encoder per frame of the features: its second convolution has stride 2.
_STRIDE = 2


def log_mel(samples: np.ndarray, extractor: WhisperFeatureExtractor) -> np.ndarray:
    """Features of a clip up to its end and a frame of silence beyond; `fill_window` adds the rest.

    Args:
        samples: mono float32 `(samples,)` at the extractor's rate.
        extractor: Whisper's; 80 mel bins, 128 for large-v3 and turbo.

    Returns:
        float32 `(mel bins, frames)`, 100 frames per second, at most the window.

    Raises:
        AudioError: a clip without samples, or longer than the window, whose end would be cut off.
    """
    window = extractor.n_samples
    if not 0 < len(samples) <= window:
        raise AudioError(
            f"Expected a clip of at most {extractor.chunk_length} s and at least one sample, got "
            f"{len(samples) / extractor.sampling_rate:.2f} s: screen the clips first."
        )
    # One transform beyond the clip is all silence. With dither there is no silence to repeat.
    hop = extractor.hop_length
    length = window if extractor.dither else min(window, -(-(len(samples) + extractor.n_fft) // hop) * hop)
    features = extractor(samples, sampling_rate=extractor.sampling_rate, max_length=length, return_tensors="np")
    return features["input_features"][0].astype(np.float32, copy=False)


def fill_window(features: np.ndarray, extractor: WhisperFeatureExtractor) -> np.ndarray:
    """The features of the whole window, `(mel bins, 3000)`: those of `log_mel` with their last frame repeated."""
    window = np.empty((features.shape[0], extractor.nb_max_frames), dtype=np.float32)
    window[:, : features.shape[1]] = features
    window[:, features.shape[1] :] = features[:, -1:]
    return window


def encoder_frames(samples: int, extractor: WhisperFeatureExtractor) -> int:
    """Number of encoder frames, 50 per second, that a clip of this many samples reaches into."""
    return -(-samples // (extractor.hop_length * _STRIDE))


def sounding_frames(features: Tensor) -> Tensor:
    """As `encoder_frames`, for features whose samples are not at hand: what follows a clip is even silence.

    Args:
        features: `(batch, mel bins, frames)`.

    Returns:
        `(batch,)`, int64, at least 1; a frame more or less than the samples would say.
    """
    sounding = (features > features.amin(dim=(1, 2), keepdim=True)).any(dim=1)
    places = torch.arange(1, features.shape[-1] + 1, device=features.device)
    return (-(-(sounding * places).amax(dim=1) // _STRIDE)).clamp(min=1)


def needs_own_features(student: WhisperFeatureExtractor, teacher: WhisperFeatureExtractor) -> bool:
    """Whether the teacher hears other features than the student, such as 128 mel bins instead of 80.

    Raises:
        ValueError: windows, rates or hops that differ, so that a frame of one is not a frame of the other.
    """
    for name in ("sampling_rate", "chunk_length", "hop_length"):
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours != theirs:
            raise ValueError(f"Student and teacher must have the same {name}, got {ours} and {theirs}.")
    return _settings(student) != _settings(teacher)


class FeatureCache:
    """Features on disk, one safetensors file for each clip and kind of features; several processes may share it.

    A clip takes 32 kB a second at 80 mel bins (its silence is not stored): about 4.5 GB for 28k clips of 5 s.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def get(self, digest: str, extractor: WhisperFeatureExtractor) -> tuple[np.ndarray, int] | None:
        """Features as `log_mel` gave them and the number of encoder frames; None if they are not there."""
        path = self._path(digest, extractor)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="np") as file:
                return file.get_tensor("features"), int(file.metadata()["encoder_frames"])
        except SafetensorError:
            # A file that was damaged from outside is made again.
            return None

    def put(self, digest: str, extractor: WhisperFeatureExtractor, features: np.ndarray, frames: int) -> None:
        """Keep the features of a clip; a reader sees either nothing or the whole file.

        Raises:
            ValueError: an extractor with dither, whose features differ each time.
            UnwritableError: a disk that is full.
        """
        if extractor.dither:
            raise ValueError(f"Expected an extractor without dither for a cache, got dither {extractor.dither}.")
        path = self._path(digest, extractor)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            save_file({"features": np.ascontiguousarray(features)}, beside, metadata={"encoder_frames": str(frames)})

    def _path(self, digest: str, extractor: WhisperFeatureExtractor) -> Path:
        settings = hashlib.sha256(_settings(extractor).encode()).hexdigest()[:12]
        return self.folder / settings / digest[:2] / f"{digest}.safetensors"


def _settings(extractor: WhisperFeatureExtractor) -> str:
    """Everything that the values of the features depend on."""
    names = ("chunk_length", "dither", "feature_size", "hop_length", "n_fft", "padding_value", "sampling_rate")
    return json.dumps({name: getattr(extractor, name) for name in names})
