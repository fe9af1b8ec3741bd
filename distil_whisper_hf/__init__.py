"""Language experts for Whisper: add a language without harming the others."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    AutoTokenizer,
    WhisperFeatureExtractor,
    WhisperProcessor,
    WhisperTokenizer,
)

from .configuration_distil_whisper import DistilWhisperConfig
from .modeling_distil_whisper import DistilWhisperForConditionalGeneration, DistilWhisperModel
from .moved import install_old_paths
from .pipeline_distil_whisper import DistilWhisperASRPipeline
from .untrusted_files import ExpertFileError

__version__ = "0.2.0"

__all__ = [
    "DistilWhisperASRPipeline",
    "DistilWhisperConfig",
    "DistilWhisperForConditionalGeneration",
    "DistilWhisperModel",
    "ExpertFileError",
]

# exist_ok: a reload of this module registers its new classes in place of the old ones.
AutoConfig.register("distilwhisper", DistilWhisperConfig, exist_ok=True)
AutoModel.register(DistilWhisperConfig, DistilWhisperModel, exist_ok=True)
AutoModelForSpeechSeq2Seq.register(DistilWhisperConfig, DistilWhisperForConditionalGeneration, exist_ok=True)
AutoTokenizer.register(DistilWhisperConfig, WhisperTokenizer, exist_ok=True)
AutoFeatureExtractor.register(DistilWhisperConfig, WhisperFeatureExtractor, exist_ok=True)
AutoProcessor.register(DistilWhisperConfig, WhisperProcessor, exist_ok=True)

install_old_paths()
