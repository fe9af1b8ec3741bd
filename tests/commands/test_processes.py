"""Programs in two processes: what one does, shared, and written once."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from programs import TINY, speech_folder
from safetensors.torch import load_file

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.cli import main
from distil_whisper_hf.data.arguments import DataArguments
from distil_whisper_hf.data.corpus import stream_clips

ROOT = Path(__file__).parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
# Nothing is drawn, so that processes and accumulated batches see the same.
CALM = ["--expert_dropout", "0", "--gate_dropout", "0", "--gate_noise", "0", "--skip_gate_probability", "0"]


@pytest.fixture(scope="module")
def galician(tmp_path_factory) -> Path:
    return speech_folder(tmp_path_factory.mktemp("speech") / "galician", "gl", 10, hertz=210.0)


def in_two(words: list, *, program: str | None = None, status: int = 0, seconds: int = 300) -> str:
    """What a program prints in two processes; `program` is the source of another one than ours."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    own = ["-m", "distil_whisper_hf.cli"] if program is None else [program]
    ended = subprocess.run(
        [sys.executable, *TORCHRUN, *own, *map(str, words)],
        env=environment, capture_output=True, text=True, check=False, timeout=seconds,
    )  # fmt: skip
    assert (ended.returncode == 0) == (status == 0), ended.stdout[-1000:] + ended.stderr[-4000:]
    return ended.stdout


def losses(folder: Path) -> list[dict]:
    """What was logged of every step, from the last checkpoint."""
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


def learned(folder: Path, base: Path) -> dict[str, torch.Tensor]:
    """How far every weight of the experts went from Whisper's."""
    start = DistilWhisperForConditionalGeneration.from_pretrained(base)
    trained = DistilWhisperForConditionalGeneration.from_pretrained(folder)
    for name in trained.expert_names:
        start.add_expert(name)
    before = start.state_dict()
    return {key: value - before[key] for key, value in trained.state_dict().items() if ".language_experts." in key
            and ".fc" in key}  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_and_test_what_one_does(base, catalan, galician, tmp_path):
    """Silent: gradients averaged over the wrong number of tokens, an expert that only one process has rows of and that
    trains at half the rate, clips tested twice or by nobody, a deadlock in a log."""
    words = ["train", "--model", base, "--distillation", "js", "--teacher", "base", "--data", catalan, galician,
             "--where", "suspect=0", *TINY, *CALM, "--optim", "sgd", "--learning_rate", "0.1", "--warmup_steps", "0",
             "--max_steps", "4", "--save_strategy", "steps", "--save_steps", "4", "--test", "trained",
             "--test_batch_size", "2", "--gate_budget", "0.3", "--per_device_train_batch_size", "1"]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*map(str, words), "--gradient_accumulation_steps", "2", "--output_dir", str(one)]) == 0
    printed = in_two([*words, "--output_dir", two])
    assert len(losses(two)) == 4
    for ours, theirs in zip(losses(two), losses(one), strict=True):
        assert ours.keys() == theirs.keys() and {"loss_kd", "loss_gate"} <= ours.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    ours, theirs = learned(two, base), learned(one, base)
    for language in ("ca", "gl"):
        assert max(value.abs().max().item() for key, value in theirs.items() if f".{language}." in key) > 1e-4
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=0.02, atol=2e-6, msg=key)
    scores = [json.loads((folder / "scores.json").read_text()) for folder in (one, two)]
    assert scores[0]["transcripts"] == scores[1]["transcripts"]
    assert scores[0]["rows"] == scores[1]["rows"] and sorted(scores[1]["gates"]) == ["ca", "gl"]
    assert sum(row["clips"] for row in scores[1]["rows"]) == sum(len(c) for c in json.loads(
        (two / "splits.json").read_text())["test_sets"].values())  # fmt: skip
    assert printed.count("Normaliser: unicode") == printed.count("4 steps in") == 1


