import pytest

from distil_whisper_hf.cli import main


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
