"""Error rates for the Trainer: `compute_metrics` that reads each row's language from its label."""

from __future__ import annotations

import numpy as np
from transformers import EvalPrediction, WhisperTokenizer

from .metrics import aggregate, score_utterance
from .normalization import Normalizer, get_normalizer


class PredictionMetrics:
    """WER and CER of generated tokens, over all rows and for each language.

    Args:
        tokenizer: the model's; the language of a row is the first token of its label.
        normalizer: of both texts; None takes `get_normalizer()`'s default.

    Returns (when called):
        wer, cer, wer_<language>, cer_<language> in %, loops: number of hypotheses that repeat a phrase endlessly.
    """

    def __init__(self, tokenizer: WhisperTokenizer, *, normalizer: Normalizer | None = None) -> None:
        self.tokenizer = tokenizer
        self.normalizer = normalizer or get_normalizer()

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        labels = _without_padding(prediction.label_ids, self.tokenizer.pad_token_id)
        tokens = _without_padding(prediction.predictions, self.tokenizer.pad_token_id)
        references = self.tokenizer.batch_decode(labels, skip_special_tokens=True)
        hypotheses = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        languages = [token.strip("<|>") for token in self.tokenizer.convert_ids_to_tokens(labels[:, 0].tolist())]
        scores = [
            score_utterance(reference, hypothesis, normalizer=self.normalizer, utterance_id=str(row), language=language)
            for row, (reference, hypothesis, language) in enumerate(zip(references, hypotheses, languages, strict=True))
        ]
        found = {}
        for score in aggregate(scores, by=()):
            found |= {"wer": score.wer, "cer": score.cer, "loops": float(len(score.loops))}
        for score in aggregate(scores, by=("language",)):
            language = score.key["language"]
            found |= {f"wer_{language}": score.wer, f"cer_{language}": score.cer}
        return found


def _without_padding(ids: np.ndarray, pad_token_id: int) -> np.ndarray:
    return np.where(ids < 0, pad_token_id, ids)
