"""Every example and benchmark runs, at tiny settings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from models import save_whisper, with_experts
from peft import LoraConfig, get_peft_model
from tiny import tiny_processor
from transformers import WhisperForConditionalGeneration

from distil_whisper_hf.evaluation.systems.interpolating import open_interpolated

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = save_whisper(
        tmp_path_factory.mktemp("examples") / "base", max_source_positions=1500, encoder_layers=1, decoder_layers=2
    )
    tiny_processor().save_pretrained(folder)
    return folder


def run(program: str, *arguments: object) -> str:
    command = [sys.executable, str(ROOT / program), *map(str, arguments)]
    env = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_transcribe(base, tmp_path):
    """Silent: the first program that people run failing, or routing the wrong clip."""
    printed = run("examples/transcribe.py", "--model", base, "--new", "es")
    blocks = printed.split("  plain Whisper: ")
    assert len(blocks) == 5
    assert "en.ogg [en]" in blocks[0]
    assert [("expert es" in block, "shared path" in block) for block in blocks[1:]] == [
        (False, True), (True, False), (False, True), (False, True),
    ]  # fmt: skip
    for block in blocks[1:]:
        plain, _, rest = block.partition("\n")
        assert rest.partition(": ")[2].startswith(plain)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
@pytest.mark.parametrize(("program", "last"), [("train", ["--resume"]), ("baseline", ["--resume"]), ("evaluate", [])])
def test_slurm(tmp_path, program, last):
    """Silent: flags that do not reach the program, or a job that begins anew when it is put back into the queue."""
    for name, does in (
        ("srun", 'shift; exec "$@"'),
        ("torchrun", 'printf "%s\\n" "$@"'),
        ("scontrol", "echo one; echo two"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2",
           "SLURM_JOB_ID": "41234", "SLURM_GPUS_ON_NODE": "4", "PROGRAM": program}  # fmt: skip
    words = ["--data", "a folder", "--language", "ca"]
    done = subprocess.run(["bash", str(ROOT / "examples/slurm.sh"), *words], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    given = done.stdout.splitlines()
    assert given[given.index("-m") :] == ["-m", "distil_whisper_hf.cli", program, *words, *last]
    assert given[: given.index("-m")] == [
        "--nnodes", "2", "--nproc_per_node", "4", "--max_restarts", "3", "--rdzv_backend", "c10d", "--rdzv_id", "41234",
        "--rdzv_endpoint", "one:21234",
    ]  # fmt: skip


@pytest.mark.slow
def test_inference_benchmark(base):
    """Silent: a benchmark that no longer measures all it names."""
    printed = run("benchmarks/inference.py", "--base", base, "--repeats", 1, "--batches", 1)
    rows = [line for line in printed.splitlines() if line.startswith("| ") and "(1.00x)" in line]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [
        "encoder, batch 1", "decoding step, batch 1", "features to tokens, batch 1", "peak memory, batch 8",
    ]  # fmt: skip
    assert "loading gl from a local file" in printed and "choosing experts for a call, mixed, batch 8" in printed


@pytest.mark.slow
def test_stock_trainer_benchmark(base, tmp_path):
    """Silent: the comparison before and after no longer running."""
    speech = tmp_path / "speech"
    (speech / "audio").mkdir(parents=True)
    rows = ["file_name,sentence,suspect"]
    for index in range(12):
        (speech / "audio" / f"{index}.ogg").write_bytes((ROOT / "examples/audio/es.ogg").read_bytes())
        rows.append(f"{index}.ogg,w{300 + index} w301,0")
    (speech / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    options = {"base": base, "speech": speech, "language": "es", "steps": 1, "batch": 2, "output": tmp_path / "out"}
    options |= {"test-clips": 2}
    printed = run("benchmarks/stock_trainer.py", *(p for k, v in options.items() for p in (f"--{k}", v)))
    assert "es: WER" in printed and (tmp_path / "out/expert.es.safetensors").exists()
    assert json.dumps("gates open, encoder")[1:-1] in printed


@pytest.mark.slow
def test_hub_benchmark(base):
    """Silent: the steps around the Hub no longer measured, or a transcript that changes offline."""
    printed = run("benchmarks/hub.py", "--base", base, "--audio", ROOT / "examples/audio/es.ogg", "--language", "es")
    steps = [line.split(" | ")[0].strip("| ") for line in printed.splitlines() if line.startswith("| ")]
    assert steps[1:] == [
        "push an expert", "open by name, empty cache", "transcribe a clip", "push a second expert",
        "push it again, nothing new", "list experts", "open again, one expert new", "open offline",
    ]  # fmt: skip
    assert "offline transcript the same: True" in printed


@pytest.mark.slow
def test_evaluate(base, tmp_path):
    """Prevents the command that the README names from failing on this repository's own clips, cost included."""
    output = tmp_path / "out"
    printed = run(
        "examples/evaluate.py", "--systems", base, "--data", ROOT / "examples/audio", "--output", output,
        "--max-new-tokens", 3, "--resamples", 100, "--cost-clips", 1, "--quiet",
    )  # fmt: skip
    assert "4 scores of 4 clips" in printed
    report = (output / "report.md").read_text(encoding="utf-8")
    assert "## Size, memory and time" in report and "| base float32 | 3.6 M |" in report
    assert {path.name for path in output.iterdir()} == {
        "costs.json", "figures", "hypotheses", "notes.jsonl", "rejections.jsonl", "report.md",
        "results.jsonl", "scores.jsonl",
    }  # fmt: skip


