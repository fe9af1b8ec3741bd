"""CTranslate2, with all that faster-whisper reads: it asks the Hub for a tokenizer where the folder has none."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .whisper_folder import PREPROCESSOR, write_whisper

if TYPE_CHECKING:
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

# The tokenizer, and how many mel bins there are: without them 80 are taken, which is wrong for large-v3.
COPIED = ("tokenizer.json", PREPROCESSOR)


def write_ctranslate2(
    model: WhisperForConditionalGeneration, processor: WhisperProcessor, folder: Path, *, dtype: str
) -> None:
    """Convert a plain Whisper by CTranslate2's own converter.

    Args:
        model: in float32.
        processor: of its base.
        folder: made if needed.
        dtype: "float32", "float16", "bfloat16" or "int8" (by row, of all linear layers) to store the weights in.
    """
    from ctranslate2.converters import TransformersConverter

    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".whisper-") as plain:
        write_whisper(model, processor, Path(plain))
        converter = TransformersConverter(plain, copy_files=list(COPIED))
        converter.convert(str(folder), quantization=dtype, force=True)
