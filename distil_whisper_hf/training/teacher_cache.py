"""What a teacher said, kept: it is asked once for each window, however often and by whomever that is trained on.

A window takes 258 bytes a target token: ids in 16 bits and log-probabilities in float16 of the 64 likeliest tokens, and
the logarithm of the rest (see `top_tokens`). A file is known by all that decides it: the audio (of joined clips, their
composition), the target tokens, the teacher's weights, precision and vocabulary, and k. It is written beside and
renamed, so several processes may fill one folder. One that is damaged or another's is found out by its digest and made
again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from ..base_fingerprint import fingerprint_base
from ..data.atomic_files import replacing
from .losses import IGNORED
from .teacher import Teacher
from .top_tokens import TopTokens

# Ids are kept in 16 bits.
LARGEST_VOCABULARY = 1 << 16


class TeacherCache:
    """Files of cut distributions, by key.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def get(self, key: str) -> TopTokens | None:
        """What was put under a key; None if nothing was, or not as it was put."""
        try:
            with safe_open(self._path(key), framework="np") as file:
                arrays, known = {name: file.get_tensor(name) for name in list(file.keys())}, file.metadata() or {}
        except (OSError, SafetensorError):
            return None
        if known != {"key": key, "sha256": _digest(arrays)} or not {"ids", "log_probs"} <= arrays.keys():
            return None
        rest = arrays.get("rest")
        return TopTokens(
            torch.from_numpy(arrays["ids"].astype(np.int64)),
            torch.from_numpy(arrays["log_probs"].astype(np.float32)),
            None if rest is None else torch.from_numpy(rest.astype(np.float32)),
        )

    def put(self, key: str, top: TopTokens) -> None:
        """Keep distributions; without a rest, in float32, for they are whole.

        Raises:
            UnwritableError: a disk that is full.
        """
        dtype = np.float32 if top.rest is None else np.float16
        arrays = {
            "ids": top.ids.cpu().numpy().astype(np.uint16),
            "log_probs": top.log_probs.cpu().numpy().astype(dtype),
        }
        if top.rest is not None:
            arrays["rest"] = top.rest.cpu().numpy().astype(dtype)
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            save_file(arrays, beside, metadata={"key": key, "sha256": _digest(arrays)})

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


class CachedTeacher:
    """A teacher that is asked only for what a cache lacks.

    Args:
        teacher: as it was opened; it goes to the student's device when it is asked first.
        folder: of the cache.
        k: tokens that are kept of each distribution.

    Attributes:
        asked: windows that the teacher was asked for.
        found: windows that the cache had.

    Raises:
        ValueError: k below 1, or a vocabulary that does not fit into 16 bits.
    """

    def __init__(self, teacher: Teacher, folder: str | Path, *, k: int = 64) -> None:
        size = len(teacher.vocabulary.student_to_teacher)
        if k < 1 or size > LARGEST_VOCABULARY:
            raise ValueError(f"Expected to keep at least 1 of at most {LARGEST_VOCABULARY} tokens, got {k} of {size}.")
        self.teacher, self.cache, self.k = teacher, TeacherCache(folder), k
        self.name, self.own_features, self.processor = teacher.name, teacher.own_features, teacher.processor
        self.asked = self.found = 0
        config = teacher.model.config
        known = {
            "weights": fingerprint_base(teacher.model.named_parameters()),
            "quantization": str(getattr(config, "quantization_config", None) and config.quantization_config.to_dict()),
            "vocabulary": hashlib.sha256(teacher.vocabulary.student_to_teacher.cpu().numpy().tobytes()).hexdigest(),
            "k": min(k, size),
        }
        self._known = json.dumps(known, sort_keys=True)

    def __call__(
        self,
        input_features: Tensor,
        labels: Tensor,
        windows: Sequence[str | None] = (),
        prompt: Tensor | None = None,
    ) -> TopTokens:
        """Distributions at all targets of a batch.

        Args:
            input_features: `(batch, mel bins, frames)` as the teacher hears them.
            labels: `(batch, tokens)` ids of the student, -100 where there is no target.
            windows: digest of the audio of each row; None, or nothing at all, takes one of its features.
            prompt: as for `Teacher`.

        Returns:
            Of the targets of all rows, one after the other, on the labels' device.
        """
        windows = windows or [None] * len(labels)
        keys = [
            self.key(labels[row], input_features[row], windows[row], None if prompt is None else prompt[row])
            for row in range(len(labels))
        ]
        held = [self.cache.get(key) for key in keys]
        targets = (labels != IGNORED).sum(dim=1).tolist()
        held = [
            top if top is not None and len(top.ids) == count else None for top, count in zip(held, targets, strict=True)
        ]
        missing = [row for row, top in enumerate(held) if top is None]
        self.asked, self.found = self.asked + len(missing), self.found + len(held) - len(missing)
        if missing:
            if self.teacher.model.device != labels.device:
                # Transformers' wrapper of `to` hides from type checkers that it is a method.
                self.teacher.model.to(labels.device)  # type: ignore[arg-type]
            logits = self.teacher(input_features[missing], labels[missing], None if prompt is None else prompt[missing])
            for row, of_row in zip(missing, logits, strict=True):
                held[row] = top = TopTokens.of(of_row[labels[row] != IGNORED], self.k)
                self.cache.put(keys[row], top)
        parts = [top for top in held if top is not None]
        return _on(TopTokens.joined(parts), labels.device)

    def key(self, labels: Tensor, features: Tensor, window: str | None, prompt: Tensor | None = None) -> str:
        """What a row is kept under.

        Args:
            labels: `(tokens,)`.
            features: `(mel bins, frames)`, asked only where there is no `window`.
            window: digest of the audio.
            prompt: `(tokens,)`, what the decoder is given; it counts where there is text before the labels.
        """
        digest = hashlib.sha256(self._known.encode())
        targets = labels != IGNORED
        digest.update(labels[targets].cpu().numpy().astype(np.int64).tobytes())
        # Before the start token, which stands where the first label is to be said.
        before = int(targets.long().argmax()) if prompt is not None else 0
        if prompt is not None and before:
            digest.update(b"after" + prompt[:before].cpu().numpy().astype(np.int64).tobytes())
        if window is None:
            digest.update(b"features" + features.float().cpu().contiguous().numpy().tobytes())
        else:
            digest.update(b"audio" + window.encode())
        return digest.hexdigest()


def _on(top: TopTokens, device: torch.device) -> TopTokens:
    return TopTokens(top.ids.to(device), top.log_probs.to(device), None if top.rest is None else top.rest.to(device))


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
