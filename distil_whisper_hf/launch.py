"""Run an unmodified transformers script with language experts.

    python -m distil_whisper_hf.launch run_speech_recognition_seq2seq.py --model_name_or_path FOLDER ...

The script finds our classes through its Auto classes. FOLDER holds a model with experts (`add_expert`,
`save_pretrained`) and its processor. Beside the registration, and in this process only:

- texts that begin with a language token ("<|ca|> bon dia") are prompted with that language, so one data set can hold
  several and each trains its own expert (see `tokenization_distil_whisper`);
- the noise on the gates rises over the run, as the method asks (see `training.schedules`).
"""

from __future__ import annotations

import os
import runpy
import sys
from functools import wraps
from typing import Any, cast

from transformers import AutoTokenizer, TrainerCallback, WhisperTokenizer, trainer

from .modeling_distil_whisper import DistilWhisperForConditionalGeneration
from .tokenization_distil_whisper import DistilWhisperTokenizer
from .training.schedules import GateNoiseCallback


class _NoiseForOurModels(GateNoiseCallback):
    """The schedule, silent for models that have no gates."""

    def on_step_begin(self, *states: Any, model: Any, **kwargs: Any) -> None:
        if isinstance(model, DistilWhisperForConditionalGeneration):
            super().on_step_begin(*states, model=model, **kwargs)

    def on_train_end(self, *states: Any, model: Any, **kwargs: Any) -> None:
        if isinstance(model, DistilWhisperForConditionalGeneration):
            super().on_train_end(*states, model=model, **kwargs)


def prepare() -> None:
    """Let the scripts of this process read languages from texts, and let the gates' noise rise. Idempotent."""
    callbacks = cast(list[type[TrainerCallback]], trainer.DEFAULT_CALLBACKS)
    if _NoiseForOurModels in callbacks:
        return
    callbacks.append(_NoiseForOurModels)
    stock = AutoTokenizer.from_pretrained

    @wraps(stock)
    def from_pretrained(*args: Any, **kwargs: Any) -> Any:
        tokenizer = stock(*args, **kwargs)
        if type(tokenizer) is WhisperTokenizer:
            tokenizer.__class__ = DistilWhisperTokenizer
        return tokenizer

    AutoTokenizer.from_pretrained = from_pretrained  # type: ignore[method-assign]  # in its place, on purpose


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
