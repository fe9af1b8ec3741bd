"""What two models are given to compare their logits, where no speech is at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration

FRAMES_PER_POSITION = 2
TEXT_TOKENS = 8


def sample_inputs(model: DistilWhisperForConditionalGeneration, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise for features `(1, mel bins, frames)`, and a prompt in the expert's language with some text."""
    import torch

    config = model.config
    generator = torch.Generator().manual_seed(0)
    frames = FRAMES_PER_POSITION * config.max_source_positions
    features = torch.randn(1, config.num_mel_bins, frames, generator=generator)
    text = torch.randint(config.eos_token_id, (TEXT_TOKENS,), generator=generator).tolist()
    language = config.language_experts[name]["language_token_id"]
    tokens = [config.decoder_start_token_id, language, config.task_token_ids["transcribe"], *text]
    return features, torch.tensor([tokens])
