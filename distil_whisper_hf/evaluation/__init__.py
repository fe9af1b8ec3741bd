"""Error rates of speech recognition, how certain they are, and whom they disadvantage."""

from .bias import BiasReport, GapChange, GroupGap, GroupRate, gap_changes, speaker_gaps
from .metrics import (
    CorpusScore,
    ErrorCounts,
    Repetition,
    UtteranceScore,
    aggregate,
    compression_ratio,
    primary_metric,
    score_utterance,
    scored_utterances,
)
from .normalization import Normalizer, get_normalizer, is_unspaced, language_code
from .resources import (
    ResourceTrend,
    SizeTrend,
    TrainingHours,
    resource_class,
    resource_gap,
    resource_trend,
    size_trend,
    size_trend_change,
    training_hours,
)
from .significance import PairedComparison, compare_systems, holm, pair_utterances, sign_flip_p_value
from .speakers import canonical_age, canonical_gender
from .uncertainty import Clusters, Interval, Resampling, error_arrays, make_clusters, paired_difference, rate_interval

__all__ = [
    "BiasReport",
    "Clusters",
    "CorpusScore",
    "ErrorCounts",
    "GapChange",
    "GroupGap",
    "GroupRate",
    "Interval",
    "Normalizer",
    "PairedComparison",
    "Repetition",
    "Resampling",
    "ResourceTrend",
    "SizeTrend",
    "TrainingHours",
    "UtteranceScore",
    "aggregate",
    "canonical_age",
    "canonical_gender",
    "compare_systems",
    "compression_ratio",
    "error_arrays",
    "gap_changes",
    "get_normalizer",
    "holm",
    "is_unspaced",
    "language_code",
    "make_clusters",
    "pair_utterances",
    "paired_difference",
    "primary_metric",
    "rate_interval",
    "resource_class",
    "resource_gap",
    "resource_trend",
    "score_utterance",
    "scored_utterances",
    "sign_flip_p_value",
    "size_trend",
    "size_trend_change",
    "speaker_gaps",
    "training_hours",
]