@pytest.mark.slow
def test_throughput_benchmark(base, tmp_path):
    """Prevents a comparison with the pipeline that no longer decodes the same."""
    speech = tmp_path / "speech"
    speech.mkdir()
    for name in ("es", "fr", "en"):
        (speech / f"{name}.ogg").write_bytes((ROOT / f"examples/audio/{name}.ogg").read_bytes())
    rows = "".join(f"{name}.ogg,text,es,0\n" for name in ("es", "fr", "en"))
    (speech / "metadata.csv").write_text(f"file_name,sentence,language,suspect\n{rows}", encoding="utf-8")
    printed = run(
        "benchmarks/evaluation.py", "--base", base, "--speech", speech, "--batch-sizes", 1, 2, "--repeats", 1,
        "--max-new-tokens", 4,
    )  # fmt: skip
    assert "equal transcripts: 3 of 3" in printed and "| evaluate, clips/s |" in printed


def test_gates_benchmark(tmp_path):
    """Silent: gates of one run under another's name, or a side left out."""
    texts = {"domain": "in", "ids": ["a"], "languages": ["ca"], "references": ["bon dia"], "experts": ["bon dia"]}
    for name, opened in (("ca", 0.25), ("gl", 0.75)):
        gates = {name: {"encoder": [opened], "decoder": [0.5, 1.0]}}
        run_of = {"rows": [{"system": "experts"}], "transcripts": {"calls": texts}, "test_precision": "float32"}
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores.json").write_text(json.dumps({**run_of, "gates": gates}))
    printed = run("benchmarks/gates.py", tmp_path / "ca", tmp_path / "gl", "--output", tmp_path / "gates.png")
    assert [line for line in printed.splitlines() if "encoder" in line or "decoder" in line] == [
        "| ca | encoder | 25 |  |", "| ca | decoder | 50 | 100 |",
        "| gl | encoder | 75 |  |", "| gl | decoder | 50 | 100 |",
    ]  # fmt: skip
    assert (tmp_path / "gates.png").read_bytes().startswith(b"\x89PNG")


def test_loading_benchmark(base):
    """Silent: a figure for one kind of expert alone."""
    printed = run("benchmarks/loading.py", "--base", base, "--rank", 2, "--repeats", 2)
    assert [line.partition(",")[0] for line in printed.splitlines()] == ["full", "compact"]


@pytest.mark.slow
def test_streaming_benchmark():
    """Silent: a measurement of fewer clips than it says, or of the speech of another window than the base has."""
    printed = run(
        "benchmarks/streaming.py", "--clips", 70, "--rows", 20, "--seconds", 0.3, "--batch", 8, "--reports", 3
    )
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert printed.startswith("70 clips of 0.3 s") and [row[0] for row in rows] == ["clips", "24", "48", "72", "80"]
    assert all(float(row[3]) > 100 for row in rows[1:]) and "MB at the end" in printed


