"""Error rates of speech recognition, how certain they are, and whom they disadvantage."""

from ..languages import is_unspaced, language_code, language_tag
from .recipes import DatasetSpec, Recipe, recipe_from
from .report.analysis import Analysis, analyse, score_all
from .report.document import Report, render
from .scores.metrics import (
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
from .scores.normalization import Normalizer, get_normalizer
from .scores.numerals import spelling_normalizer
from .scores.translation import BleuScore, bleu_score
from .statistics.intervals import (
    Clusters,
    Interval,
    Resampling,
    error_arrays,
    make_clusters,
    paired_difference,
    rate_interval,
)
from .statistics.language_gaps import (
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
from .statistics.paired import PairedComparison, compare_systems, holm, pair_utterances, sign_flip_p_value
from .statistics.speaker_gaps import BiasReport, GapChange, GroupGap, GroupRate, gap_changes, speaker_gaps
from .statistics.speakers import canonical_age, canonical_gender
from .systems.costs import Cost, measure_costs
from .systems.hypotheses import GenerationSettings, Hypothesis, HypothesisStore, transcribe
from .systems.opening import System, SystemSpec, open_system
from .systems.quantization import PRECISIONS, convert
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
    "language_tag",
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
