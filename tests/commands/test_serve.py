"""`distil-whisper serve`: what it starts with, and what it refuses before anything is opened."""

import pytest

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")

from distil_whisper_hf.cli import main  # noqa: E402
from distil_whisper_hf.commands import serve  # noqa: E402
from distil_whisper_hf.transcription import opening, server  # noqa: E402

MISTAKES = {
    "port": (["--port", "70000"], "port from 0 to 65535"),
    "time": (["--timeout", "0"], "--timeout above 0"),
    "key": (["--api_key", "schlüssel"], "printable ASCII"),
    "model": (["--model", "./none"], "does not exist"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_sentence(case, capsys):
    """Silent: a server that starts without what was asked for."""
    words, wanted = MISTAKES[case]
    assert main(["serve", "--model", "base", *words]) == 2
    assert wanted in capsys.readouterr().err


def test_flags_and_environment_reach_the_server(monkeypatch, capsys):
    """Silent: a server that anybody may use, since the key was in the environment."""
    made, opened = [], []

    class Model:
        expert_names = ("ca",)

    class Server:
        app = object()

        def __init__(self, model, processor, settings, **options):
            made.append((settings, options))

    monkeypatch.setattr(
        opening, "open_model", lambda *args, **options: (opened.append((args, options)), (Model(), 0))[1]
    )
    monkeypatch.setattr(server, "Server", Server)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self: made.append(self.config))
    monkeypatch.setenv(serve.API_KEY, "from-environment")
    words = ["--experts", "a", "b", "--port", "81", "--max_file_mb", "2", "--batch_size", "3", "--queue_size", "5"]
    assert main(["serve", "--model", "m", *words]) == 0
    (settings, options), config = made
    assert (settings.api_key, settings.admin_key, settings.most_bytes) == ("from-environment", None, 2 << 20)
    assert options == {"batch_size": 3, "most_waiting": 5} and (config.host, config.port) == ("127.0.0.1", 81)
    assert opened == [(("m", ["a", "b"]), {"device": "auto", "dtype": "auto"})]
    printed = capsys.readouterr().out
    assert printed == "Serving base, base:ca.\n" and "from-environment" not in repr(settings)
