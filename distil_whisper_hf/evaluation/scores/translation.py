"""Translation quality: n-gram counts and BLEU, through sacrebleu.

Texts are compared as they are; sacrebleu's signature, printed with every figure, says how they were tokenised.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def ngram_counts(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[NDArray[np.int64], str]:
    """What BLEU is made of, by utterance, and sacrebleu's signature.

    Returns:
        counts: (utterances, 10): matched n-grams of four orders, possible ones of four orders, and the lengths of
            hypothesis and reference in tokens. Rows add up.
        signature: how texts were tokenised and counted.

    Raises:
        ValueError: lists of different lengths, or an empty corpus.
    """
    from sacrebleu.metrics import BLEU

    if len(references) != len(hypotheses) or not references:
        raise ValueError(f"expected as many hypotheses as references, got {len(hypotheses)} for {len(references)}")
    metric = BLEU()
    rows = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        score = metric.corpus_score([hypothesis], [[reference]])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.array(rows, dtype=np.int64), str(metric.get_signature())


def bleu(counts: NDArray[np.int64]) -> float:
    """Corpus BLEU, 0 to 100, of summed n-gram counts (10,); see `ngram_counts`."""
    from sacrebleu.metrics import BLEU

    row = counts.tolist()
    return float(BLEU.compute_bleu(row[:4], row[4:8], row[8], row[9], smooth_method="exp").score)
