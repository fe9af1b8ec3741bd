"""Error rates of the Trainer's predictions."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import SPECIAL_IDS, tiny_tokenizer
from transformers import EvalPrediction

from distil_whisper_hf.evaluation.scores.trainer_metrics import PredictionMetrics


def test_rates_are_of_each_language_and_of_all():
    """Silent: padding decoded as text, prompts counted as words, or one language's errors under another's name."""
    tokenizer = tiny_tokenizer()
    prompt = [SPECIAL_IDS["<|transcribe|>"], SPECIAL_IDS["<|notimestamps|>"]]
    end = SPECIAL_IDS["<|endoftext|>"]

    def label(language: str, text: str) -> list[int]:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        return [SPECIAL_IDS[f"<|{language}|>"], *prompt, *ids, end]

    labels = [label("ca", "u dos tres"), label("gl", "un dous"), label("gl", "tres")]
    said = [label("ca", "u dos tres"), label("gl", "un catro"), label("gl", "")]
    padded = [np.array([row + [-100] * (40 - len(row)) for row in rows]) for rows in (labels, said)]
    found = PredictionMetrics(tokenizer)(EvalPrediction(predictions=padded[1], label_ids=padded[0]))
    assert found["wer_ca"] == 0.0
    assert found["wer_gl"] == pytest.approx(100 * 2 / 3)
    assert found["wer"] == pytest.approx(100 * 2 / 6)
    assert found["loops"] == 0.0
    assert 0 < found["cer_gl"] <= 100