KILLED = """
import os, signal, sys, torch
from distil_whisper_hf.cli import main
step = torch.optim.SGD.step
def killing(self, *args, **kwargs):
    killing.steps += 1
    if killing.steps == 4 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *args, **kwargs)
killing.steps = 0
torch.optim.SGD.step = killing
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_worker_leaves_a_run_that_goes_on(base, catalan, tmp_path):
    """Silent: processes that wait for a dead one, a folder that stays locked, or a resumed run that ends elsewhere."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    words = ["train", "--model", base, "--distillation", "none", "--data", catalan, "--where", "suspect=0", *TINY,
             "--optim", "sgd", "--learning_rate", "0.1", "--max_steps", "6", "--save_strategy", "steps", "--save_steps",
             "2", "--test", "none", "--per_device_train_batch_size", "1"]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    started = time.monotonic()
    in_two([*words, "--output_dir", whole])
    ended = time.monotonic()
    in_two([*words, "--output_dir", killed], program=str(script), status=1)
    # Not after the half hour that gloo waits for a process that is gone, however slow the machine is.
    assert time.monotonic() - ended < 60 + 5 * (ended - started)
    assert not (killed / "expert.ca.safetensors").exists() and (killed / "checkpoint-2").is_dir()
    in_two([*words, "--output_dir", killed, "--resume"])
    assert (killed / "expert.ca.safetensors").read_bytes() == (whole / "expert.ca.safetensors").read_bytes()
    assert not list(killed.glob(".part-*"))


@pytest.mark.slow
def test_full_fine_tuning_in_two_processes(base, catalan, tmp_path):
    """Silent: a baseline that trains with other gradients than one process, or is saved by both."""
    words = ["baseline", "--method", "full", "--model", base, "--data", catalan, "--where", "suspect=0", *TINY,
             "--optim", "sgd", "--learning_rate", "0.1", "--warmup_steps", "0", "--test", "trained",
             "--per_device_train_batch_size", "1"]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*map(str, words), "--gradient_accumulation_steps", "2", "--output_dir", str(one)]) == 0
    in_two([*words, "--output_dir", two])
    ours, theirs = load_file(two / "model.safetensors"), load_file(one / "model.safetensors")
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=2e-6, msg=key)
    assert json.loads((two / "scores.json").read_text())["rows"]


@pytest.mark.slow
def test_a_teacher_is_asked_by_two_processes(base, catalan, tmp_path, capsys):
    """Silent: windows that no process asks for, found missing by the training."""
    words = ["--model", base, "--teacher", base, "--teacher_cache", tmp_path / "kept", "--distillation", "js", "--data",
             catalan, "--where", "suspect=0", *TINY, "--per_device_train_batch_size", "1"]  # fmt: skip
    printed = in_two(["teach", *words, "--output_dir", tmp_path / "out"])
    assert "were asked for" in printed and printed.count("were asked for") == 1
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*.safetensors")}
    assert main([*map(str, ["teach", *words, "--output_dir", tmp_path / "out"])]) == 0
    assert ": 0 were asked for" in capsys.readouterr().out
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*.safetensors")}


EVALUATION = """
import os, signal, sys
from distil_whisper_hf.cli import main
from distil_whisper_hf.evaluation.systems import hypotheses
append = hypotheses.HypothesisStore.append
def killing(self, batch):
    append(self, batch)
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
hypotheses.HypothesisStore.append = killing
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_processes_evaluate_every_clip_once(base, catalan, tmp_path, capsys):
    """Silent: clips that both transcribe or neither does, two reports over each other, work of a killed run lost."""
    words = ["evaluate", "--systems", f"tiny={base}", "--data", catalan, "--where", "suspect=0", "--max_new_tokens",
             "3", "--resamples", "100", "--no_cost", "--batch_size", "2"]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*map(str, words), "--quiet", "--output_dir", str(one)]) == 0
    script = tmp_path / "killed.py"
    script.write_text(EVALUATION)
    in_two([*words, "--output_dir", two], program=str(script), status=1)
    assert not (two / "report.md").exists()
    done = {path.name: path.read_bytes().count(b"\n") for path in (two / "hypotheses").iterdir()}
    assert sum(done.values()) >= 2 and any(name.endswith(".1.jsonl") for name in done)
    printed = in_two([*words, "--output_dir", two])
    assert printed.count("report.md") == 1
    (path,), (expected,) = ((folder / "hypotheses").iterdir() for folder in (two, one))
    ours, theirs = ([json.loads(line) for line in file.read_text().splitlines()] for file in (path, expected))
    by_clip = [{one["id"]: one["text"] for one in made} for made in (ours, theirs)]
    assert path.name == expected.name and len(ours) == len(theirs) == len(by_clip[0]) and by_clip[0] == by_clip[1]
    assert (two / "results.jsonl").read_bytes() == (one / "results.jsonl").read_bytes()


STREAMED = """
import json, os, sys
from pathlib import Path
from distil_whisper_hf.cli import main
from distil_whisper_hf.training import datasets
made = datasets.RowMaker.__call__
def recorded(self, clip):
    with open(Path(sys.argv[1]) / os.environ["RANK"], "a") as file:
        file.write(f"{clip.language} {clip.id}\\n")
    return made(self, clip)
