"""A run's folder: what goes on, what is refused, and what a run that was killed leaves."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import kill_campaign
import pytest
import torch
from kill_campaign import Bench, evaluated, trained

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.cli import main
from distil_whisper_hf.commands.mistakes import guard
from distil_whisper_hf.commands.output_folders import locked
from distil_whisper_hf.data import atomic_files
from distil_whisper_hf.training import resuming


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def whole(bench):
    """A run to its end, and what it left."""
    folder = bench.folder / "whole"
    assert main(bench.training(folder)) == 0
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of that run, without what came after its last checkpoint."""
    shutil.copytree(whole, tmp_path / "run")
    for name in ("expert.ca.safetensors", "training.json", "scores.json"):
        (tmp_path / "run" / name).unlink()
    return tmp_path / "run"


@pytest.fixture
def said(capsys):
    """Runs a program that must refuse its arguments; returns its last line, after bars of progress."""

    def run(words: list[str]) -> str:
        assert main(words) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    return run


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_a_finished_run_is_left_as_it_is(bench, whole, capsys):
    before = contents(whole)
    assert main(bench.training(whole)) == 0
    printed = capsys.readouterr().out
    assert "was trained before, 7 steps" in printed and "was tested before" in printed
    assert contents(whole) == before


def test_a_run_goes_on_from_its_last_checkpoint(bench, whole, copy):
    """Silent: another order of the clips, or other random numbers, behind a checkpoint in the middle of an epoch."""
    assert main(bench.training(copy)) == 0
    assert trained(copy) == trained(whole)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(bench, whole, copy, caplog):
    last = copy / "checkpoint-7"
    path = last / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-7])
    assert main(bench.training(copy)) == 0
    assert "checkpoint-7 has another optimizer.pt than was written" in caplog.text
    assert trained(copy) == trained(whole)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_missing_state_is_an_error(bench, copy, name, said):
    """Silent: a run that goes on with a fresh optimiser or other random numbers."""
    (copy / "checkpoint-7" / name).unlink()
    assert f"Expected {name}" in said(bench.training(copy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--learning_rate", "3e-4"], "--learning_rate was"),
        (["--seed", "5"], "--seed was 42, is 5"),
        (["--expert_rank", "4"], "--expert_rank was null, is 4"),
        (["--where", "speaker=speaker1"], "training clips was 9 clips"),
    ],
)
def test_another_run_does_not_go_on(bench, copy, change, message, said):
    before = contents(copy)
    assert message in said([*bench.training(copy), *change])
    assert contents(copy) == before


def test_other_audio_is_another_run(bench, copy, tmp_path, said):
    """Silent: a file of the same name that says something else."""
    speech = tmp_path / "speech"
    shutil.copytree(bench.speech, speech)
    shutil.copy(speech / "clip3.wav", speech / "clip4.wav")
    words = [str(speech) if word == str(bench.speech) else word for word in bench.training(copy)]
    assert "training clips was 9 clips" in said(words)


def test_a_folder_with_a_run_is_only_used_when_that_is_said(bench, whole, copy, said):
    words = [word for word in bench.training(copy) if word != "--resume"]
    assert "go on with it (--resume), start anew in its place (--overwrite)" in said(words)
    assert main([*words, "--overwrite", "--max_steps", "2", "--test", "none"]) == 0
    assert sorted(path.name for path in copy.glob("checkpoint-*")) == ["checkpoint-2"]
    assert json.loads((copy / "training.json").read_text())["steps"] == 2


def test_two_programs_do_not_share_a_folder(bench, whole, tmp_path, said):
    """And a lock ends with the program that held it."""
    output = tmp_path / "run"
    output.mkdir()
    code = "import sys, time\nfrom distil_whisper_hf.commands.output_folders import locked\n"
    code += f"with locked({str(output)!r}):\n    print('held', flush=True)\n    time.sleep(60)\n"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        for words in (bench.training(output), bench.evaluation(whole, output)):
            assert "is in use by one" in said(words)
        holder.kill()
    assert main(bench.evaluation(whole, output)) == 0


def test_leftovers_are_removed_and_what_another_program_writes_is_not(tmp_path):
    """Silent: a checkpoint that disappears under a run, because a program began in the folder above."""
    (tmp_path / "figures").mkdir()
    for name in (".part-checkpoint", ".checkpoint-x", ".expert-x", "figures/.part-x"):
        (tmp_path / name).mkdir()
    with locked(tmp_path / "ca"):
        (tmp_path / "ca" / ".part-checkpoint").mkdir()
        with locked(tmp_path):
            assert sorted(path.name for path in tmp_path.rglob(".*") if path.name != ".lock") == [".part-checkpoint"]
        assert (tmp_path / "ca" / ".part-checkpoint").is_dir()


