"""Translation quality: BLEU through sacrebleu, with an interval over speakers.

Texts are compared as they are; sacrebleu's signature, printed with every figure, says how they were tokenised.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..statistics.intervals import DEFAULT_RESAMPLING, TOO_FEW_CLUSTERS, Resampling

# More are of no use for percentiles, and each one is a BLEU of its own.
_MOST_RESAMPLES = 2000


@dataclass(frozen=True)
class BleuScore:
    """Corpus BLEU (0 to 100) with a percentile interval; `unit` is what was resampled."""

    bleu: float
    low: float
    high: float
    level: float
    unit: str
    clusters: int
    utterances: int
    untranslated: int
    signature: str


def bleu_score(
    references: Sequence[str],
    hypotheses: Sequence[str | None],
    *,
    rng: np.random.Generator,
    speakers: Sequence[str | None] | None = None,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> BleuScore:
    """BLEU of one corpus. A hypothesis of None, a clip that could not be translated, counts as an empty one.

    N-gram counts are added up over what is resampled: speakers where five or more are known, else utterances. Raises
    `ValueError` for lists of different lengths and for an empty corpus.
    """
    from sacrebleu.metrics import BLEU

    if len(references) != len(hypotheses) or not references:
        raise ValueError(f"expected as many hypotheses as references, got {len(hypotheses)} for {len(references)}")
    metric = BLEU()
    counts = [
        _counts(metric, hypothesis or "", reference)
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    names = list(speakers or [None] * len(counts))
    by_speaker = None not in names and len(set(names)) >= TOO_FEW_CLUSTERS
    keys = names if by_speaker else list(range(len(counts)))
    clusters: dict[object, list[np.ndarray]] = {}
    for key, row in zip(keys, counts, strict=True):
        clusters.setdefault(key, []).append(row)
    sums = np.array([np.sum(rows, axis=0) for rows in clusters.values()])
    resamples = min(resampling.resamples, _MOST_RESAMPLES)
    low = high = float("nan")
    if len(sums) >= TOO_FEW_CLUSTERS:
        drawn = rng.integers(len(sums), size=(resamples, len(sums)))
        values = [_bleu(sums[rows].sum(axis=0)) for rows in drawn]
        tails = (1 - resampling.level) / 2
        low, high = (float(value) for value in np.quantile(values, [tails, 1 - tails]))
    metric.corpus_score([hypothesis or "" for hypothesis in hypotheses], [list(references)])
    return BleuScore(
        bleu=_bleu(sums.sum(axis=0)),
        low=low,
        high=high,
        level=resampling.level,
        unit="speaker" if by_speaker else "utterance",
        clusters=len(sums),
        utterances=len(counts),
        untranslated=sum(hypothesis is None for hypothesis in hypotheses),
        signature=str(metric.get_signature()),
    )


def _counts(metric: object, hypothesis: str, reference: str) -> np.ndarray:
    """Matched and possible n-grams of four orders and the two lengths, (10,)."""
    score = metric.corpus_score([hypothesis], [[reference]])
    return np.array([*score.counts, *score.totals, score.sys_len, score.ref_len])


def _bleu(sums: np.ndarray) -> float:
    from sacrebleu.metrics import BLEU

    row = [int(value) for value in sums]
    return float(BLEU.compute_bleu(row[:4], row[4:8], row[8], row[9], smooth_method="exp").score)
