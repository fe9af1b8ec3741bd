"""The file of whisper.cpp: header, mel filters, vocabulary and tensors, one after the other, all little-endian.

    magic 0x67676d6c, 11 sizes          int32
    mel filters                         2 int32, then float32 (bins, 201)
    tokens                              their number, then the length and the bytes of each
    tensors, up to the end of the file  3 int32 (dimensions, length of the name, type), dimensions from the last to the
                                        first, name, values

as whisper.cpp's `models/convert-h5-to-ggml.py` writes it. Weights are in float16 and everything else in float32: files
in float32 end its loader.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch

from .whisper_folder import text_vocabulary

if TYPE_CHECKING:
    from transformers import (
        PreTrainedTokenizerBase,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
    )

FILE = "ggml-model.bin"
MAGIC = 0x67676D6C
FLOAT32, FLOAT16 = 0, 1
# It counts languages by the size of the vocabulary: English-only, multilingual, and that of large-v3.
VOCABULARIES = (51864, 51865, 51866)
FLOAT32_TENSORS = re.compile(r".*\.bias|.*ln(_post)?\.weight|.*_ln\.weight|.*positional_embedding|.*mlp_ln\.weight")
# Names of transformers -> of OpenAI's release, which whisper.cpp has too.
RENAMED = (
    (r"^model\.", ""),
    (r"\.layers\.", ".blocks."),
    (r"\.self_attn_layer_norm\.", ".attn_ln."),
    (r"\.encoder_attn_layer_norm\.", ".cross_attn_ln."),
    (r"\.final_layer_norm\.", ".mlp_ln."),
    (r"\.self_attn\.", ".attn."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.q_proj\.", ".query."),
    (r"\.k_proj\.", ".key."),
    (r"\.v_proj\.", ".value."),
    (r"\.out_proj\.", ".out."),
    (r"\.fc1\.", ".mlp.0."),
    (r"\.fc2\.", ".mlp.2."),
    (r"^encoder\.layer_norm\.", "encoder.ln_post."),
    (r"^decoder\.layer_norm\.", "decoder.ln."),
    (r"\.embed_positions\.weight", ".positional_embedding"),
    (r"\.embed_tokens\.", ".token_embedding."),
)


def write_ggml(
    model: WhisperForConditionalGeneration, processor: WhisperProcessor, folder: Path, *, dtype: str
) -> None:
    """Write a plain Whisper as `ggml-model.bin`.

    Args:
        model: in float32.
        processor: of its base.
        folder: made if needed.
        dtype: "float16", of the weights.

    Raises:
        ValueError: a vocabulary, activation or window that whisper.cpp does not know, or weights beyond float16.
    """
    check_model(model.config, processor)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("wb") as file:
        file.write(struct.pack("<12i", MAGIC, *sizes(model.config)))
        filters = mel_filters(processor.feature_extractor)
        file.write(struct.pack("<2i", *filters.shape))
        file.write(filters.tobytes())
        tokens = text_tokens(processor.tokenizer)
        file.write(struct.pack("<i", len(tokens)))
        for token in tokens:
            file.write(struct.pack("<i", len(token)))
            file.write(token)
        for name, values in tensors(model):
            _write_tensor(file, name, values)


def check_model(config: WhisperConfig, processor: WhisperProcessor) -> None:
    """Refuse what whisper.cpp would take for something else; ValueError."""
    if config.vocab_size not in VOCABULARIES:
        raise ValueError(
            f"Expected one of Whisper's vocabularies ({', '.join(map(str, VOCABULARIES))} tokens) for whisper.cpp, got "
            f"{config.vocab_size}. Export to ctranslate2 or onnx."
        )
    widths = {config.encoder_ffn_dim, config.decoder_ffn_dim}
    if (
        widths != {4 * config.d_model}
        or config.activation_function != "gelu"
        or processor.feature_extractor.n_fft != 400
    ):
        raise ValueError(
            "Expected Whisper's own spectrogram and activation, and feed-forward networks of four times the model's "
            "width, for whisper.cpp: it knows no others. Export to ctranslate2 or onnx."
        )


def sizes(config: WhisperConfig) -> tuple[int, ...]:
    """The header behind the magic number."""
    return (
        config.vocab_size,
        config.max_source_positions,
        config.d_model,
        config.encoder_attention_heads,
        config.encoder_layers,
        config.max_target_positions,
        config.d_model,
        config.decoder_attention_heads,
        config.decoder_layers,
        config.num_mel_bins,
        FLOAT16,
    )


def mel_filters(extractor: WhisperFeatureExtractor) -> np.ndarray:
    """From bins of the Fourier transform to bins of the spectrogram: float32 `(mel bins, 201)`."""
    return np.ascontiguousarray(np.asarray(extractor.mel_filters, dtype="<f4").T)


def text_tokens(tokenizer: PreTrainedTokenizerBase) -> list[bytes]:
    """The tokens of text in the order of their ids, as the bytes that they stand for."""
    byte_of = {sign: value for value, sign in signs_of_bytes().items()}
    vocabulary, _ = text_vocabulary(tokenizer)
    return [bytes(byte_of[sign] for sign in token) for token in vocabulary]


def signs_of_bytes() -> dict[int, str]:
    """GPT-2's printable sign for each byte: itself where it is one, else the next of those from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(256) if value not in printable]
    return {value: chr(value) for value in printable} | {value: chr(256 + n) for n, value in enumerate(others)}


def tensors(model: WhisperForConditionalGeneration) -> Iterator[tuple[str, np.ndarray]]:
    """Name and values of every tensor, in the type that it is stored in."""
    for key, tensor in model.state_dict().items():
        # The embedding of the tokens, once more.
        if key == "proj_out.weight":
            continue
        name = key
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        values = tensor.detach().float()
        if re.fullmatch(r"encoder\.conv[12]\.bias", name):
            # To be added to `(channels, frames)`.
            values = values.unsqueeze(1)
        if not FLOAT32_TENSORS.fullmatch(name):
            values = values.half()
        if not torch.isfinite(values).all():
            raise ValueError(f"Expected weights that are finite in float16 for whisper.cpp, {key} is not.")
        yield name, values.numpy()


def _write_tensor(file: BinaryIO, name: str, values: np.ndarray) -> None:
    encoded = name.encode()
    kind = FLOAT16 if values.dtype == np.float16 else FLOAT32
    file.write(struct.pack("<3i", values.ndim, len(encoded), kind))
    file.write(struct.pack(f"<{values.ndim}i", *reversed(values.shape)))
    file.write(encoded)
    file.write(np.ascontiguousarray(values).tobytes())
