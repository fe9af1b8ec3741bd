"""A small vocabulary in Whisper's layout: text tokens, then its special tokens in their order, then timestamps."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import GenerationConfig, WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES

# The window of the models, in s.
WINDOW_S = 4
CODES = tuple(code for code in LANGUAGES if code != "yue")
TASKS = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
SPECIAL = tuple(f"<|{name}|>" for name in ("endoftext", "startoftranscript", *CODES, *TASKS))
TIMESTAMPS = tuple(f"<|{step * 0.02:.2f}|>" for step in range(WINDOW_S * 50 + 1))
# Positions of the decoder.
MOST_TOKENS = 128


def letter_processor(texts: Iterable[str]) -> WhisperProcessor:
    """A processor whose text tokens are letters.

    Byte-pair encoding like Whisper's, but merges go no further than one letter, or one letter and the space before it:
    a quarter of an hour of speech is too little to learn how pieces of words sound, and enough for letters.
    """
    vocab = {byte: index for index, byte in enumerate(sorted(ByteLevel.alphabet()))}
    letters = sorted({letter for text in texts for letter in text} - {" "})
    spelled = [_as_bytes(letter) for letter in letters]
    merges = [(pair[0], pair[1]) for pair in spelled if len(pair) == 2] + [("Ġ", letter) for letter in spelled]
    for first, second in merges:
        vocab[first + second] = len(vocab)
    tokenizer = WhisperTokenizer(
        vocab=vocab, merges=merges, pad_token="<|endoftext|>", extra_special_tokens=list(SPECIAL)
    )
    tokenizer.add_tokens([AddedToken(token, normalized=True) for token in TIMESTAMPS])
    tokenizer.set_prefix_tokens()
    return WhisperProcessor(WhisperFeatureExtractor(chunk_length=WINDOW_S), tokenizer)


def _as_bytes(letter: str) -> str:
    """A letter in the alphabet of byte-level encodings; two characters for a letter outside ASCII."""
    ((piece, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(letter)
    return piece


def make_generation_config(tokenizer: WhisperTokenizer, decoder_layers: int) -> GenerationConfig:
    """What `generate` needs to know about the vocabulary."""
    ids = tokenizer.get_vocab()
    return GenerationConfig(
        alignment_heads=[[decoder_layers - 1, 0], [decoder_layers - 1, 1]],
        begin_suppress_tokens=[ids["Ġ"], ids["<|endoftext|>"]],
        bos_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"],
        eos_token_id=ids["<|endoftext|>"],
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": ids[f"<|{code}|>"] for code in CODES},
        max_initial_timestamp_index=50,
        max_length=MOST_TOKENS,
        no_timestamps_token_id=ids["<|notimestamps|>"],
        pad_token_id=ids["<|endoftext|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        return_timestamps=False,
        task="transcribe",
        task_to_id={task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")},
    )
