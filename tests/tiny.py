"""Whisper's tokenizer, feature extractor and generation settings, built in code: tests need no download.

The ids of all special tokens are the real ones of multilingual Whisper (tiny to large-v2); only the words are made up.
"""

from __future__ import annotations

from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import GenerationConfig, WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES

VOCAB_SIZE = 51865
TEXT_TOKENS = 50257
# <|yue|> came with large-v3.
LANGUAGE_CODES = tuple(code for code in LANGUAGES if code != "yue")
TASK_TOKENS = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
SPECIAL_TOKENS = tuple(f"<|{name}|>" for name in ("endoftext", "startoftranscript", *LANGUAGE_CODES, *TASK_TOKENS))
# Seconds 0.00 to 30.00, in steps of 0.02.
TIMESTAMP_TOKENS = tuple(f"<|{step * 0.02:.2f}|>" for step in range(1501))
SPECIAL_IDS = {token: TEXT_TOKENS + index for index, token in enumerate(SPECIAL_TOKENS)}


def tiny_tokenizer() -> WhisperTokenizer:
    """A tokenizer with 256 byte tokens, which encode any text, and made-up words: " w256" … " w50256"."""
    vocab = {character: index for index, character in enumerate(sorted(ByteLevel.alphabet()))}
    vocab |= {f"Ġw{index}": index for index in range(len(vocab), TEXT_TOKENS)}
    tokenizer = WhisperTokenizer(
        vocab=vocab, merges=[], pad_token="<|endoftext|>", extra_special_tokens=list(SPECIAL_TOKENS)
    )
    tokenizer.add_tokens([AddedToken(token, normalized=True) for token in TIMESTAMP_TOKENS])
    tokenizer.set_prefix_tokens()
    return tokenizer


def tiny_feature_extractor(mel_bins: int = 80) -> WhisperFeatureExtractor:
    """16 kHz, windows of 30 s, 100 frames per second, as in Whisper."""
    return WhisperFeatureExtractor(feature_size=mel_bins)


def tiny_processor(mel_bins: int = 80) -> WhisperProcessor:
    """Both of the above."""
    return WhisperProcessor(tiny_feature_extractor(mel_bins), tiny_tokenizer())


def tiny_generation_config(decoder_layers: int) -> GenerationConfig:
    """What Whisper's generation_config.json says, with one alignment head in each of the last two decoder layers."""
    return GenerationConfig(
        alignment_heads=[[decoder_layers - 2, 0], [decoder_layers - 1, 1]],
        begin_suppress_tokens=[220, SPECIAL_IDS["<|endoftext|>"]],
        bos_token_id=SPECIAL_IDS["<|endoftext|>"],
        decoder_start_token_id=SPECIAL_IDS["<|startoftranscript|>"],
        eos_token_id=SPECIAL_IDS["<|endoftext|>"],
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": SPECIAL_IDS[f"<|{code}|>"] for code in LANGUAGE_CODES},
        max_initial_timestamp_index=50,
        max_length=448,
        no_timestamps_token_id=SPECIAL_IDS["<|notimestamps|>"],
        pad_token_id=SPECIAL_IDS["<|endoftext|>"],
        prev_sot_token_id=SPECIAL_IDS["<|startofprev|>"],
        return_timestamps=False,
        task="transcribe",
        task_to_id={task: SPECIAL_IDS[f"<|{task}|>"] for task in ("transcribe", "translate")},
    )
