"""Arguments of the trainers: those of Seq2SeqTrainingArguments with the paper's values, and what is ours."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, get_args

import torch
from transformers import Seq2SeqTrainingArguments, TrainingArguments

from ..cpu_precision import computing_dtype
from ..secret_tokens import without_tokens
from .losses import BudgetMode, Divergence

DISTILLATIONS = ("none", *get_args(Divergence))
_Arguments = TypeVar("_Arguments", bound=TrainingArguments)


def without_secrets(arguments: _Arguments) -> _Arguments:
    """A copy of the arguments to keep in a file: no token is in it, whatever field it stood in."""
    kept = copy.copy(arguments)
    values = {one.name: getattr(arguments, one.name) for one in fields(arguments)}
    secrets = {value for name, value in values.items() if name.endswith("_token") and isinstance(value, str) and value}
    for name, value in values.items():
        setattr(kept, name, None if name.endswith("_token") else _masked(value, secrets))
    return kept


def _masked(value: Any, secrets: set[str]) -> Any:
    if type(value) is str:
        return without_tokens(value, secrets)
    if type(value) in (list, tuple):
        return type(value)(_masked(one, secrets) for one in value)
    if type(value) is dict:
        return {key: _masked(one, secrets) for key, one in value.items()}
    return value


@dataclass
class SpeechTrainingArguments(Seq2SeqTrainingArguments):
    """What every training of a Whisper here shares. Defaults are those of "Multilingual DistilWhisper" (arXiv
    2311.01070): 10 epochs of batches of 16, AdamW with β2 0.98 and no weight decay, learning rate 1e-4 falling linearly
    after 10 % of warm-up, label smoothing 0.1. On a CPU that is slow in bfloat16, `bf16` becomes false with a warning.

    Raises:
        ValueError: a value out of its range; closed choices are listed.
    """

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of AdamW."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over the training clips."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Windows of 30 s on each device."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Steps of linear warm-up; below 1, a share of the whole run."}
    )
    adam_beta2: float = field(default=0.98, metadata={"help": "β2 of AdamW."})
    weight_decay: float = field(default=0.0, metadata={"help": "Weight decay of AdamW."})
    label_smoothing_factor: float = field(
        default=0.1, metadata={"help": "Label smoothing of the cross-entropy, 0 to below 1."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay false: rows carry their language, expert and length."}
    )

    def __post_init__(self) -> None:
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns must be false: the rows' language, expert and length are needed.")
        if not 0.0 <= self.label_smoothing_factor < 1.0:
            raise ValueError(
                f"label_smoothing_factor must be at least 0 and below 1, got {self.label_smoothing_factor}."
            )
        on_cpu = self.use_cpu or not torch.accelerator.is_available()
        for name in ("bf16", "bf16_full_eval"):
            if on_cpu and getattr(self, name):
                setattr(self, name, computing_dtype(torch.bfloat16, "cpu") == torch.bfloat16)
        super().__post_init__()


@dataclass
class DistilWhisperTrainingArguments(SpeechTrainingArguments):
    """Arguments of `DistilWhisperTrainer`: the loss `CE + gate_budget_weight · budget + distillation_weight · KD`, on
    anchors `anchor_weight · KL`, and the schedules of the gates.

    Raises:
        ValueError: a value out of its range; closed choices are listed.
    """

    distillation: str = field(
        default="js",
        metadata={
            "help": "Divergence between teacher and student: js (the paper's), kl (its appendix), or none, which needs "
            "no teacher (CLSR fine-tuning).",
            "choices": DISTILLATIONS,
        },
    )
    distillation_weight: float = field(default=2.0, metadata={"help": "Weight of the distillation, at least 0."})
    temperature: float = field(default=1.0, metadata={"help": "Temperature of both distributions, above 0."})
    anchor_weight: float = field(
        default=1.0, metadata={"help": "Weight of the divergence from Whisper on --anchor_data, at least 0."}
    )
    gate_budget: float = field(
        default=0.5, metadata={"help": "Share of frames and tokens that should take the expert, 0 to 1."}
    )
    gate_budget_weight: float = field(default=1.0, metadata={"help": "Weight of the distance from the budget."})
    gate_budget_mode: str = field(
        default="joint",
        metadata={
            "help": "joint: one mean over encoder frames and decoder tokens, as in the paper (nearly all frames); "
            "separate: the mean of each side is held to the budget.",
            "choices": get_args(BudgetMode),
        },
    )
    gate_budget_counts_padding: bool = field(
        default=True,
        metadata={"help": "Count the silence after a clip and the positions after its text, as in the paper."},
    )
    gate_noise: float = field(
        default=5.0, metadata={"help": "Noise on the gates' logits at the end of the run; it rises linearly from 0."}
    )
    skip_gate_probability: float | None = field(
        default=None,
        metadata={"help": "Probability that a layer leaves its experts out; by default that of the model (0.2)."},
    )
    average_last: int | None = field(
        default=None,
        metadata={"help": "End with the mean of this many last checkpoints, before interpolation and compression."},
    )
    for_export: bool = field(
        default=False,
        metadata={
            "help": "Keep every gate open, in training too: an expert that plain Whisper, PEFT, faster-whisper and "
            "whisper.cpp can have exactly (`distil-whisper export`), and that no token of its language is without. "
            "Budget 1, no noise, no skipped layers."
        },
    )
    # A number, or "auto".
    expert_interpolation: str = field(
        default="1.0",
        metadata={
            "help": "Share of the trained weights in what a run ends with, 0 to 1; the rest are the shared path's. "
            "Below 1 an expert trained on little speech of one kind holds better on other speech; auto chooses the "
            "share on the dev clips (see --dev_data)."
        },
    )
    compress_to: int | None = field(
        default=None,
        metadata={
            "help": "Rank to cut what a run ends with to, after interpolation: some megabytes in place of a hundred."
        },
    )
    # A layer that is skipped gives its expert no gradient, which DistributedDataParallel must be told to expect.
    ddp_find_unused_parameters: bool | None = field(
        default=True, metadata={"help": "Must stay true with several processes: skipped layers have no gradient."}
    )

    def __post_init__(self) -> None:
        for name, choices in (
            ("distillation", DISTILLATIONS),
            ("gate_budget_mode", get_args(BudgetMode)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        for name in ("distillation_weight", "anchor_weight", "gate_budget_weight", "gate_noise"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")
        if self.for_export:
            self.gate_budget, self.gate_noise, self.skip_gate_probability = 1.0, 0.0, 0.0
        if not self.temperature > 0.0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}.")
        # As records of runs have it, whatever it was given as.
        self.expert_interpolation = "auto" if self.interpolation is None else self.interpolation  # type: ignore[assignment]
        for name, value in (("gate_budget", self.gate_budget), ("expert_interpolation", self.interpolation)):
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be between 0 and 1, got {value}.")
        if self.average_last is not None:
            kept = self.average_last if self.save_total_limit is None else self.save_total_limit
            if self.average_last < 2 or self.save_strategy == "no" or kept < self.average_last:
                raise ValueError(
                    f"average_last must be at least 2 checkpoints, all of them saved and kept, got {self.average_last} "
                    f"with save_strategy {self.save_strategy!r} and save_total_limit {self.save_total_limit}."
                )
            if self.load_best_model_at_end:
                raise ValueError("Expected average_last or load_best_model_at_end, got both: a run ends with one.")
        if self.compress_to is not None and self.compress_to < 1:
            raise ValueError(f"compress_to must be a rank of at least 1, got {self.compress_to}.")
        if self.skip_gate_probability is not None and not 0.0 <= self.skip_gate_probability < 1.0:
            raise ValueError(f"skip_gate_probability must be at least 0 and below 1, got {self.skip_gate_probability}.")
        super().__post_init__()

    @property
    def interpolation(self) -> float | None:
        """`expert_interpolation` as a number; None for "auto"."""
        if self.expert_interpolation == "auto":
            return None
        try:
            return float(self.expert_interpolation)
        except ValueError as error:
            raise ValueError(
                f"expert_interpolation must be between 0 and 1, or auto, got {self.expert_interpolation!r}."
            ) from error

    def summary(self) -> dict[str, Any]:
        """What an expert's file says about its training: objective, schedule and sizes, nothing of the machine."""
        names = (
            "distillation",
            "distillation_weight",
            "temperature",
            "gate_budget",
            "gate_budget_weight",
            "gate_budget_mode",
            "gate_budget_counts_padding",
            "gate_noise",
            "label_smoothing_factor",
            "learning_rate",
            "gradient_accumulation_steps",
            "per_device_train_batch_size",
            "seed",
        )
        return {name: getattr(self, name) for name in names}
