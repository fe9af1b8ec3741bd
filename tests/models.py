"""Tiny Whisper models, built in code. Numbers of layers on the two sides, batch sizes and experts all differ, so that a
swapped axis or index cannot pass."""

from pathlib import Path

import torch
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

from distil_whisper_hf import DistilWhisperForConditionalGeneration

START, TRANSLATE, TRANSCRIBE, START_OF_PREVIOUS, NO_TIMESTAMPS, END = 50258, 50358, 50359, 50361, 50363, 50257
LANGUAGE = {"en": 50259, "es": 50262, "ca": 50270, "it": 50274, "gl": 50319}
FRAMES = 60


def tiny_config(**changes) -> WhisperConfig:
    sizes = {
        "d_model": 64,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 96,
        "decoder_ffn_dim": 128,
        "max_source_positions": FRAMES // 2,
        "decoder_start_token_id": START,
        "bos_token_id": END,
        "eos_token_id": END,
        "pad_token_id": END,
        "init_std": 0.1,
    }
    return WhisperConfig(**{**sizes, **changes})


def generation_config() -> GenerationConfig:
    from distil_whisper_hf.configuration_distil_whisper import DistilWhisperConfig

    ids = DistilWhisperConfig(decoder_start_token_id=START).language_token_ids
    return GenerationConfig(
        alignment_heads=[[0, 1], [2, 3]],
        begin_suppress_tokens=[220, END],
        bos_token_id=END,
        decoder_start_token_id=START,
        eos_token_id=END,
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": token_id for code, token_id in ids.items()},
        max_initial_timestamp_index=50,
        max_length=448,
        no_timestamps_token_id=NO_TIMESTAMPS,
        pad_token_id=END,
        prev_sot_token_id=START_OF_PREVIOUS,
        return_timestamps=False,
        task="transcribe",
        task_to_id={"transcribe": TRANSCRIBE, "translate": TRANSLATE},
    )


def save_whisper(folder: Path, seed: int = 0, **changes) -> Path:
    """Save a plain tiny Whisper with random weights."""
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(tiny_config(**changes))
    model.generation_config = generation_config()
    model.save_pretrained(folder)
    return folder


def randomize_expert(model, name: str, seed: int) -> None:
    """Make an expert that differs from the shared path and opens its gates for about half of the tokens."""
    generator = torch.Generator().manual_seed(seed)
    for _, layer in model.expert_layers(name):
        expert = layer.language_experts[name]
        with torch.no_grad():
            for parameter in expert.parameters():
                parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))


def with_experts(folder: Path, *names: str, sides: str = "both", **arguments) -> DistilWhisperForConditionalGeneration:
    """The tiny model with randomised experts, in evaluation mode."""
    model = DistilWhisperForConditionalGeneration.from_pretrained(folder, **arguments)
    for seed, name in enumerate(names):
        language = "it" if name == "sc" else ("ca" if name == "ca-medical" else None)
        model.add_expert(name, language=language, sides=sides)
        randomize_expert(model, name, seed)
    return model.eval()


def features(batch: int, seed: int = 0, frames: int = FRAMES) -> torch.Tensor:
    return torch.randn(batch, 80, frames, generator=torch.Generator().manual_seed(seed))


def prompts(*languages: str, task: int = TRANSCRIBE, text: int = 5) -> torch.Tensor:
    """Decoder input: prompt and `text` arbitrary text tokens, one row per language."""
    rows = [
        [START, LANGUAGE[code], task, NO_TIMESTAMPS, *range(300 + row, 300 + row + text)]
        for row, code in enumerate(languages)
    ]
    return torch.tensor(rows)
