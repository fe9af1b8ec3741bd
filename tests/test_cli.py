"""The console command: what it lists, what it runs, what it refuses."""

import importlib

import pytest

from distil_whisper_hf import __version__, cli


def test_help_lists_every_command(capsys):
    """Prevents a command that nobody can find."""
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed and command.purpose in printed for name, command in cli.COMMANDS.items())


def test_unknown_and_missing_commands_are_refused(capsys):
    """Prevents a mistyped command from passing as success."""
    assert cli.main(["trian"]) == 2
    assert "'trian': is it train?" in capsys.readouterr().err
    assert cli.main(["xyzzy"]) == 2
    assert "expected one of average, baseline" in capsys.readouterr().err
    assert cli.main(["help", "trian"]) == 2
    assert cli.main([]) == 2
    assert cli.main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_program(name):
    """Prevents a command whose module was renamed."""
    module = importlib.import_module(f"distil_whisper_hf.commands.{cli.COMMANDS[name].module}")
    assert callable(module.main) and module.__doc__


def test_a_missing_library_is_named_with_its_remedy(monkeypatch, capsys):
    """Prevents a traceback of imports as the first thing that a new user sees."""

    def without_peft(name):
        raise ModuleNotFoundError("No module named 'peft'", name="peft")

    monkeypatch.setattr(cli, "import_module", without_peft)
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["torch>=2", "peft<1,>=0.20; extra == 'train'"])
    assert cli.main(["train", "--help"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("distil-whisper train: ") and 'pip install "distil_whisper_hf[train]"' in said
