from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


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
