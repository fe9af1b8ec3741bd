import os

# Before huggingface_hub is imported, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"
# Threads that wait sleep instead of spinning: on a busy machine they would take the time of those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pathlib import Path

import pytest
import torch
from models import save_whisper, with_experts
from transformers import WhisperForConditionalGeneration

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def whisper_folder(tmp_path_factory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="session")
def whisper(whisper_folder) -> WhisperForConditionalGeneration:
    return WhisperForConditionalGeneration.from_pretrained(whisper_folder).eval()


@pytest.fixture
def model(whisper_folder):
    """Experts ca, gl, sc (prompted as Italian) and ca-medical."""
    return with_experts(whisper_folder, "ca", "gl", "sc", "ca-medical")
