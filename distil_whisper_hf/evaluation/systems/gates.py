"""What the experts' gates decide, by layer and side, and which decisions quantisation flips."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ..utterances import SAMPLING_RATE, AudioUnreadable, Utterance
from .opening import System

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
def record_decisions(system: System, utterances: Sequence[Utterance], texts: Mapping[str, str]) -> Decisions:
    """Decisions of all gates on clips whose language has an expert.

    Args:
        system: a DistilWhisper.
        utterances: clips; those without an expert, over 30 s, or unreadable are passed over.
        texts: by full id, the text that is fed to the decoder: the same for all systems that are compared.
    """
    found: dict[tuple[str, str, int], list[np.ndarray]] = {}
    for utterance in utterances:
        expert = _expert_of(system, utterance)
        if expert is None or utterance.full_id not in texts:
            continue
        try:
            samples = utterance.audio()
        except AudioUnreadable:
            continue
        inputs = system.processor.feature_extractor(samples, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        prompt = _prompt(system, expert, texts[utterance.full_id])
        output = system.model(
            inputs.input_features.to(system.spec.device, system.dtype),
            decoder_input_ids=prompt,
            expert_ids=torch.tensor([system.expert_names.index(expert)], device=prompt.device),
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


def _expert_of(system: System, utterance: Utterance) -> str | None:
    if utterance.task == "translate" or (utterance.seconds or 0.0) > 30.0:
        return None
    name = utterance.expert or utterance.language
    return name if name in system.expert_names else None


def _prompt(system: System, expert: str, text: str) -> torch.Tensor:
    """Decoder input of one row: start, language, task, no timestamps, then the text."""
    config = system.model.generation_config
    language = system.model.config.language_experts[expert].get("language")
    tokens = [system.model.config.decoder_start_token_id]
    if language is not None:
        tokens.append(config.lang_to_id[f"<|{language}|>"])
    tokens += [config.task_to_id["transcribe"], config.no_timestamps_token_id]
    tokens += system.processor.tokenizer(" " + text, add_special_tokens=False).input_ids
    most = system.model.config.max_target_positions
    return torch.tensor([tokens[:most]], device=system.spec.device)
