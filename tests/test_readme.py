"""The README's code runs as it stands, and its numbers are measured ones."""

import re

import pytest
from documents import README, ROOT, blocks, missing_lines, promised, run_blocks
from models import save_whisper
from tiny import tiny_processor

TEXT = README.read_text(encoding="utf-8")
RESULTS = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")


@pytest.fixture
def model_folder(tmp_path):
    folder = save_whisper(tmp_path / "model", max_source_positions=1500, encoder_layers=1, decoder_layers=2)
    tiny_processor().save_pretrained(folder)
    return folder


def test_the_code_runs_in_order(model_folder, tmp_path, monkeypatch, capsys):
    """Silent: a README that describes an earlier version."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    run_blocks(README, {"MODEL": str(model_folder)})
    printed = capsys.readouterr().out
    assert printed.startswith("('es',)\n")
    expected = [line for block in blocks(README, "python") for line in promised(block)]
    assert expected == ["expert.es.safetensors ('es',)"]
    assert missing_lines(printed, expected) == []


def test_what_it_is_stands_before_line_40():
    """Silent: installation and first code pushed down by other things."""
    head = "\n".join(TEXT.splitlines()[:40])
    assert (
        "make setup" in head
        and "make demo" in head
        and "pipeline(" in head
        and "```text" in TEXT[: TEXT.index("Which expert")]
    )


def test_it_stays_short():
    """Silent: a README that nobody reads to its end."""
    assert len(TEXT.splitlines()) <= 150


def test_named_files_exist():
    """Silent: a program, page or figure that the README names and nobody can find."""
    names = re.findall(r"`((?:examples|benchmarks|docs)/[\w./]+)`", TEXT)
    links = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in target]
    assert len(names) >= 3 and len(links) >= 10
    for name in [*names, *links]:
        assert (ROOT / name).exists(), name


def test_every_number_of_its_results_was_measured():
    """Silent: a figure in the README that benchmarks/RESULTS.md does not have, or has no more."""
    section = TEXT[TEXT.index("## What it gains") : TEXT.index("## Train")]
    numbers = set(re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", section))
    measured = set(re.findall(r"(?<![\w.])\d+\.\d+", RESULTS))
    assert len(numbers) > 30 and numbers <= measured, sorted(numbers - measured)
