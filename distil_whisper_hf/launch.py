"""Run an unmodified transformers script with the whole method.

    python -m distil_whisper_hf.launch run_speech_recognition_seq2seq.py --model_name_or_path openai/whisper-small \\
        --language catalan --teacher openai/whisper-large-v3 --distillation js --gate_budget 0.5 --expert_rank 16 ...

In this process only, before the script runs:

- `transformers.Seq2SeqTrainer` and `Seq2SeqTrainingArguments` are ours (see `training.stock_script`): the
  flags of `distil-whisper train` about experts, gates, distillation and teacher are in the script's --help, and what it
  saves and pushes are experts;
- a Whisper that the script opens by AutoModelForSpeechSeq2Seq takes experts, and gets that of --language by itself;
- texts that begin with a language token ("<|ca|> bon dia") are prompted with that language, so one data set can hold
  several and each trains its own expert (see `tokenization_distil_whisper`).

Also under `torchrun -m distil_whisper_hf.launch SCRIPT` and `accelerate launch -m distil_whisper_hf.launch SCRIPT`.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import transformers
from transformers import AutoFeatureExtractor, AutoModelForSpeechSeq2Seq, AutoTokenizer, WhisperTokenizer

from .tokenization_distil_whisper import DistilWhisperTokenizer
from .training.stock_script import Script, ScriptArguments, ScriptTrainer, extractor_for, opened


def prepare() -> None:
    """Put what is ours in the place of what scripts import. Idempotent."""
    if transformers.Seq2SeqTrainer is ScriptTrainer:
        return
    transformers.Seq2SeqTrainer = ScriptTrainer  # type: ignore[misc,assignment]  # in its place, on purpose
    transformers.Seq2SeqTrainingArguments = ScriptArguments  # type: ignore[misc,assignment]  # likewise
    _replace(AutoTokenizer, _tokenizer)
    _replace(AutoFeatureExtractor, lambda stock, *args, **kwargs: extractor_for(stock(*args, **kwargs)))
    _replace(AutoModelForSpeechSeq2Seq, _model)


def _replace(auto: Any, ours: Callable[..., Any]) -> None:
    """Let an Auto class open things by `ours`, which is given the stock method first."""
    stock = auto.from_pretrained

    @wraps(stock)
    def from_pretrained(*args: Any, **kwargs: Any) -> Any:
        return ours(stock, *args, **kwargs)

    auto.from_pretrained = from_pretrained


def _tokenizer(stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    tokenizer = stock(*args, **kwargs)
    if type(tokenizer) is WhisperTokenizer:
        tokenizer.__class__ = DistilWhisperTokenizer
    if isinstance(tokenizer, DistilWhisperTokenizer):
        Script.tokenizer = tokenizer
    return tokenizer


def _model(stock: Callable[..., Any], source: str, *args: Any, **kwargs: Any) -> Any:
    found = None if args else opened(source, **kwargs)
    return stock(source, *args, **kwargs) if found is None else found


def main() -> str | None:
    """Run the script named first on the command line as if python had started it; returns what kept it from that."""
    if len(sys.argv) < 2 or not os.path.isfile(sys.argv[1]):
        got = sys.argv[1] if len(sys.argv) > 1 else "nothing"
        return f"Expected the path of a script, got {got}.\n{__doc__}"
    prepare()
    sys.argv = sys.argv[1:]
    # As python does: a script finds the modules beside it.
    sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
    runpy.run_path(sys.argv[0], run_name="__main__")
    return None


if __name__ == "__main__":
    sys.exit(main())
