"""`distil-whisper compare` on score files written by hand."""

from __future__ import annotations

import json

import pytest

from distil_whisper_hf.cli import main

CATALAN = ["bon dia a tothom", "una dues tres", "fins aviat"] * 4
ENGLISH = ["good day", "press one now"] * 3


def write_run(folder, label, catalan, english, *, base=False, gates=None, precision="float32"):
    folder.mkdir(parents=True)
    texts = {
        "calls": {"domain": "in", "ids": [f"c{i}" for i in range(12)], "languages": ["ca"] * 12, "references": CATALAN,
                  label: catalan},
        "prompts": {"domain": "out", "ids": [f"p{i}" for i in range(6)], "languages": ["en"] * 6,
                    "references": ENGLISH, label: english},
    }  # fmt: skip
    if base:
        texts["calls"]["whisper"], texts["prompts"]["whisper"] = ["bon dia"] * 12, list(ENGLISH)
    systems = ["whisper", label] if base else [label]
    run = {"command": f"distil-whisper train {label}", "rows": [{"system": name} for name in systems], "seconds": 50.0,
           "transcripts": texts, "steps": 10, "trained_parameters": 1234, "test_precision": precision}  # fmt: skip
    (folder / "scores.json").write_text(json.dumps({**run, **({"gates": gates} if gates else {})}))
    return folder


@pytest.fixture
def runs(tmp_path):
    gates = {"ca": {"encoder": [0.25, 0.5], "decoder": [0.0, 1.0, 0.125]}}
    expert = write_run(tmp_path / "ca-js", "experts-js", CATALAN, ENGLISH, base=True, gates=gates)
    full = write_run(tmp_path / "ca-full", "full", ["bon dia a tots"] * 12, ["good day", "press on now"] * 3)
    return expert, full


def rows_of(text: str) -> dict[tuple[str, str], list[str]]:
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return {(row[0], row[3]): row for row in cells}


def test_systems_stand_beside_each_other(runs, tmp_path, capsys):
    """Silent: a system under another's name, a rate of the wrong set, changes that nobody sees."""
    expert, full = runs
    about = tmp_path / "about.json"
    about.write_text('{"license": "cc-by-sa-3.0", "limits": ["One speaker."]}')
    words = ["compare", str(expert), str(full), "--reference", str(expert), "--about", str(about)]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == (tmp_path / "out" / "compared.md").read_text().strip()
    rows = rows_of(printed)
    assert rows["calls", "ca-js"][4].startswith("0.0 [0.0") and rows["calls", "ca-js"][2] == "in"
    # "bon dia a tots" for 9 reference words: 1, 4 and 4 errors.
    assert rows["calls", "ca-full"][4].startswith("100.0 [")
    # No clip above 100 %: 1, 3 and 2.
    assert rows["calls", "ca-full"][5] == "66.7"
    assert rows["calls", "ca-full"][9].startswith("+100.0 [")
    assert rows["prompts", "ca-full"][2] == "other language"
    # "press on now" for "press one now" in three of six: 3 of 15 words.
    assert rows["prompts", "ca-full"][10:] == ["3 of 6", "20.0"]
    assert rows["prompts", "ca-js"][10:] == ["0 of 6", "0.0"]
    assert "| ca-full | 1,234 | 10 | 5.0 |" in printed
    assert "| ca-js | decoder | 0 | 100 | 12 |" in printed and "| ca-js | encoder | 25 | 50 |  |" in printed
    assert (tmp_path / "out" / "gates.png").stat().st_size > 5000
    results = json.loads((expert / "results.ca.json").read_text())
    systems = {row["system"] for row in results["rows"]}
    assert systems == {"base", "expert", "ca-full"} and results["license"] == "cc-by-sa-3.0"
    assert all(row["command"] for row in results["rows"]) and results["gates"]["decoder"] == [0.0, 1.0, 0.125]


def test_runs_that_do_not_compare_are_refused(runs, tmp_path, refused):
    """Silent: rates of different clips or precisions in one table."""
    expert, _ = runs
    output = ["--output", str(tmp_path / "out")]
    other = write_run(tmp_path / "other", "lora", CATALAN, ENGLISH)
    scores = json.loads((other / "scores.json").read_text())
    scores["transcripts"]["calls"]["references"][0] = "bona nit"
    (other / "scores.json").write_text(json.dumps(scores))
    message = refused(["compare", str(expert), str(other), *output])
    assert "were not tested on the same clips of calls" in message
    half = write_run(tmp_path / "half", "lora", CATALAN, ENGLISH, precision="bfloat16")
    assert "different precisions" in refused(["compare", str(expert), str(half), *output])
    assert "Is the run over" in refused(["compare", str(tmp_path / "nothing"), *output])
    message = refused(["compare", str(expert), "--reference", "elsewhere", *output])
    assert "Expected --reference among the runs" in message
