"""A curve of two methods, from a recipe to its page and figure, interrupted and gone on with."""

import json
from pathlib import Path

import matplotlib.image
import pytest
from programs import speech_folder

from distil_whisper_hf.cli import main
from distil_whisper_hf.commands import baseline, train
from distil_whisper_hf.commands.command_line import parse
from distil_whisper_hf.commands.curve import read_recipe

PROGRAMS = {
    "train": (train.RunArguments, train.DataArguments, train.ExpertArguments, train.DistilWhisperTrainingArguments),
    "baseline": (baseline.RunArguments, baseline.DataArguments, baseline.BaselineArguments,
                 baseline.SpeechTrainingArguments),
}  # fmt: skip

SHARED = {"per_device_train_batch_size": 2, "use_cpu": "true", "report_to": "none", "disable_tqdm": "true"}


@pytest.fixture(scope="module")
def recipe(base, catalan, tmp_path_factory):
    """A writer of recipes, each with what differs from the first."""
    folder = tmp_path_factory.mktemp("recipes")
    other, english = speech_folder(folder / "calls", "ca", 6), speech_folder(folder / "english", "en", 4)
    given = {
        "model": str(base),
        "pairs": [{
            "name": "ca", "data": str(catalan), "language": "ca", "test_data": str(other),
            "other_data": str(english), "other_language": "en", "flags": {"where": ["suspect=0"], "test_share": 0.3},
        }],
        "methods": [
            {"name": "full", "kind": "full", "learning_rate": 1e-3},
            {"name": "compact", "kind": "expert", "learning_rate": [1e-2], "flags": {"expert_rank": 2}},
        ],
        "reference": "full", "steps": 2, "seeds": [0], "weights": [0.5, 1.0], "flags": SHARED,
        "max_new_tokens": 5, "resamples": 100,
    }  # fmt: skip

    def write(name: str, **changes):
        path = folder / name
        path.write_text(json.dumps({**given, **changes}), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="module")
def curve(recipe, tmp_path_factory):
    """The folder of a curve, one of whose methods cannot run."""
    output = tmp_path_factory.mktemp("curve") / "out"
    wrong = {"name": "wrong", "kind": "expert", "learning_rate": 1e-3, "flags": {"expert_rank": 0}}
    methods = [*json.loads(recipe("first.json").read_text())["methods"], wrong]
    path = recipe("wrong.json", methods=methods)
    assert main(["curve", str(path), "--output_dir", str(output), "--jobs", "2", "--keep_runs"]) == 1
    return output


@pytest.mark.slow
def test_a_curve_has_every_point_page_and_figure(curve, recipe, capsys):
    """Silent: points that are missing or counted twice; a method's failure that takes the others with it."""
    points = [json.loads(line) for line in (curve / "points.jsonl").read_text().splitlines()]
    assert [(point["method"], point["weight"]) for point in points] == [
        ("whisper", 0.0), ("full", 0.5), ("full", 1.0), ("compact", 0.5), ("compact", 1.0),
    ]  # fmt: skip
    for point in points:
        assert [one["domain"] for one in point["sets"].values()] == ["in", "out", "other"]
        for one in point["sets"].values():
            assert len(one["clips"]) == len(one["errors"]) == len(one["words"]) > 0
    start, *_, compact = points
    assert compact["sets"]["english"]["texts"] == start["sets"]["english"]["texts"]
    assert "--expert_rank 2" in compact["command"] and "--learning_rate 0.01" in compact["command"]
    page = (curve / "curve.md").read_text()
    assert "## ca" in page and "| compact |" in page.replace("  ", " ")
    assert matplotlib.image.imread(curve / "curve.png").std() > 0.01
    trained = [json.loads(path.read_text()) for path in (curve / "runs").glob("*/splits.json")]
    assert len(trained) >= 2
    for splits in trained:
        for one in start["sets"].values():
            assert not set(splits["train"] + splits["dev"]) & set(one["clips"])
        assert set(splits["test"]) == set(start["sets"]["catalan"]["clips"])
    (log,) = [path.read_text() for path in (curve / "logs").glob("ca-wrong*")]
    assert "rank" in log


@pytest.mark.slow
def test_a_curve_goes_on_with_what_it_lacks(curve, recipe, capsys):
    """Silent: runs that are repeated, points of another recipe that are taken for this one's."""
    path = str(recipe("first.json"))
    files = {file: file.stat().st_mtime_ns for file in (curve / "points").iterdir()}
    assert len(files) == 3
    assert main(["curve", path, "--output_dir", str(curve)]) == 0
    assert {file: file.stat().st_mtime_ns for file in (curve / "points").iterdir()} == files
    capsys.readouterr()
    other = str(recipe("other.json", steps=3, weights=[1.0]))
    assert main(["curve", other, "--output_dir", str(curve), "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("to do: ") == 3 and "--max_steps 3" in printed and "done" not in printed


def test_the_example_is_made_of_flags_that_there_are():
    """Silent: a recipe whose first run fails after an hour of others."""
    runs = list(read_recipe(Path(__file__).parents[2] / "examples/recipes/curve.json").runs())
    assert len(runs) == 2 * (1 + 3 * (3 + 2 + 2 + 3 + 3 + 2)) == len({run.name for run in runs})
    for run in runs:
        name, *words = run.command(Path("out"))
        parsed = parse(PROGRAMS[name], words, program=f"distil-whisper {name}", description="")
        if run.method.startswith("compact"):
            assert parsed[2].expert_rank == 16


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reference": "lora"}, "reference among the methods"),
        ({"weights": [0.0]}, "weights above 0"),
        ({"methods": []}, "each method once"),
        ({"steps": []}, "Expected steps"),
        ({"speed": 1}, "speed unknown ones"),
        ({"methods": [{"name": "a", "kind": "soup", "learning_rate": 1}]}, "got 'soup'"),
        ({"pairs": [{"name": "ca"}]}, "without data"),
    ],
)
def test_a_recipe_says_what_is_wrong(recipe, refused, tmp_path, changes, said):
    path = recipe("refused.json", **changes)
    message = refused(["curve", str(path), "--output_dir", str(tmp_path / "out")])
    assert said in message and "refused.json" in message and not (tmp_path / "out").exists()
