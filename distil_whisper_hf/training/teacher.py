"""The larger Whisper that an expert learns from.

Any Whisper can teach whose windows are as long and whose vocabulary has all of the student's tokens: one of its own
kind, or large-v3 and turbo, which hear 128 mel bins and have one more language token. Everything is checked when a
teacher is made, not in the middle of a run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from transformers import (
    AutoProcessor,
    BitsAndBytesConfig,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)
from transformers.models.whisper.modeling_whisper import shift_tokens_right

from ..cpu_precision import computing_dtype
from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration
from .features import needs_own_features
from .vocabulary import map_vocabulary

Precision = Literal["float32", "bfloat16", "float16", "int8"]


class Teacher:
    """A frozen Whisper that says how likely each token of the student's vocabulary is.

    Args:
        model: a Whisper with its head, in any precision.
        processor: the teacher's own.
        student: the model that learns.
        student_processor: the student's.

    Attributes:
        name: where the teacher came from: its name on the Hub, or that of its folder.
        own_features: it needs features of its own: hand `RowMaker` its feature extractor.

    Raises:
        ValueError: windows, rates or vocabularies that do not fit, or a text window that is shorter than the student's;
            the message has both values.
    """

    def __init__(
        self,
        model: WhisperForConditionalGeneration,
        processor: WhisperProcessor,
        *,
        student: DistilWhisperForConditionalGeneration,
        student_processor: WhisperProcessor,
    ) -> None:
        self.own_features = needs_own_features(student_processor.feature_extractor, processor.feature_extractor)
        _check_sizes(model.config, processor, who="teacher")
        _check_sizes(student.config, student_processor, who="student")
        for name in ("max_source_positions", "max_target_positions"):
            if getattr(model.config, name) < getattr(student.config, name):
                raise ValueError(
                    f"The teacher's {name} must be at least the student's {getattr(student.config, name)}, got "
                    f"{getattr(model.config, name)}: take another teacher."
                )
        self.vocabulary = map_vocabulary(
            student_processor.tokenizer.get_vocab(),
            processor.tokenizer.get_vocab(),
            student_size=student.config.vocab_size,
            teacher_size=model.config.vocab_size,
        )
        source = cast(str, model.config.name_or_path)
        # It goes into the expert's file, which others read: a folder's place on this machine is none of their business.
        self.name = Path(source).name if os.path.isdir(source) else source
        self.processor = processor
        self.model = model.eval().requires_grad_(False)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        *,
        student: DistilWhisperForConditionalGeneration,
        student_processor: WhisperProcessor,
        precision: Precision = "float32",
        device: torch.device | str | None = None,
        **hub: Any,
    ) -> Teacher:
        """Open a teacher on the student's device.

        Args:
            source: folder or Hub repository of a plain Whisper.
            precision: of the teacher alone; "int8" needs bitsandbytes. On a CPU that is slow in bfloat16 it is float32.
            device: where it is put; None: where the student is.
            hub: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`.

        Raises:
            ValueError: an unknown precision, or a teacher that cannot teach this student.
        """
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}.")
        processor = AutoProcessor.from_pretrained(source, **hub)
        if precision == "int8":
            config = BitsAndBytesConfig(load_in_8bit=True)
            place: dict[str, Any] = {"quantization_config": config, "device_map": {"": student.device}}
            model = WhisperForConditionalGeneration.from_pretrained(source, **place, **hub)
        else:
            dtype = computing_dtype(getattr(torch, precision), student.device)
            model = WhisperForConditionalGeneration.from_pretrained(source, dtype=dtype, **hub)
            # Transformers' wrapper of `to` hides from type checkers that it is a method.
            model = model.to(device or student.device)  # type: ignore[arg-type]
        return cls(model, processor, student=student, student_processor=student_processor)

    @torch.no_grad()
    def __call__(self, input_features: Tensor, labels: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Logits for every label position.

        Args:
            input_features: `(batch, mel bins, frames)` as this teacher hears them.
            labels: `(batch, tokens)` ids of the student, -100 where there is no target.
            prompt: `(batch, tokens)` ids of the student that the decoder is given; None: the labels shifted to the
                right.

        Returns:
            `(batch, tokens, student vocabulary)` in the teacher's precision.
        """
        vocabulary = self.vocabulary.to(labels.device)
        if prompt is None:
            prompt = _shifted(vocabulary.teacher_ids(labels), self.model.config)
        else:
            prompt = vocabulary.teacher_ids(prompt)
        # Autocast of the student's training would compute a float32 teacher in another precision than it was given.
        with torch.autocast(labels.device.type, enabled=False):
            logits = self.model(input_features.to(self.model.dtype), decoder_input_ids=prompt, use_cache=False).logits
        return self.vocabulary.to(logits.device).student_logits(logits)


class BaseTeacher:
    """The student's own base as its teacher: the shared path, without a second copy of its weights.

    It keeps the expert near what Whisper already says, so it guards more than it teaches.

    Args:
        student: the model that learns.
    """

    own_features = False

    def __init__(self, student: DistilWhisperForConditionalGeneration) -> None:
        self.model = student
        self.name = "base"

    @torch.no_grad()
    def __call__(self, input_features: Tensor, labels: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Logits for every label position, `(batch, tokens, vocabulary)`; arguments as `Teacher`'s."""
        prompt = _shifted(labels, self.model.config) if prompt is None else prompt
        shared = labels.new_full((len(labels),), -1)
        was_training = self.model.training
        self.model.eval()
        logits = self.model(input_features, decoder_input_ids=prompt, expert_ids=shared, use_cache=False).logits
        self.model.train(was_training)
        return logits


def _shifted(labels: Tensor, config: WhisperConfig) -> Tensor:
    return shift_tokens_right(labels, cast(int, config.pad_token_id), config.decoder_start_token_id)


def _check_sizes(config: WhisperConfig, processor: WhisperProcessor, *, who: str) -> None:
    heard = processor.feature_extractor.feature_size
    if config.num_mel_bins != heard:
        raise ValueError(
            f"The {who} hears {config.num_mel_bins} mel bins and its feature extractor makes {heard}: load the "
            "processor that belongs to the model."
        )
