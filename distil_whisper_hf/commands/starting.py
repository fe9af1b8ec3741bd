"""What is refused before anything is read, computed or written: whatever a run could only fail by at its end."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from transformers import AutoConfig, WhisperConfig

from ..checkpoints import expert_shapes
from ..expert_form import ExpertForm
from ..places import local_or_hub
from .mistakes import missing_library

# Start, language, task and no timestamps stand before a transcript.
PROMPT_TOKENS = 4
# Bytes of a float32, of a weight with AdamW's two moments beside it.
FLOAT_BYTES, TRAINED_BYTES = 4, 12


def open_config(model: str | None, *, what: str = "--model") -> WhisperConfig:
    """The configuration of a Whisper.

    Raises:
        ValueError: none named, nothing there, or another kind of model.
    """
    if model is None:
        raise ValueError(f"Expected a Whisper to start from, got none. Name it: {what} openai/whisper-small.")
    place = local_or_hub(model, f"a Whisper ({what})")
    try:
        config = AutoConfig.from_pretrained(place)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"Expected a Whisper in {model!r} ({what}), a folder or a Hub name: {reason}") from error
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


def expert_bytes(config: WhisperConfig, *, form: ExpertForm, checkpoints: int) -> int:
    """Bytes that an expert takes: its file, and in each checkpoint the weights with the optimiser's state."""
    numbers = sum(shape_size(shape) for shape in expert_shapes(config, form).values())
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
            raise ImportError(f"Expected {name} for {what}: {missing_library(name)}")
