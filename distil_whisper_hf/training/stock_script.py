"""The trainer as transformers' own speech recognition script meets it, which knows nothing of experts or teachers.

Such a script opens a model by its name, hands over rows of features and labels alone, and calls a feature extractor the
trainer's processing class. What is missing is found here: the expert of the language that the script was told, a
processor, how long each clip is, and the features of a teacher that hears others than the student.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from transformers import (
    AutoConfig,
    AutoProcessor,
    BatchFeature,
    WhisperFeatureExtractor,
    WhisperProcessor,
    WhisperTokenizer,
)

from ..configuration_distil_whisper import DistilWhisperConfig
from ..languages import language_code
from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration
from .arguments import DISTILLATIONS, DistilWhisperTrainingArguments
from .expert_arguments import ExpertArguments, open_teacher
from .features import needs_own_features, sounding_frames
from .trainer import DistilWhisperTrainer


class Script:
    """What the script of this process has made so far, by what it was given in place of what it asked for.

    Attributes:
        arguments: as it parsed them, before it opens anything.
        tokenizer: that it opened.
    """

    arguments: ScriptArguments | None = None
    tokenizer: Any = None


@dataclass
class ScriptArguments(ExpertArguments, DistilWhisperTrainingArguments):
    """All flags of a training of experts, for a script that parses `Seq2SeqTrainingArguments`.

    Raises:
        ValueError: a distillation without a teacher, a teacher without one, or what the parents refuse.
    """

    distillation: str | None = field(  # type: ignore[assignment]  # None is filled in below
        default=None,
        metadata={
            "help": "Divergence between teacher and student: js (the paper's), kl (its appendix) or none (CLSR fine-"
            "tuning). By default js with a teacher, none without.",
            "choices": DISTILLATIONS,
        },
    )

    def __post_init__(self) -> None:
        self.distillation = self.distillation or ("none" if self.teacher is None else "js")
        if (self.teacher is None) != (self.distillation == "none"):
            raise ValueError(
                f"Expected --teacher exactly where there is a distillation, got --distillation {self.distillation} "
                f"with {self.teacher or 'no teacher'}."
            )
        super().__post_init__()
        if self.interpolation is None:
            raise ValueError(
                "Expected a number in --expert_interpolation, got auto, which `distil-whisper train` alone chooses: a "
                "script keeps its dev clips to itself."
            )
        Script.arguments = self


class TeachersFeatureExtractor(WhisperFeatureExtractor):
    """Features as the student hears a clip and, in the rows below, as the teacher does: 80 and 128 bins in one array.

    A script carries one array a clip; the trainer takes it apart. Saved, it is the student's own.

    Attributes:
        teacher: the teacher's extractor.
    """

    teacher: WhisperFeatureExtractor

    @classmethod
    def of(cls, student: WhisperFeatureExtractor, teacher: WhisperFeatureExtractor) -> TeachersFeatureExtractor:
        """The student's extractor with the teacher's beside it."""
        both = copy.copy(student)
        both.__class__ = cls
        cast(TeachersFeatureExtractor, both).teacher = teacher
        return cast(TeachersFeatureExtractor, both)

    @property
    def student(self) -> WhisperFeatureExtractor:
        return cast(WhisperFeatureExtractor, WhisperFeatureExtractor.from_dict(self.to_dict()))

    def __call__(self, raw_speech: Any, *, return_tensors: Any = None, **kwargs: Any) -> BatchFeature:  # type: ignore[override]
        """As WhisperFeatureExtractor's, with `(batch, bins of both, frames)`."""
        own = super().__call__(raw_speech, return_tensors="np", **kwargs)
        heard = self.teacher(raw_speech, return_tensors="np", **kwargs)
        own["input_features"] = np.concatenate([own["input_features"], heard["input_features"]], axis=1)
        return BatchFeature(dict(own), tensor_type=return_tensors)

    def to_dict(self) -> dict[str, Any]:
        held = super().to_dict()
        held.pop("teacher", None)
        return {**held, "feature_extractor_type": WhisperFeatureExtractor.__name__}


