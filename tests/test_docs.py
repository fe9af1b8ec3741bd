"""The pages of docs/ and what lies beside them: their code runs, their commands parse, their figures are up to date."""

import argparse
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from documents import PAGES, README, ROOT, blocks, commands, missing_lines, promised, run_blocks
from hub_client import Client
from hub_server import Hub
from models import save_whisper
from tiny import tiny_processor

EXAMPLES = ROOT / "examples" / "README.md"
FIGURES = ROOT / "docs" / "figures"
# Their blocks push and open by name: they run in a client of the tests' Hub.
WITH_HUB = ("publish.md",)
WITH_CODE = [page for page in PAGES if blocks(page, "python")]
PROGRAMS = [
    (str(page.relative_to(ROOT)), words)
    for page in (README, *PAGES, EXAMPLES, ROOT / "CONTRIBUTING.md")
    for words in commands(page)
    if words[0] == "distil-whisper" or (words[0] == "python" and words[1].startswith(("examples/", "benchmarks/")))
]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "model"
    save_whisper(folder, max_source_positions=1500, encoder_layers=1)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("page", [page for page in WITH_CODE if page.name not in WITH_HUB], ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_and_prints_what_it_says(page, model_folder, tmp_path, monkeypatch, capsys):
    """Silent: a page that describes an earlier version."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names = {"MODEL": str(model_folder)}
    run_blocks(page, names)
    expected = [line for block in blocks(page, "python") for line in promised(block)]
    printed = capsys.readouterr().out
    assert expected and missing_lines(printed, expected) == [], printed
    if page.stem == "train":
        assert (tmp_path / "runs" / "trainer" / "expert.ca.safetensors").is_file()
        assert names["trainer"].state.global_step == 1


@pytest.mark.parametrize("page", [page for page in WITH_CODE if page.name in WITH_HUB], ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_against_a_hub(page, model_folder, tmp_path):
    """Silent: pushing and opening by name described otherwise than they are."""
    expected = [line for block in blocks(page, "python") for line in promised(block)]
    capture = "import contextlib, io\nprinted = io.StringIO()\nMODEL = 'openai/tiny'\n"
    body = "".join(f"    {line}\n" for block in blocks(page, "python") for line in block.splitlines())
    code = f"{capture}with contextlib.redirect_stdout(printed):\n{body}result = printed.getvalue()"
    with Hub(tmp_path / "hub") as hub:
        hub.publish_folder("openai/tiny", model_folder)
        with Client(hub, tmp_path / "home") as run:
            printed = run(code)
    assert expected and missing_lines(printed, expected) == [], printed


class Parsed(Exception):
    """The command line of a program could be parsed; the program goes no further."""


@pytest.fixture
def parse_only(monkeypatch):
    """Programs stop behind their parser, which takes no shortened flags."""
    parse = argparse.ArgumentParser.parse_known_args

    def parse_and_stop(self, args=None, namespace=None):
        self.allow_abbrev = False
        _, unknown = parse(self, args, namespace)
        if unknown:
            self.error(f"unknown: {unknown}")
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_and_stop)
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("page", "words"), PROGRAMS, ids=[f"{page} {w[1]}" for page, w in PROGRAMS])
def test_commands_parse(page, words, parse_only, monkeypatch):
    """Silent: a command in the documentation with a flag that the program does not have."""
    monkeypatch.setattr(sys, "argv", words if words[0] != "python" else words[1:])
    with pytest.raises(Parsed):
        if words[0] == "python":
            # As python does: a program finds the modules beside it.
            monkeypatch.syspath_prepend(str((ROOT / words[1]).parent))
            runpy.run_path(str(ROOT / words[1]), run_name="__main__")
        from distil_whisper_hf.cli import main

        main(words[1:])


def test_the_check_of_commands_sees_a_wrong_flag(parse_only):
    """Silent: a check that accepts anything."""
    from distil_whisper_hf.cli import main

    for words in (["compare", "runs/a", "--output", "b", "--reverence", "c"], ["train", "--learning_rat", "1"]):
        assert main(words) == 2


def test_every_program_of_the_package_is_shown():
    """Silent: a command that exists and that no page mentions."""
    from distil_whisper_hf.cli import COMMANDS

    shown = {words[1] for _, words in PROGRAMS if words[0] == "distil-whisper"}
    assert set(COMMANDS) <= shown


def test_every_page_is_in_the_navigation():
    """Silent: a page that the site builds and nobody can reach."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert PAGES and [page.name for page in PAGES if f": {page.name}\n" not in navigation] == []


def test_the_layer_is_drawn_by_its_program():
    """Silent: a drawing that was changed by hand, or a program that was changed without drawing."""
    drawn = runpy.run_path(str(FIGURES / "layer.py"))["draw"]()
    assert (FIGURES / "layer.svg").read_text(encoding="utf-8") == drawn


def test_the_figure_of_results_has_todays_numbers():
    """Silent: a figure of earlier results, or numbers read out of the wrong column."""
    program = runpy.run_path(str(FIGURES / "results.py"))
    rates = program["read_rates"]((ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8"))
    assert rates["Whisper"] == [(84.2, 74.5)]
    assert rates["expert"] == [(50.7, 107.8), (63.0, 117.0), (60.3, 122.0)]
    assert rates["LoRA, interpolated 0.7"] == [(67.8, 65.2), (76.0, 59.6), (69.9, 64.5)]
    figure = (FIGURES / "results.svg").read_text(encoding="utf-8")
    described = re.search(r"<dc:description>(.*?)</dc:description>", figure, flags=re.DOTALL)[1]
    drawn = json.loads(described.replace("&quot;", '"'))
    assert {name: [tuple(pair) for pair in pairs] for name, pairs in drawn.items()} == rates


def test_a_table_without_its_seeds_is_refused():
    """Silent: a figure with one seed fewer than it says."""
    program = runpy.run_path(str(FIGURES / "results.py"))
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="full fine-tuning"):
        program["read_rates"](results.replace("| 67.8 / 63.8 | 76.7 / 63.8 | 65.8 / 66.7 |", "| 67.8 / 63.8 | | |"))


def test_every_example_and_recipe_is_in_the_table():
    """Silent: an example that nobody finds, or a row about one that is gone."""
    rows = [line for line in EXAMPLES.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    named = [re.match(r"\| `([^`]+)`", row)[1] for row in rows]
    there = {path.name for pattern in ("*.py", "*.sh") for path in (ROOT / "examples").glob(pattern)}
    there |= {f"recipes/{path.name}" for path in (ROOT / "examples" / "recipes").glob("*.json")}
    there |= {
        str(path.relative_to(ROOT / "examples")) for path in (ROOT / "examples").glob("*/*.py") if _has_main(path)
    }
    assert sorted(named) == sorted(there)
    assert {row.count(" | ") for row in rows} == {4}


def _has_main(path: Path) -> bool:
    return '__name__ == "__main__"' in path.read_text(encoding="utf-8")


def test_the_linter_before_a_commit_is_that_of_the_checks():
    """Silent: a commit that passes one version of the linter and fails another."""
    pinned = re.search(r'"ruff==([\d.]+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))[1]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"ruff==([\d.]+)", hooks)) == {pinned}


def test_the_citation_has_what_its_readers_need():
    """Silent: a citation file that tools refuse, or that cites no paper."""
    import yaml

    from distil_whisper_hf import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= citation.keys()
    assert citation["version"] == __version__
    (paper,) = citation["references"]
    assert "2311.01070" in json.dumps(paper) and paper["authors"][0]["family-names"] == "Ferraz"


def test_what_security_names_as_tested_is():
    """Silent: a promise that nothing keeps."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert named and [name for name in named if f"def {name}(" not in source] == []
