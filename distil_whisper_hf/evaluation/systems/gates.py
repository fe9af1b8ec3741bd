"""What the experts' gates decide, by layer and side, and which decisions quantisation flips."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ...data.audio import AudioError, read_audio
from ...data.clips import Clip
from ...data.labels import LabelBuilder
from .opening import System
from .outcomes import SAMPLING_RATE, WINDOW_SECONDS

# (expert, side, layer) -> one decision for each frame or token, True where the gate is open.
Decisions: TypeAlias = dict[tuple[str, str, int], NDArray[np.bool_]]


@dataclass(frozen=True)
class GateUse:
    """How often the gates of one layer are open, and how many of them another system decides differently.

    `opened` and `flipped` are in % of `decisions`, the frames of speech (encoder) or tokens (decoder); `flipped` is nan
    for the system that is compared with.
    """

    system: str
    expert: str
    side: str
    layer: int
    decisions: int
    opened: float
    flipped: float


@torch.inference_mode()
def record_decisions(system: System, clips: Sequence[Clip], texts: Mapping[str, str]) -> Decisions:
    """Decisions of all gates on clips whose language has an expert.

    Args:
        system: a DistilWhisper.
        clips: those without an expert, over 30 s, or unreadable are passed over.
        texts: by full id, the text that is fed to the decoder: the same for all systems that are compared.
    """
    labels = LabelBuilder(system.processor.tokenizer)
    found: dict[tuple[str, str, int], list[np.ndarray]] = {}
    for clip in clips:
        expert = _expert_of(system, clip)
        if expert is None or clip.full_id not in texts:
            continue
        try:
            samples = read_audio(clip.audio, sampling_rate=SAMPLING_RATE)
        except AudioError:
            continue
        inputs = system.processor.feature_extractor(samples, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        prompt = _prompt(system, labels, expert, texts[clip.full_id])
        output = system.model(
            inputs.input_features.to(system.device, system.dtype),
            decoder_input_ids=prompt,
            expert_ids=torch.tensor([system.model.expert_index(expert)], device=prompt.device),
            output_gate_values=True,
        )
        # Two feature frames of 10 ms each make one encoder frame; what follows the clip is padding.
        frames = math.ceil(len(samples) / SAMPLING_RATE * 50)
        for side, values, length in (
            ("encoder", output.encoder_gate_values, frames),
            ("decoder", output.decoder_gate_values, prompt.shape[1]),
        ):
            for layer, gate in enumerate(values):
                decided = gate[0, :length].float().cpu().numpy() > 0.5
                found.setdefault((expert, side, layer), []).append(decided)
    return {key: np.concatenate(parts) for key, parts in found.items()}


def open_shares(decisions: Decisions) -> dict[str, dict[str, list[float]]]:
    """Share of open gates in [0, 1]: expert -> "encoder" and "decoder" -> a share for each layer."""
    shares: dict[str, dict[str, list[float]]] = {}
    for (expert, side, _), decided in sorted(decisions.items()):
        sides = shares.setdefault(expert, {"encoder": [], "decoder": []})
        sides[side].append(float(decided.mean()))
    return shares


def gate_use(system: str, decisions: Decisions, compared_with: Decisions | None = None) -> list[GateUse]:
    """Shares of open and of flipped gates by expert, side and layer.

    Raises `ValueError` when the two systems were not asked the same.
    """
    rows = []
    for (expert, side, layer), decided in decisions.items():
        flipped = math.nan
        if compared_with is not None:
            before = compared_with.get((expert, side, layer), np.empty(0, dtype=bool))
            if before.shape != decided.shape:
                raise ValueError(
                    f"expected the same decisions of both systems, got {len(before)} and {len(decided)} in {side} "
                    f"layer {layer} of expert {expert}: record both on the same clips and texts"
                )
            flipped = 100 * float((before != decided).mean())
        rows.append(GateUse(system, expert, side, layer, len(decided), 100 * float(decided.mean()), flipped))
    return rows


def _expert_of(system: System, clip: Clip) -> str | None:
    if clip.task == "translate" or (clip.seconds or 0.0) > WINDOW_SECONDS:
        return None
    return clip.expert_name if clip.expert_name in system.expert_names else None


def _prompt(system: System, labels: LabelBuilder, expert: str, text: str) -> torch.Tensor:
    """Decoder input of one row: start, the expert's language, task, no timestamps, then the text."""
    language = system.model.config.language_experts[expert].get("language")
    # Whisper begins every text with a space; a name of its own is no language of the tokenizer.
    ids = labels(text, language=language) if language is not None else labels.without_language(text)
    tokens = [system.model.config.decoder_start_token_id, *ids[:-1]]
    return torch.tensor([tokens[: system.model.config.max_target_positions]], device=system.device)