@pytest.mark.slow
@pytest.mark.parametrize("program", ["compression", "interpolation", "expert_sides"])
def test_scores_of_variants(base, tmp_path, program):
    """Silent: programs behind the tables of RESULTS.md that no longer run, or that score one variant for all."""
    with_experts(base, "ca").save_expert("ca", tmp_path / "run")
    rows = ["file_name,text,suspect", *(f"{index}.ogg,w{300 + index} w301,0" for index in range(6))]
    for name in ("speech", "other"):
        (tmp_path / name).mkdir()
        for index in range(6):
            clip = soundfile.read(ROOT / "examples/audio/es.ogg", frames=16000 + 800 * index)
            soundfile.write(tmp_path / name / f"{index}.ogg", *clip)
        (tmp_path / name / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    options = {"base": base, "data": tmp_path / "speech", "test-data": tmp_path / "other", "language": "ca"}
    options |= {"clips": 2, "precision": "float32", "max-new-tokens": 3}
    own = {"compression": ["--ranks", "1"], "interpolation": ["--weights", "0.5"], "expert_sides": []}[program]
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    printed = run(f"benchmarks/{program}.py", tmp_path / "run", *words, *own)
    scored = [line.split("|")[4].strip() for line in printed.splitlines() if line.startswith("| other ")]
    assert scored == {
        "compression": ["run", "run, rank 1"], "interpolation": ["run 0.5"],
        "expert_sides": ["both sides", "encoder alone", "decoder alone"],
    }[program]  # fmt: skip
    assert program != "compression" or "run, rank 1: encoder.layers.0 " in printed


@pytest.mark.slow
def test_long_audio_benchmark(base, tmp_path):
    """Silent: recordings without their last clips, one system's figures under another's name, or distances of none."""
    with_experts(base, "ca").save_expert("ca", tmp_path / "run")
    (tmp_path / "speech").mkdir()
    for index in range(6):
        clip = soundfile.read(ROOT / "examples/audio/es.ogg", frames=16000 + 800 * index)
        soundfile.write(tmp_path / "speech" / f"{index}.ogg", *clip)
    rows = ["file_name,text,suspect", *(f"{index}.ogg,w{300 + index} w301,0" for index in range(6))]
    (tmp_path / "speech" / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    printed = run("benchmarks/long_form.py", tmp_path / "run", "--base", base, "--data", tmp_path / "speech",
                  "--language", "ca", "--seconds", 2, "--recordings", 2, "--condition")  # fmt: skip
    assert "1 recordings of ca, 0." in printed
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line[:1] == "|"]
    assert [row[0] for row in cells] == ["system", "---", "Whisper", "run"]
    assert all(len(row) == 9 and float(row[1]) > 0 and row[8].split(" / ")[1] == "1" for row in cells[2:])


@pytest.mark.parametrize("kind", ["expert", "full", "lora"])
def test_what_lies_between_a_run_and_its_base(base, tmp_path, kind):
    """Silent: a run as it is, or the base, under the name of what lies between them."""
    torch.manual_seed(0)
    if kind == "expert":
        with_experts(base, "ca").save_pretrained(tmp_path, experts_only=True)
    elif kind == "full":
        save_whisper(tmp_path, 5, max_source_positions=1500, encoder_layers=1, decoder_layers=2)
    else:
        config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        get_peft_model(WhisperForConditionalGeneration.from_pretrained(base), config).save_pretrained(tmp_path)
    plain = WhisperForConditionalGeneration.from_pretrained(base).state_dict()
    start, middle, end = (
        open_interpolated(tmp_path, str(base), "ca", weight).state_dict() for weight in (0.0, 0.25, 1.0)
    )
    moved = 0
    for key, tensor in middle.items():
        torch.testing.assert_close(tensor, 0.75 * start[key] + 0.25 * end[key], rtol=0, atol=1e-6, msg=key)
        shared = key.replace("language_experts.ca.", "")
        assert shared not in plain or torch.equal(start[key], plain[shared]), key
        moved += not torch.equal(tensor, end[key])
    assert moved >= {"expert": 12, "full": 30, "lora": 5}[kind]
