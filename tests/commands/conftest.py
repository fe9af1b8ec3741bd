from pathlib import Path

import pytest
from models import save_whisper
from programs import short_processor, speech_folder

from distil_whisper_hf.cli import main


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = save_whisper(tmp_path_factory.mktemp("base"), max_source_positions=100)
    short_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def catalan(tmp_path_factory) -> Path:
    return speech_folder(tmp_path_factory.mktemp("speech") / "catalan", "ca")


@pytest.fixture
def refused(capsys):
    """Runs a program that must refuse its arguments: exit status 2, one sentence on stderr, which is returned."""

    def run(words):
        capsys.readouterr()
        assert main(words) == 2
        said = capsys.readouterr().err.strip()
        assert said and "Traceback" not in said and "\n" not in said, said
        return said

    return run
