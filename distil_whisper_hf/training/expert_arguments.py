"""The teacher, and what a new expert is: flags that every program has which trains experts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from transformers import WhisperProcessor

from ..expert_form import EXPERT_SIDES, EXPERT_TARGETS, ExpertForm
from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration
from .teacher import BaseTeacher, Precision, Teacher
from .teacher_cache import CachedTeacher


@dataclass
class ExpertArguments:
    """The teacher, and what a new expert is."""

    teacher: str | None = field(
        default=None,
        metadata={"help": "Whisper to learn from: folder, Hub name, or `base` for the student's own base."},
    )
    teacher_precision: str = field(
        default="float32",
        metadata={"help": "Of the teacher alone.", "choices": ("float32", "bfloat16", "float16", "int8")},
    )
    teacher_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder to keep what the teacher says, so that it is asked once for each window; `distil-whisper "
            "teach` fills it ahead."
        },
    )
    teacher_top: int = field(
        default=64, metadata={"help": "Likeliest tokens that are kept of each of the teacher's distributions."}
    )
    expert_sides: str = field(
        default="both",
        metadata={
            "help": "Where a new expert is: in both encoder and decoder, as in the paper, or in one of them, at about "
            "half the size. Encoder experts learn how a language sounds, decoder experts the training texts too.",
            "choices": tuple(EXPERT_SIDES),
        },
    )
    expert_rank: int | None = field(
        default=None,
        metadata={
            "help": "Make a new expert compact: products of this rank, added to Whisper's weights. None: a full one, a "
            "copy of its feed-forward networks."
        },
    )
    expert_targets: list[str] = field(
        default_factory=lambda: ["ffn"],
        metadata={
            "help": "What a compact expert changes: ffn, all (attention's projections too), or some of "
            f"{', '.join(EXPERT_TARGETS['all'])}."
        },
    )
    gate_estimator: str = field(
        default="soft",
        metadata={
            "help": "soft: the paper's gate; straight_through: hard in training as in evaluation, for short runs.",
            "choices": ("soft", "straight_through"),
        },
    )
    expert_dropout: float = field(default=0.3, metadata={"help": "Dropout on an expert's output."})
    gate_dropout: float = field(default=0.1, metadata={"help": "Dropout on a gate's input."})

    @property
    def form(self) -> ExpertForm:
        """What a new expert is made of."""
        only = self.expert_targets[0] if len(self.expert_targets) == 1 else self.expert_targets
        return ExpertForm(self.expert_sides, self.expert_rank, only)

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of the model's configuration that are said here."""
        return {name: getattr(self, name) for name in ("gate_estimator", "expert_dropout", "gate_dropout")}


def open_teacher(
    expert: ExpertArguments, model: DistilWhisperForConditionalGeneration, processor: WhisperProcessor
) -> Teacher | CachedTeacher | BaseTeacher | None:
    """The teacher that the arguments name, for this student; None for none."""
    if expert.teacher is None:
        if expert.teacher_cache is not None:
            raise ValueError("Expected --teacher with --teacher_cache, whose windows are known by their teacher.")
        return None
    if expert.teacher == "base":
        if expert.teacher_cache is not None:
            raise ValueError("Expected no --teacher_cache with --teacher base, whose answers are the student's own.")
        return BaseTeacher(model)
    precision = cast(Precision, expert.teacher_precision)
    cached = expert.teacher_cache is not None
    # Behind a cache it may never be asked: it stays out of the device's memory until it is.
    teacher = Teacher.from_pretrained(
        expert.teacher,
        student=model,
        student_processor=processor,
        precision=precision,
        device="cpu" if cached and precision != "int8" else None,
    )
    return CachedTeacher(teacher, cast(str, expert.teacher_cache), k=expert.teacher_top) if cached else teacher
