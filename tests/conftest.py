import os

# Before huggingface_hub is imported, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from models import save_whisper, with_experts  # noqa: E402
from transformers import WhisperForConditionalGeneration  # noqa: E402

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
