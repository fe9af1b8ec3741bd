"""The README's code runs as it stands."""

import re
from pathlib import Path

import pytest
from models import save_whisper
from tiny import tiny_processor

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def model_folder(tmp_path) -> Path:
    folder = save_whisper(tmp_path / "model", max_source_positions=1500, encoder_layers=1, decoder_layers=2)
    tiny_processor().save_pretrained(folder)
    return folder


def test_the_code_runs_in_order(model_folder, tmp_path, monkeypatch, capsys):
    """Silent: a README that describes an earlier version."""
    (tmp_path / "examples").symlink_to(Path(__file__).parents[1] / "examples")
    monkeypatch.chdir(tmp_path)
    names = {"MODEL": str(model_folder)}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert printed.startswith("('es',)\n")
    assert "\n2\nexpert.es.safetensors ('es',)\n" in printed
    assert (tmp_path / "runs" / "trainer" / "expert.es.safetensors").is_file()
    assert names["trainer"].state.global_step == 1


def test_what_it_is_stands_before_line_40():
    """Silent: installation and first code pushed down by other things."""
    head = "\n".join(README.splitlines()[:40])
    assert (
        "make setup" in head
        and "make demo" in head
        and "pipeline(" in head
        and "```text" in README[: README.index("Which expert")]
    )


def test_named_files_exist():
    """Silent: a program that the README names and nobody can find."""
    root = Path(__file__).parents[1]
    for name in re.findall(r"`((?:examples|benchmarks)/[\w./]+)`", README):
        assert (root / name).exists(), name
