"""What changes from step to step in training, as Trainer callbacks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState

from ..checkpoints import read_expert
from ..language_experts import LanguageExperts
from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration
from .averaging import average_experts
from .resuming import checkpoints

logger = logging.getLogger(__name__)


class GateNoiseCallback(TrainerCallback):
    """Raises α, the noise on the gates' logits, linearly from 0 to `maximum` over the run.

    The noise is what makes hard gates at evaluation a fair stand-in for the soft ones of training: it pushes logits
    away from zero. It is set on the model before every optimiser step and back to 0 when training ends.
    (arXiv 2311.01070, section 2.1; there `maximum` is 5.)
    """

    def __init__(self, maximum: float = 5.0) -> None:
        if maximum < 0:
            raise ValueError(f"Expected a `maximum` of at least 0, got {maximum}.")
        self.maximum = maximum

    def on_step_begin(
        self,
        args: Any,
        state: TrainerState,
        control: Any,
        *,
        model: DistilWhisperForConditionalGeneration,
        **kwargs: Any,
    ) -> None:
        model.gate_noise = self.maximum * state.global_step / state.max_steps

    def on_train_end(self, *states: Any, model: DistilWhisperForConditionalGeneration, **kwargs: Any) -> None:
        model.gate_noise = 0.0


class SkipGateCallback(TrainerCallback):
    """Sets the probability that a layer leaves its experts out, for one run; the model's own comes back at its end.

    A skipped layer takes the shared path for all tokens, which teaches the layers behind it to cope with either.
    (arXiv 2311.01070, section 2.1; there 0.2.)

    Args:
        probability: in [0, 1).
    """

    def __init__(self, probability: float) -> None:
        if not 0 <= probability < 1:
            raise ValueError(f"Expected a `probability` in [0, 1), got {probability}.")
        self.probability = probability

    def on_train_begin(self, *states: Any, model: DistilWhisperForConditionalGeneration, **kwargs: Any) -> None:
        _set_skip_probability(model, self.probability)

    def on_train_end(self, *states: Any, model: DistilWhisperForConditionalGeneration, **kwargs: Any) -> None:
        _set_skip_probability(model, model.config.skip_gate_probability)


class AverageCallback(TrainerCallback):
    """Puts the mean of the last checkpoints' experts in the place of what a training ends with (see `averaging`).

    Args:
        experts: their names.
        last: how many checkpoints; where there are fewer, all of them.
    """

    def __init__(self, experts: Sequence[str], last: int) -> None:
        self.experts = tuple(experts)
        self.last = last

    def on_train_end(
        self, args: Any, *states: Any, model: DistilWhisperForConditionalGeneration, **kwargs: Any
    ) -> None:
        folders = checkpoints(Path(args.output_dir))[: self.last]
        if len(folders) < self.last:
            logger.warning(
                "Expected %d checkpoints to average, found %d: save more often (--save_steps).",
                self.last,
                len(folders),
            )
        for name in self.experts if len(folders) > 1 else ():
            mean, _ = average_experts([read_expert(name, folder, model.config) for folder in folders])
            put_tensors(model, name, mean.tensors)


def put_tensors(model: DistilWhisperForConditionalGeneration, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write an expert's numbers, called as in its file, into the parameters that the model has for it."""
    for layer_name, layer in model.expert_layers(name):
        prefix = layer_name + "."
        own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        layer.language_experts[name].load_state_dict(own)


class InterpolationCallback(TrainerCallback):
    """Takes experts part of the way back to the shared path when training ends (see `model.interpolate_expert`).

    Checkpoints hold what was trained, so that a run that goes on from one ends as it would have.

    Args:
        experts: their names.
        weight: share of the trained weights, in [0, 1].
    """

    def __init__(self, experts: Sequence[str], weight: float) -> None:
        self.experts = tuple(experts)
        self.weight = weight

    def on_train_end(self, *states: Any, model: DistilWhisperForConditionalGeneration, **kwargs: Any) -> None:
        for name in self.experts:
            model.interpolate_expert(name, self.weight)


class CompressionCallback(TrainerCallback):
    """Cuts experts to a low rank when training ends (see `model.compress_expert`); checkpoints hold what was trained.

    Args:
        experts: their names.
        rank: at least 1.
    """

    def __init__(self, experts: Sequence[str], rank: int) -> None:
        self.experts = tuple(experts)
        self.rank = rank

    def on_train_end(self, *states: Any, model: DistilWhisperForConditionalGeneration, **kwargs: Any) -> None:
        for name in self.experts:
            model.compress_expert(name, rank=self.rank)


def _set_skip_probability(model: DistilWhisperForConditionalGeneration, probability: float) -> None:
    for module in model.modules():
        if isinstance(module, LanguageExperts):
            module.skip_probability = probability
