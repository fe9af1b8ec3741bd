import os

# Before huggingface_hub is imported, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"
# Threads that wait sleep instead of spinning: on a busy machine they would take the time of those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# One thread here and in the programs that tests start, as tests run in several processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch
from models import save_whisper, with_experts
from transformers import WhisperForConditionalGeneration

torch.set_num_threads(1)


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


def _folder(variable: str) -> Path:
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set")
    return Path(os.environ[variable])


@pytest.fixture(scope="session")
def real_base() -> Path:
    """Folder of the real multilingual whisper-base."""
    return _folder("DISTIL_WHISPER_REAL_BASE")


@pytest.fixture(scope="session")
def real_speech() -> Path:
    """Folder of audio folders with real speech."""
    return _folder("DISTIL_WHISPER_REAL_SPEECH")


@pytest.fixture(scope="session", autouse=True)
def dataset_cache(tmp_path_factory) -> None:
    """Keeps what the datasets library writes out of the home folder."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    datasets.disable_progress_bars()


@pytest.fixture(scope="session")
def tokenizer():
    from tiny import tiny_tokenizer

    return tiny_tokenizer()