datasets.RowMaker.__call__ = recorded
sys.exit(main(sys.argv[2:]))
"""


def parquet(folder: Path, target: Path, shards: int) -> Path:
    """The usable clips of a folder as a data set of several files."""
    from datasets import Audio, Dataset

    with open(folder / "metadata.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["text"].startswith("text")]
    target.mkdir()
    for number in range(shards):
        part = rows[number::shards]
        sounds = [{"path": row["file_name"], "bytes": (folder / row["file_name"]).read_bytes()} for row in part]
        table = Dataset.from_dict({"audio": sounds, "text": [row["text"] for row in part]})
        table.cast_column("audio", Audio(decode=False)).to_parquet(target / f"train-{number}.parquet")
    return target


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_a_stream_is_divided(catalan, galician, tmp_path, shards):
    """Silent: clips that two processes train on or that none does, and a process that hears one language alone."""
    hubs = [parquet(folder, tmp_path / f"hub-{folder.name}", shards) for folder in (catalan, galician)]
    arguments = DataArguments(data=[str(hub) for hub in hubs], language=["ca", "gl"], streaming=True)
    whole = list(stream_clips(arguments))
    parts = [list(stream_clips(arguments).for_process(index, 2)) for index in range(2)]
    for part in parts:
        assert [clip.language for clip in part] == ["ca", "gl"] * (len(part) // 2) and len(part) >= 4
    names = [[(clip.language, clip.id) for clip in part] for part in parts]
    assert len({*names[0], *names[1]}) == len(names[0]) + len(names[1]) <= len(whole)
    # The shorter stream ends each of them: what one language has more of is heard in the next epoch.
    assert len(whole) - len(names[0]) - len(names[1]) <= 4


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 2])
def test_a_stream_is_read_by_each_process_for_itself(base, catalan, galician, tmp_path, shards):
    """Silent: one process that decodes for all, clips that both train on, or a process with one language alone."""
    script, seen = tmp_path / "program.py", tmp_path / "seen"
    script.write_text(STREAMED)
    seen.mkdir()
    hubs = [parquet(folder, tmp_path / f"hub-{folder.name}", shards) for folder in (catalan, galician)]
    words = ["train", "--model", base, "--distillation", "none", "--data", *hubs, "--language", "ca", "gl",
             "--streaming", "--output_dir", tmp_path / "out", "--test", "none", *TINY,
             "--max_steps", "2"]  # fmt: skip
    in_two([seen, *words], program=str(script))
    by_process = [[line.split(" ", 1) for line in (seen / rank).read_text().splitlines()] for rank in "01"]
    for read in by_process:
        # What two steps take, and little more.
        assert 4 <= len(read) <= 6 and [language for language, _ in read[:4]] == ["ca", "gl", "ca", "gl"]
    assert not {tuple(one) for one in by_process[0]} & {tuple(one) for one in by_process[1]}
    assert sorted(path.name for path in (tmp_path / "out").glob("expert.*")) == [
        "expert.ca.safetensors", "expert.gl.safetensors",
    ]  # fmt: skip
