"""The folder of a plain Whisper that tools of any age open, complete and without the Hub.

Transformers 5 writes `tokenizer.json` and `processor_config.json`. Tools that are older, or that read files themselves,
look for `vocab.json`, `merges.txt`, `added_tokens.json`, `special_tokens_map.json` and `preprocessor_config.json`.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..base_fingerprint import FINGERPRINT_DTYPES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, WhisperForConditionalGeneration, WhisperProcessor

PREPROCESSOR = "preprocessor_config.json"
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


def write_whisper(
    model: WhisperForConditionalGeneration, processor: WhisperProcessor, folder: Path, *, dtype: str = "float32"
) -> None:
    """Write model, generation settings, tokenizer and feature extractor.

    Args:
        model: in float32; it stays as it is.
        processor: of its base.
        folder: made if needed.
        dtype: "float32", "float16" or "bfloat16" to store the weights in.

    Raises:
        ValueError: weights that are not finite in `dtype`.
    """
    if dtype != "float32":
        model = copy.deepcopy(model).to(FINGERPRINT_DTYPES[dtype])
    lost = [key for key, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if lost:
        raise ValueError(f"Expected weights that are finite in {dtype}, {lost[0]} is not: export in float32.")
    model.save_pretrained(folder)
    write_processor(processor, folder)


def write_processor(processor: WhisperProcessor, folder: Path) -> None:
    """Write tokenizer and feature extractor, in the files of transformers 5 and in those before them."""
    processor.save_pretrained(folder)
    processor.feature_extractor.save_pretrained(folder)
    tokenizer = processor.tokenizer
    vocabulary, merges = text_vocabulary(tokenizer)
    added = {token: token_id for token, token_id in tokenizer.get_added_vocab().items() if token not in vocabulary}
    special = {name: str(getattr(tokenizer, name)) for name in SPECIAL if getattr(tokenizer, name) is not None}
    listed = special_tokens(tokenizer)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    _write(folder / "added_tokens.json", dict(sorted(added.items(), key=lambda item: item[1])))
    _write(folder / "special_tokens_map.json", {**special, "additional_special_tokens": listed})
    lines = ["#version: 0.2", *(pair if isinstance(pair, str) else " ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    # Transformers 4 reads a list here under the older name alone, and a list under the newer one is an error to it.
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("extra_special_tokens", None)
    _write(path, {**config, "additional_special_tokens": listed})


def text_vocabulary(tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, int], list[Any]]:
    """The tokens of text with their ids, in the order of these, and the merges of byte-pair encoding."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return dict(sorted(model["vocab"].items(), key=lambda item: item[1])), model["merges"]


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """All special tokens, in the order of their ids."""
    named = {token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.all_special_tokens}
    return sorted(named, key=lambda token: named[token])


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
