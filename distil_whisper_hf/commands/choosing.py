"""How far a trained expert goes back to Whisper, chosen on dev clips: never on those that are tested."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..data.clips import Clip
from ..data.sampling import choose_clips
from ..evaluation.systems.hypotheses import GenerationSettings
from ..evaluation.systems.interpolating import open_interpolated
from ..evaluation.systems.opening import System
from .final_scores import score_system

if TYPE_CHECKING:
    from transformers import WhisperProcessor

    from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration

# Shares of the expert that are tried, the largest first: of two that are as good it stays.
WEIGHTS = (1.0, 0.85, 0.7, 0.5, 0.3)
# Of each domain.
MOST_CLIPS = 64


def choose_interpolation(
    model: DistilWhisperForConditionalGeneration,
    name: str,
    base: str,
    clips: Sequence[Clip],
    processor: WhisperProcessor,
    *,
    device: torch.device,
    dtype: torch.dtype,
    settings: GenerationSettings,
) -> tuple[float, dict[str, dict[str, float]]]:
    """The share of an expert with the lowest error rate on dev clips, the mean over their domains.

    Args:
        model: with the trained expert; it stays as it is.
        name: the expert.
        base: what it was trained on.
        clips: dev clips of the expert; those of another domain say so.
        processor: of the base.
        device, dtype: where and in what it is tested.
        settings: of generation.

    Returns:
        The share, and for each that was tried the error rate in % by domain, no clip counted above 100 %.

    Raises:
        ValueError: no dev clips of the expert.
    """
    sets = {
        domain: choose_clips([clip for clip in clips if (clip.domain == "out") == (domain == "out")], MOST_CLIPS)
        for domain in ("in", "out")
    }
    sets = {domain: found for domain, found in sets.items() if found}
    if not sets:
        raise ValueError(
            f"Expected dev clips of expert {name!r} to choose its interpolation on, got none: give --dev_data of "
            "another speaker or domain, or a --dev_share above 0."
        )
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model.save_expert(name, folder)
        for weight in WEIGHTS:
            opened = open_interpolated(Path(folder), base, name, weight)
            # Transformers' wrapper of `to` hides from type checkers that it is a method.
            system = System(f"{name} {weight:g}", opened.to(device, dtype).eval(), processor)  # type: ignore[arg-type,call-arg]
            rows, _ = score_system(system, sets, settings)
            found[f"{weight:g}"] = {row.dataset: round(row.wer_capped, 2) for row in rows}
    means = {weight: sum(rates.values()) / len(rates) for weight, rates in found.items()}
    return float(min(means, key=lambda weight: means[weight])), found
