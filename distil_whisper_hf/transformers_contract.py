"""Which transformers this package stands on: the versions, and the names that it overrides or calls in them.

Whisper is extended by its methods, some of which are not public. Each of these is listed here, with the class that has
it, so that a version without one is named when the package is imported, not in the middle of a run.
tests/test_transformers_contract.py checks the list on the installed version, and holds that of Trainer, which no model
needs.
"""

from __future__ import annotations

import re
from typing import Any

import transformers
from transformers import AutomaticSpeechRecognitionPipeline, GenerationMixin, PreTrainedModel
from transformers.models.whisper import configuration_whisper, generation_whisper, modeling_whisper
from transformers.pipelines import automatic_speech_recognition

OLDEST, BELOW = (5, 17), (6, 0)
# (major, minor) of what is installed.
TRANSFORMERS_VERSION = tuple(int(part) for part in re.findall(r"\d+", transformers.__version__)[:2])
# What forward methods and their outputs call the cache of attention.
CACHE_NAME = "cache" if TRANSFORMERS_VERSION >= (5, 24) else "past_key_values"

# Overridden or called beyond what transformers documents, by the class or module that has it.
NAMES: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (
        GenerationMixin,
        (
            "_get_candidate_generator",
            "_prepare_decoder_input_ids_for_generation",
            "_prepare_model_inputs",
            "prepare_inputs_for_generation",
        ),
    ),
    (
        generation_whisper.WhisperGenerationMixin,
        ("_retrieve_init_tokens", "_setup_no_speech_detection", "detect_language"),
    ),
    (
        PreTrainedModel,
        ("_init_weights", "_set_gradient_checkpointing", "post_init"),
    ),
    (
        modeling_whisper,
        (
            "WhisperAttention",
            "WhisperDecoder",
            "WhisperDecoderLayer",
            "WhisperEncoder",
            "WhisperEncoderLayer",
            "WhisperPreTrainedModel",
            "shift_tokens_right",
            "sinusoids",
        ),
    ),
    (configuration_whisper, ("NON_SPEECH_TOKENS", "NON_SPEECH_TOKENS_MULTI")),
    (modeling_whisper.WhisperModel, ("_mask_input_features",)),
    (
        AutomaticSpeechRecognitionPipeline,
        ("_sanitize_parameters", "get_iterator", "preprocess", "_forward", "postprocess"),
    ),
    (automatic_speech_recognition, ("httpx",)),
)


def check_transformers() -> None:
    """Refuse a version of transformers that this package cannot stand on.

    Raises:
        ImportError: too old, too new, or without a name that is needed; the message has the version and the remedy.
    """
    fits = f"transformers>={OLDEST[0]}.{OLDEST[1]},<{BELOW[0]}"
    remedy = f"Run `pip install '{fits}'`."
    if not OLDEST <= TRANSFORMERS_VERSION < BELOW:
        raise ImportError(f"Expected {fits} for distil_whisper_hf, found {transformers.__version__}. {remedy}")
    missing = [f"{owner.__name__}.{name}" for owner, names in NAMES for name in names if not hasattr(owner, name)]
    if missing:
        raise ImportError(
            f"Expected {missing[0]} in transformers, {transformers.__version__} has none: this version is not "
            f"supported yet. Run `pip install 'transformers<{transformers.__version__}'`."
        )
