"""BLEU of a corpus with an interval over speakers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..scores.translation import bleu, ngram_counts
from .intervals import DEFAULT_RESAMPLING, TOO_FEW_CLUSTERS, Resampling

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
    counts, signature = ngram_counts(references, [hypothesis or "" for hypothesis in hypotheses])
    names = list(speakers or [None] * len(counts))
    by_speaker = None not in names and len(set(names)) >= TOO_FEW_CLUSTERS
    keys = names if by_speaker else list(range(len(counts)))
    clusters: dict[object, list[np.ndarray]] = {}
    for key, row in zip(keys, counts, strict=True):
        clusters.setdefault(key, []).append(row)
    sums = np.array([np.sum(rows, axis=0) for rows in clusters.values()])
    low = high = float("nan")
    if len(sums) >= TOO_FEW_CLUSTERS:
        drawn = rng.integers(len(sums), size=(min(resampling.resamples, _MOST_RESAMPLES), len(sums)))
        values = [bleu(sums[rows].sum(axis=0)) for rows in drawn]
        tails = (1 - resampling.level) / 2
        low, high = (float(value) for value in np.quantile(values, [tails, 1 - tails]))
    return BleuScore(
        bleu=bleu(sums.sum(axis=0)),
        low=low,
        high=high,
        level=resampling.level,
        unit="speaker" if by_speaker else "utterance",
        clusters=len(sums),
        utterances=len(counts),
        untranslated=sum(hypothesis is None for hypothesis in hypotheses),
        signature=signature,
    )
