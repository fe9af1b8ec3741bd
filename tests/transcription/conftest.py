from pathlib import Path

import pytest
import torch
from models import generation_config, save_whisper, with_experts
from tiny import tiny_tokenizer
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperProcessor

# Windows of one second and a decoder of 32 tokens: long audio is short, and a prompt is soon too long.
SIZES = {"max_source_positions": 50, "max_target_positions": 32}


@pytest.fixture(scope="session")
def short_folder(tmp_path_factory) -> Path:
    folder = save_whisper(tmp_path_factory.mktemp("short"), **SIZES)
    processor = WhisperProcessor(WhisperFeatureExtractor(chunk_length=1), tiny_tokenizer())
    processor.save_pretrained(folder)
    config = generation_config()
    config.max_length = 32
    config.suppress_tokens = [1, 2, 300]
    config.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def plain(short_folder) -> WhisperForConditionalGeneration:
    return WhisperForConditionalGeneration.from_pretrained(short_folder).eval()


@pytest.fixture(scope="session")
def processor(short_folder) -> WhisperProcessor:
    return WhisperProcessor.from_pretrained(short_folder)


@pytest.fixture(scope="session")
def experts(short_folder):
    """A model with experts ca, gl, sc (prompted as Italian) and ca-medical."""
    return with_experts(short_folder, "ca", "gl", "sc", "ca-medical")


@pytest.fixture(scope="session")
def bare(short_folder):
    """The same without experts."""
    return with_experts(short_folder)


@pytest.fixture
def noise():
    """Noise of so many seconds, by a seed."""

    def make(seconds: float, seed: int):
        return 0.3 * torch.randn(round(16000 * seconds), generator=torch.Generator().manual_seed(seed)).numpy()

    return make