def test_a_run_of_an_older_version_is_tested(bench, copy):
    """Its `training.json` has no digests, and there is no record."""
    (copy / "training.json").write_text('{"steps": 7, "seconds": 1.0}')
    (copy / "run.json").unlink()
    shutil.copy(copy / "checkpoint-7" / "expert.ca.safetensors", copy)
    assert main([*(word for word in bench.training(copy) if word != "--resume"), "--test_only"]) == 0
    assert json.loads((copy / "scores.json").read_text())["steps"] == 7


def test_an_evaluation_is_made_anew_for_what_changed(bench, whole, tmp_path, capsys):
    """Silent: hypotheses or gates of another expert, text or setting in a report."""
    output = tmp_path / "evaluated"
    assert main(bench.evaluation(whole, output)) == 0
    first = evaluated(output)
    before = {path.name: path.read_bytes() for path in (output / "hypotheses").glob("*.jsonl")}
    # A torn last line is what a kill leaves.
    torn = next((output / "hypotheses").glob("*.jsonl"))
    torn.write_bytes(torn.read_bytes()[:-9])
    # And what another version knows of gates is not known here.
    kept = json.loads((output / "gates.json").read_text())
    kept["gates"][0]["entropy"] = 0.5
    (output / "gates.json").write_text(json.dumps(kept))
    assert main(bench.evaluation(whole, output)) == 0
    assert evaluated(output) == first
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    model = DistilWhisperForConditionalGeneration.from_pretrained(bench.base)
    model.load_expert("ca", other)
    for weight, opened in ((1.0, 100.0), (-1.0, 0.0)):
        with torch.no_grad():
            for _, layer in model.expert_layers("ca"):
                expert = layer.language_experts["ca"]
                expert.gate_in.bias.fill_(1.0)
                expert.gate_out.weight.fill_(weight)
        model.save_expert("ca", other)
        assert main(bench.evaluation(other, output)) == 0
        gates = json.loads((output / "gates.json").read_text())["gates"]
        assert {row["opened"] for row in gates} == {opened}
    assert before.keys() < {path.name for path in (output / "hypotheses").glob("*.jsonl")}


def test_a_full_disk_leaves_what_was_there(bench, whole, tmp_path, monkeypatch, said):
    output = tmp_path / "evaluated"
    assert main(bench.evaluation(whole, output)) == 0
    before = contents(output)

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_files, "flush", full)
    monkeypatch.setattr(resuming, "flush", full)
    message = said(bench.evaluation(whole, output))
    assert "No space left on device" in message and "What was there stays" in message
    assert {name: digest for name, (digest, _) in contents(output).items()} == {
        name: digest for name, (digest, _) in before.items()
    }


@pytest.mark.slow
def test_runs_that_are_killed_end_as_the_unbroken_ones():
    """Silent: half a save that is taken for one, an expert that lacks the steps since, leftovers."""
    # In a process of its own, which may be forked: one that has trained may not.
    words = [sys.executable, str(Path(kill_campaign.__file__)), "--kills", "2", "--seed", "3"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    assert ran.stdout.count(": the same") == len(kill_campaign.SPOTS)
    assert "0 outcomes that differ" in ran.stdout


def test_no_token_is_written_or_said(bench, tmp_path, capsys, caplog):
    """Silent: a token of the Hub in a file that is pushed, or in a log that is shown."""
    token = "hf_" + "sEcReT0123456789abcd"
    words = [word for word in bench.training(tmp_path / "run") if word != "--resume"]
    words += ["--hub_token", token, "--max_steps", "2", "--report_to", "none"]
    assert main(words) == 0
    assert main([*words, "--learning_rate", f"x{token}"]) == 2
    assert main([*words, "--overwrite", "--data", str(tmp_path / token)]) == 2
    with pytest.raises(OSError, match=r"\[token\]"):
        guard("x", lambda: (tmp_path / token).read_text() and 0, debug=True)
    out, err = capsys.readouterr()
    assert token not in out + err + caplog.text
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert "training_args.bin" in {path.name for path in files}
    assert all(token.encode() not in path.read_bytes() for path in files)