class ScriptTrainer(DistilWhisperTrainer):
    """DistilWhisperTrainer with the arguments that scripts give Seq2SeqTrainer.

    The expert of the language that the script was told (`model.generation_config.language`) is trained, and added if
    the model has none; without a language, all experts of the model are. After `model.freeze_encoder()` experts are in
    the decoder alone.

    Args:
        model: opened by the script through an Auto class.
        args: as the script parsed them.
        processing_class: processor, or feature extractor; the tokenizer is then the collator's, or the model's own.
        tokenizer: None takes the one that the script opened.
        kwargs: as for Seq2SeqTrainer.

    Raises:
        ValueError: a model that is no Whisper, or neither a language nor an expert.
    """

    args: ScriptArguments  # type: ignore[assignment]

    def __init__(
        self,
        model: DistilWhisperForConditionalGeneration,
        args: ScriptArguments,
        *,
        processing_class: Any = None,
        tokenizer: Any = None,
        data_collator: Any = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(model, DistilWhisperForConditionalGeneration):
            raise ValueError(
                f"Expected a Whisper that the script opened by AutoModelForSpeechSeq2Seq, got {type(model).__name__}."
            )
        processor = _processor(model, processing_class, tokenizer or Script.tokenizer, data_collator)
        names = _experts(model, args)
        # Transformers' wrapper of `to` hides from type checkers that it is a method.
        model = model.to(args.device)  # type: ignore[arg-type]
        super().__init__(
            model,
            args,
            processing_class=processor,
            data_collator=data_collator,
            teacher=open_teacher(args, model, processor),
            train_experts=names,
            **kwargs,
        )
        if model.encoder_is_frozen:
            model.freeze_encoder()

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A batch of a script with what ours has besides: length of each clip, the teacher's features."""
        prepared = super()._prepare_inputs(inputs)
        features = prepared["input_features"]
        own_features = self.teacher is not None and self.teacher.own_features
        if own_features and features.shape[1] > self._mel_bins:
            own, heard = features.split([self._mel_bins, features.shape[1] - self._mel_bins], dim=1)
            prepared = {**prepared, "input_features": own, "teacher_input_features": heard}
            features = own
        if "num_frames" not in prepared:
            prepared = {**prepared, "num_frames": sounding_frames(features)}
        return prepared

    @property
    def _mel_bins(self) -> int:
        return self._whisper().config.num_mel_bins


def opened(source: str, **kwargs: Any) -> DistilWhisperForConditionalGeneration | None:
    """The Whisper that a script asks its Auto class for, gated as its arguments say; None for another kind of model.

    Args:
        source: folder or Hub name.
        kwargs: of `from_pretrained`.
    """
    config = kwargs.pop("config", None)
    hub = {key: kwargs[key] for key in ("cache_dir", "revision", "token", "trust_remote_code") if key in kwargs}
    config = AutoConfig.from_pretrained(source, **hub) if config is None else config
    if config.model_type not in ("whisper", DistilWhisperConfig.model_type):
        return None
    kwargs.pop("trust_remote_code", None)
    settings = {} if Script.arguments is None else Script.arguments.settings
    return DistilWhisperForConditionalGeneration.from_pretrained(source, config=config, **settings, **kwargs)


def extractor_for(student: Any) -> Any:
    """The script's feature extractor, with the teacher's beside it where that hears otherwise."""
    teacher = None if Script.arguments is None else Script.arguments.teacher
    if teacher in (None, "base") or not isinstance(student, WhisperFeatureExtractor):
        return student
    theirs = WhisperFeatureExtractor.from_pretrained(teacher)
    return TeachersFeatureExtractor.of(student, theirs) if needs_own_features(student, theirs) else student


def _experts(model: DistilWhisperForConditionalGeneration, args: ScriptArguments) -> tuple[str, ...] | None:
    """The experts to train, made if needed; None for all that there are."""
    language = getattr(model.generation_config, "language", None)
    if language is None:
        if not model.expert_names:
            raise ValueError(
                "Expected a language or a model with experts to train, got neither: give the script --language "
                "catalan, or texts that begin with their language's token and a model with an expert of each."
            )
        return None
    name = language_code(language)
    if name not in model.expert_names:
        form = args.form
        sides = "decoder" if model.encoder_is_frozen else form.sides
        model.add_expert(name, sides=sides, rank=form.rank, targets=form.targets)
    return (name,)


def _processor(
    model: DistilWhisperForConditionalGeneration, given: Any, tokenizer: Any, collator: Any
) -> WhisperProcessor:
    """A processor from what the script has of one."""
    parts = [given, getattr(collator, "processor", None), collator]
    for part in parts:
        if isinstance(part, WhisperProcessor):
            given, tokenizer = part.feature_extractor, tokenizer or part.tokenizer
            break
    candidates = [tokenizer, *(getattr(part, "tokenizer", None) for part in parts), given]
    tokenizer = next((one for one in candidates if isinstance(one, WhisperTokenizer)), None)
    extractor = given if isinstance(given, WhisperFeatureExtractor) else None
    if isinstance(extractor, TeachersFeatureExtractor):
        extractor = extractor.student
    if tokenizer is not None and extractor is not None:
        return WhisperProcessor(extractor, tokenizer)
    own = AutoProcessor.from_pretrained(model.config.base_model_name_or_path or model.config.name_or_path)
    return WhisperProcessor(extractor or own.feature_extractor, tokenizer or own.tokenizer)
