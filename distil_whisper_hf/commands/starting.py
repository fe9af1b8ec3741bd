"""What is refused before anything is read, computed or written: whatever a run could only fail by at its end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from transformers import AutoConfig, WhisperConfig

from ..checkpoints import expert_shapes
from ..pretrained import WEIGHT_FILES

# Start, language, task and no timestamps stand before a transcript.
PROMPT_TOKENS = 4
# Bytes of a float32, of a weight with AdamW's two moments beside it.
FLOAT_BYTES, TRAINED_BYTES = 4, 12
# Pip's name of the extra that brings a library.
EXTRA_OF = {
    "bitsandbytes": "quant",
    "torchao": "quant",
    "peft": "train",
    "matplotlib": "eval",
    "sacrebleu": "eval",
    "num2words": "eval",
}


def open_config(model: str | None, *, what: str = "--model") -> WhisperConfig:
    """The configuration of a Whisper.

    Raises:
        ValueError: none named, nothing there, or another kind of model.
    """
    if model is None:
        raise ValueError(f"Expected a Whisper to start from, got none. Name it: {what} openai/whisper-small.")
    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ValueError(f"Expected a Whisper in {model!r} ({what}), a folder or a Hub name: {error}") from error
    if not isinstance(config, WhisperConfig):
        raise ValueError(f"Expected a Whisper in {model!r} ({what}), got a {config.model_type}. Name another model.")
    return config


def check_new_tokens(config: WhisperConfig, most: int | None, *, flag: str) -> None:
    """Refuse more tokens of a transcript than the decoder has positions for."""
    limit = config.max_target_positions - PROMPT_TOKENS
    if most is not None and not 1 <= most <= limit:
        raise ValueError(
            f"Expected {flag} between 1 and {limit} (the decoder's {config.max_target_positions} positions less a "
            f"prompt of {PROMPT_TOKENS}), got {most}."
        )


def check_output_dir(folder: str | os.PathLike | None, *, weights: bool = False) -> Path:
    """The folder of a run, if it can be written.

    Args:
        weights: whether the run writes base weights itself. Where it does not, a folder that holds some is refused: an
            expert-only checkpoint beside them would be taken for a part of them.

    Raises:
        ValueError: no folder named, a file, one that cannot be written, or one with base weights.
    """
    if not folder:
        raise ValueError("Expected a folder for what the run writes, got none. Name it: --output_dir runs/ca.")
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise ValueError(f"Expected a folder for --output_dir, {str(path)!r} is a file. Choose another name.")
    above = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"Expected to write into {str(path)!r}, which is not permitted. Choose another --output_dir.")
    there = [name for name in WEIGHT_FILES if (path / name).is_file()]
    if there and not weights:
        raise ValueError(
            f"Expected a folder without base weights for experts, found {there[0]} in {str(path)!r}. Choose another "
            "--output_dir."
        )
    return path


def check_disk_space(folder: Path, needed: int, *, what: str) -> None:
    """Refuse a run whose files the disk has no room for; `needed` is in bytes."""
    above = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(above).free
    if needed > free:
        raise ValueError(
            f"Expected {needed / 1e9:.1f} GB of free disk for {what} in {str(folder)!r}, there are {free / 1e9:.1f}. "
            "Free some, name another --output_dir, or keep fewer checkpoints (--save_total_limit 1)."
        )


def expert_bytes(config: WhisperConfig, *, sides: str, checkpoints: int) -> int:
    """Bytes that an expert takes: its file, and in each checkpoint the weights with the optimiser's state."""
    numbers = sum(shape_size(shape) for shape in expert_shapes(config, sides).values())
    return numbers * (FLOAT_BYTES + checkpoints * TRAINED_BYTES)


def shape_size(shape: Iterable[int]) -> int:
    """Number of elements of a tensor."""
    size = 1
    for length in shape:
        size *= length
    return size


def check_libraries(names: Iterable[str], *, what: str) -> None:
    """Refuse what needs a library that is not installed; ImportError with the command that installs it."""
    for name in names:
        if find_spec(name) is None:
            raise ImportError(
                f"Expected {name} for {what}, which is not installed. Run "
                f"`pip install 'distil_whisper_hf[{EXTRA_OF[name]}]'`."
            )
