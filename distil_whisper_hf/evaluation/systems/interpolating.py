"""Trained systems taken part of the way back to the Whisper that they started from, whatever trained them."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel, WhisperForConditionalGeneration

from ...checkpoints import expert_filename
from ...modeling_distil_whisper import DistilWhisperForConditionalGeneration


@torch.no_grad()
def open_interpolated(run: Path, base: str, expert: str, weight: float) -> PreTrainedModel:
    """What a run trained, in float32: `(1 - weight) · base + weight · trained`, weight by weight.

    Args:
        run: output folder of `distil-whisper train` (an expert) or `baseline` (a whole model, or a LoRA adapter, which
            is merged).
        base: what it started from: folder or Hub name.
        expert: name of the expert, where it is one.
        weight: share of what was trained, in [0, 1].

    Raises:
        ValueError: a weight out of its range.
    """
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"Expected a weight between 0 and 1, got {weight}.")
    if (run / expert_filename(expert)).exists():
        ours = DistilWhisperForConditionalGeneration.from_pretrained(base, dtype="float32")
        ours.load_expert(expert, run)
        ours.interpolate_expert(expert, weight)
        return ours
    plain = WhisperForConditionalGeneration.from_pretrained(base, dtype="float32")
    shared = {name: tensor.clone() for name, tensor in plain.named_parameters()}
    if (run / "adapter_config.json").exists():
        from peft import PeftModel

        model = PeftModel.from_pretrained(plain, run).merge_and_unload()
    else:
        model = WhisperForConditionalGeneration.from_pretrained(run, dtype="float32")
    for name, tensor in model.named_parameters():
        tensor.lerp_(shared[name], 1.0 - weight)
    return model
