"""Error rates of speech recognition, how certain they are, and whom they disadvantage."""

from .analysis import Analysis, analyse, score_all
from .bias import BiasReport, GapChange, GroupGap, GroupRate, gap_changes, speaker_gaps
from .hypotheses import GenerationSettings, Hypothesis, HypothesisStore, transcribe
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
from .numerals import spelling_normalizer
from .precision import PRECISIONS, convert
from .quantization import Cost, measure_costs
from .recipes import DatasetSpec, Recipe, recipe_from
from .report import Report, render
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
from .systems import System, SystemSpec, open_system
from .translation import BleuScore, bleu_score
from .uncertainty import Clusters, Interval, Resampling, error_arrays, make_clusters, paired_difference, rate_interval
from .utterances import AudioUnreadable, Utterance

__all__ = [
    "Analysis",
    "AudioUnreadable",
    "BiasReport",
    "BleuScore",
    "Clusters",
    "CorpusScore",
    "Cost",
    "DatasetSpec",
    "ErrorCounts",
    "GapChange",
    "GenerationSettings",
    "GroupGap",
    "GroupRate",
    "Hypothesis",
    "HypothesisStore",
    "Interval",
    "Normalizer",
    "PRECISIONS",
    "PairedComparison",
    "Recipe",
    "Repetition",
    "Report",
    "Resampling",
    "ResourceTrend",
    "SizeTrend",
    "System",
    "SystemSpec",
    "TrainingHours",
    "Utterance",
    "UtteranceScore",
    "aggregate",
    "analyse",
    "bleu_score",
    "canonical_age",
    "canonical_gender",
    "compare_systems",
    "compression_ratio",
    "convert",
    "error_arrays",
    "gap_changes",
    "get_normalizer",
    "holm",
    "is_unspaced",
    "language_code",
    "make_clusters",
    "measure_costs",
    "open_system",
    "pair_utterances",
    "paired_difference",
    "primary_metric",
    "rate_interval",
    "recipe_from",
    "render",
    "resource_class",
    "resource_gap",
    "resource_trend",
    "score_all",
    "score_utterance",
    "scored_utterances",
    "sign_flip_p_value",
    "size_trend",
    "size_trend_change",
    "speaker_gaps",
    "spelling_normalizer",
    "training_hours",
    "transcribe",
]
