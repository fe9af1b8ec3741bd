"""`distil-whisper evaluate`: every clip has its outcome in the report, and the report says what it must."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from models import randomize_expert, save_whisper
from tiny import tiny_processor

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.commands.evaluate import main

RATE = 16000
AUDIO = Path(__file__).parents[2] / "examples" / "audio"
ROWS = ("file_name", "text", "language", "speaker", "gender")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tiny DistilWhisper with an expert for Catalan, and its processor."""
    base = save_whisper(tmp_path_factory.mktemp("base"), max_source_positions=1500, encoder_layers=1, decoder_layers=2)
    model = DistilWhisperForConditionalGeneration.from_pretrained(base)
    model.add_expert("ca")
    randomize_expert(model, "ca", 0)
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def voice(seed, seconds=0.4, rate=RATE):
    times = np.arange(int(seconds * rate)) / rate
    pitch = 100 + 20 * seed
    return (0.2 * sum(np.sin(2 * np.pi * pitch * k * times) / k for k in range(1, 9))).astype(np.float32)


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    """Twelve good clips of as many speakers, and one of everything that can be wrong."""
    folder = tmp_path_factory.mktemp("speech")
    rows = []
    for index in range(12):
        soundfile.write(folder / f"{index}.wav", voice(index), RATE)
        rows.append((f"{index}.wav", f"bon dia {index}", "ca", f"s{index}", ("male", "female")[index % 2]))
    soundfile.write(folder / "silence.wav", np.zeros(RATE), RATE)
    soundfile.write(folder / "noise.wav", 0.1 * np.random.default_rng(0).standard_normal(RATE), RATE)
    soundfile.write(folder / "empty.wav", np.zeros(0), RATE)
    soundfile.write(folder / "eight.wav", np.stack([voice(3, rate=96_000)] * 8, axis=1), 96_000)
    soundfile.write(folder / "half.mp3", voice(4, 4.0), RATE)
    whole = (folder / "half.mp3").read_bytes()
    (folder / "half.mp3").write_bytes(whole[: len(whole) // 2])
    (folder / "text.wav").write_text("no audio at all")
    for name in ("missing", "silence", "noise", "empty", "eight", "text"):
        rows.append((f"{name}.wav", "bona nit", "ca", "", ""))
    rows.append(("half.mp3", "bona nit", "ca", "", ""))
    rows.append(("0.wav", "bona nit", "ca", "s0", "male"))
    rows.append(("1.wav", "…!", "ca", "s1", "female"))
    rows.append(("2.wav", "nuqneH", "tlh", "", ""))
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([ROWS, *rows])
    return folder


@pytest.fixture(scope="module")
def run(model, speech, tmp_path_factory) -> tuple[Path, list[str]]:
    """A finished evaluation, and its arguments."""
    output = tmp_path_factory.mktemp("runs") / "run"
    arguments = [
        "--systems", f"tiny={model}", "--precisions", "float32", "bfloat16", "--data", str(speech), "--output",
        str(output), "--batch-size", "4", "--max-new-tokens", "5", "--resamples", "200", "--no-cost", "--quiet",
    ]  # fmt: skip
    assert main(arguments) == 0
    return output, arguments


def section(report: str, title: str) -> str:
    return re.split(r"^## ", report.split(f"## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def test_every_bad_clip_has_a_named_outcome(run):
    """Prevents a clip from vanishing, or from ending the run."""
    output, _ = run
    problems = section((output / "report.md").read_text(encoding="utf-8"), "What was wrong with the data")
    named = {}
    for line in problems.splitlines():
        if line.startswith("| speech"):
            _, outcome, count, _, which = (cell.strip() for cell in line.strip("|").split("|"))
            named[outcome] = (named.get(outcome, (0, ""))[0] + int(count), which)
    assert {outcome: count for outcome, (count, _) in named.items()} == {
        "missing": 1, "silence": 1, "noise": 1, "no samples": 1, "unreadable": 2, "empty reference": 1,
        "language unknown to the model": 1, "duplicate id": 6, "same_audio_other_text": 2,
    }  # fmt: skip
    assert "missing.wav" in named["missing"][1] and "silence.wav" in named["silence"][1]
    assert "noise.wav" in named["noise"][1] and "empty.wav" in named["no samples"][1]
    assert "text.wav" in named["unreadable"][1] and "half.mp3" in named["unreadable"][1]
    assert "eight.wav" not in problems


def test_segments_and_bad_rows_of_one_table(model, tmp_path, capsys):
    """Prevents one hypothesis for all segments of a file, and a row of the table that nobody hears of again."""
    soundfile.write(tmp_path / "long.flac", np.concatenate([voice(index) for index in range(6)]), RATE)
    rows = [
        {"audio_filepath": "long.flac", "offset": 0.4 * n, "duration": 0.4, "text": f"bon dia {n}"} for n in range(6)
    ]
    rows += [{"audio_filepath": "", "text": "res"}, {"audio_filepath": "long.flac", "offset": 9, "text": "fora"}]
    (tmp_path / "m.json").write_text(json.dumps(rows))
    output = tmp_path / "out"
    words = ["--model", str(model), "--data", str(tmp_path / "m.json"), "--language", "ca", "--output_dir", str(output),
             "--max_new_tokens", "3", "--resamples", "200", "--no_cost", "--quiet"]  # fmt: skip
    assert main(words) == 0
    (path,) = (output / "hypotheses").iterdir()
    made = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len({one["id"] for one in made}) == len({one["digest"] for one in made}) == len(made) == 7
    assert sorted(one["audio_seconds"] for one in made) == [0.0] + [0.4] * 6
    assert main(words) == 0
    assert len(path.read_text(encoding="utf-8").splitlines()) == 7
    problems = section((output / "report.md").read_text(encoding="utf-8"), "What was wrong with the data")
    assert "row 7 of m.json (audio_filepath names no audio file" in problems and "lasts 2.40 s" in problems
    (rejected,) = [json.loads(line) for line in (output / "rejections.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (rejected["row"], rejected["reason"]) == (7, "bad_row")
    assert main([*words, "--max_rejected", "0.1"]) == 2
    assert "8 rows of" in (said := capsys.readouterr().err) and "1 were left out: 1 bad_row (row 7 of m.json" in said


def test_texts_and_files_are_judged_as_in_training(model, tmp_path, capsys):
    """Prevents scores against timestamps and entities, and a file cut short that passes for a whole one."""
    for name in ("a", "b", "c", "d", "e"):
        soundfile.write(tmp_path / f"{name}.wav", voice(ord(name)), RATE)
    whole = (tmp_path / "d.wav").read_bytes()
    (tmp_path / "d.wav").write_bytes(whole[: len(whole) // 2])
    texts = {
        "a": "bon &amp; dia",
        "b": "<|0.00|> bon dia<|0.40|>",
        "c": "hola",
        "d": "bona nit",
        "e": "bon dia \\u0000",
    }
    rows = [*texts.items(), ("c", "adeu")]
    lines = [f'{{"audio": "{name}.wav", "text": "{text}", "lang": "ca"}}\n' for name, text in rows]
    (tmp_path / "m.jsonl").write_text("".join(lines))
    words = ["--model", str(model), "--data", str(tmp_path / "m.jsonl"), "--output_dir", str(tmp_path / "out"),
             "--max_new_tokens", "3", "--resamples", "200", "--no_cost", "--quiet"]  # fmt: skip
    assert main([*words, "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "cannot be read: d.wav, Expected the whole of" in said and "(ca, 0.40 s): bon dia\n" in said
    assert main(words) == 0
    problems = section((tmp_path / "out" / "report.md").read_text(encoding="utf-8"), "What was wrong with the data")
    for reason in ("unreadable", "special_token", "damaged_text", "html_entities", "same_audio_other_text"):
        assert f"| m | {reason} | 1 |" in problems
    scores = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [score["id"] for score in scores] == ["m:a.wav", "m:c.wav", "m:d.wav", "m:c.wav#2"]


def test_nothing_else_is_lost(run):
    """Prevents good clips from being dropped together with bad ones."""
    output, _ = run
    scores = [json.loads(line) for line in (output / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(scores) == 2 * 22 and len({(score["system"], score["id"]) for score in scores}) == 44
    without = {score["id"].split(":")[1] for score in scores if score["hypothesis"] is None}
    assert without == {"missing.wav", "empty.wav", "half.mp3", "text.wav", "2.wav#2"}


def test_report_can_be_read_without_the_code(run):
    """Prevents figures without normaliser, unit of the bootstrap, warnings or the command that made them."""
    output, arguments = run
    report = (output / "report.md").read_text(encoding="utf-8")
    for title in ("Error rates", "Systems compared on the same clips", "Bias between groups of speakers", "Gates"):
        assert section(report, title).strip()
    for title in ("Error rates", "Systems compared on the same clips", "Bias between groups of speakers"):
        assert "Normaliser: “unicode”" in section(report, title)
    assert "| tiny bfloat16 |" in report and "[" in section(report, "Error rates")
    bias = section(report, "Bias between groups of speakers")
    assert "| male − female |" in bias or "| female − male |" in bias
    assert "Did quantisation widen the gaps?" in bias and "age: undeclared by all speakers" in bias
    assert re.search(r"only \d speakers", bias) and "12 speakers" not in bias
    command = section(report, "Command")
    assert "distil-whisper evaluate " in command and str(arguments[-3]) in command and "torch " in command
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", report)
    assert {Path(name).stem for name in pictures} == {"rates", "quantization", "gaps", "gates", "flips"}
    assert all((output / name).stat().st_size > 5000 for name in pictures)


def test_results_are_json_lines(run):
    """Prevents tables that only people can read, and nan in JSON, which others refuse."""
    output, _ = run
    text = (output / "results.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    kinds = {row["kind"] for row in rows}
    assert {"RateRow", "Comparison", "GapRow", "GapChangeRow", "GateUse"} <= kinds and "NaN" not in text
    catalan = [row for row in rows if row["kind"] == "RateRow" and row["language"] == "ca"]
    assert [row["precision"] for row in catalan] == ["float32", "bfloat16"]
    assert all(row["score"]["empty_references"] for row in catalan)


def test_the_same_hypotheses_give_the_same_report(run, monkeypatch):
    """Prevents a report that changes from one look to the next, and models opened for nothing."""
    output, arguments = run
    before = {path.name: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    monkeypatch.setattr("distil_whisper_hf.evaluation.systems.opening.open_system", lambda spec: 1 / 0)
    monkeypatch.setattr("distil_whisper_hf.evaluation.systems.hypotheses.open_system", lambda spec: 1 / 0)
    assert main(arguments) == 0
    assert {path.name: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_translation_is_scored_by_bleu(model, speech, tmp_path):
    """Prevents translations from being given a word error rate, and experts from being asked to translate."""
    recipe = {
        "systems": [{"model": str(model), "label": "tiny"}],
        "datasets": [{"path": str(speech), "task": "translate", "limit": 4, "where": {"language": "ca"}}],
        "output": str(tmp_path / "out"),
        "generation": {"max_new_tokens": 4},
        "resamples": 100,
        "measure_cost": False,
    }
    (tmp_path / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    assert main(["--recipe", str(tmp_path / "recipe.json"), "--quiet"]) == 0
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "## Translation into English" in report and "tok:13a" in report and "## Error rates" not in report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected systems, datasets in a recipe"),
        (["--systems", "x"], "expected datasets in a recipe"),
        (["--systems", "x", "--data", "y", "--precisions", "int8"], "bnb-int8"),
        (["--systems", "x", "x", "--data", "y"], "twice: set a label"),
        (["--systems", "x", "--data", "y", "--where", "suspect"], "COLUMN=VALUE"),
        (["--recipe", "nowhere.json"], "nowhere.json"),
        (["--systems", "x", "--data", "nowhere"], "'nowhere' does not exist"),
        (["--systems", "nothing/there", "--data", str(AUDIO)], "Expected a Whisper in 'nothing/there'"),
    ],
)
def test_unusable_arguments_are_refused_with_a_remedy(arguments, message, capsys):
    """Prevents a traceback, or an hour of work, from being the answer to a slip."""
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_shipped_recipes_parse():
    """Prevents a recipe that its program no longer reads."""
    from distil_whisper_hf.evaluation.recipes import read_recipe, recipe_from

    folder = Path(__file__).parents[2] / "examples" / "recipes"
    found = sorted(folder.glob("evaluate*.json"))
    assert found and all(recipe_from(read_recipe(path)).systems for path in found)
