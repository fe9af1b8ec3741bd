"""`benchmarks/gpu`: what is packed is all that is needed, and every part runs, a little of it on the CPU."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from models import save_whisper
from programs import speech_folder
from safetensors.torch import load_file
from tiny import tiny_processor

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run(*words: object, cwd: Path | None = None, env: dict | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, env=env or ENVIRONMENT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = save_whisper(
        tmp_path_factory.mktemp("base"), max_source_positions=1500, encoder_layers=1, decoder_layers=2
    )
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def packed(base, tmp_path_factory) -> Path:
    """What was packed for a recipe of one pair and two methods, in its pieces."""
    folder = tmp_path_factory.mktemp("speech")
    # Two folders of one name.
    data, other = speech_folder(folder / "a" / "ca", "ca", 12), speech_folder(folder / "b" / "ca", "ca", 6, hertz=500.0)
    recipe = {
        "model": "openai/whisper-base",
        "pairs": [{"name": "ca", "data": str(data), "language": "ca", "test_data": [str(other)],
                   "flags": {"where": ["suspect=0"], "test_share": 0.3}}],
        "methods": [{"name": "compact", "kind": "expert", "learning_rate": [1e-3, 2e-3], "flags": {"expert_rank": 2}},
                    {"name": "full", "kind": "full", "learning_rate": 1e-4}],
        "reference": "full", "steps": [40], "flags": {"report_to": "none", "disable_tqdm": "true"},
    }  # fmt: skip
    (folder / "curve.json").write_text(json.dumps(recipe))
    (folder / "wheels").mkdir()
    output = folder / "pack"
    done = run(
        ROOT / "benchmarks/gpu/pack.py", "--base", base, "--recipe", folder / "curve.json", "--most", 9,
        "--piece_mb", 4, "--wheels", folder / "wheels", "--output", output,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def unpacked(packed, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("there")
    pieces = sorted(packed.glob("piece-*/pack.tar.*"), key=lambda path: path.name)
    assert len(pieces) > 1 and all(path.stat().st_size <= 4 * 2**20 for path in pieces)
    whole = b"".join(path.read_bytes() for path in pieces)
    assert (packed / "pack.sha256").read_text().split() == [hashlib.sha256(whole).hexdigest(), "pack.tar"]
    (folder / "pack.tar").write_bytes(whole)
    with tarfile.open(folder / "pack.tar") as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_all_that_is_needed_is_packed(unpacked, base, tmp_path):
    """Silent: a machine that is reached once, and lacks a file."""
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert names >= {
        "measure.py", "curve.json", "training.json", "base/model.safetensors", "base/config.json",
        "base/tokenizer.json",
        "project/distil_whisper_hf/cli.py", "project/benchmarks/inference.py", "project/benchmarks/gpu/agreement.py",
        "project/examples/audio/es.ogg", "speech/ca/metadata.csv", "speech/ca-1/metadata.csv",
    }  # fmt: skip
    assert not [name for name in names if "__pycache__" in name]
    recipe = json.loads((unpacked / "curve.json").read_text())
    assert (recipe["model"], recipe["pairs"][0]["data"], recipe["pairs"][0]["test_data"]) == (
        "base", ["speech/ca"], ["speech/ca-1"],
    )  # fmt: skip
    for name in ("ca", "ca-1"):
        folder = unpacked / "speech" / name
        with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 9 and {row["suspect"] for row in rows} == {"0"}
        assert {row["file_name"] for row in rows} == {path.name for path in folder.glob("*.wav")}
    weights, packed = load_file(base / "model.safetensors"), load_file(unpacked / "base" / "model.safetensors")
    assert {value.dtype for value in packed.values()} == {torch.float16} and packed.keys() == weights.keys()
    again = run(ROOT / "benchmarks/gpu/pack.py", "--base", tmp_path, "--output", tmp_path / "pack")
    assert again.returncode == 1 and "Expected a Whisper with model.safetensors" in again.stderr


def test_parts_end_when_their_time_is_up(unpacked, tmp_path):
    """Silent: a lent machine held by a program that nobody ends, or a failure that passes as a measurement."""
    slow = tmp_path / "there"
    for name in ("project/benchmarks/gpu/agreement.py", "project/benchmarks/inference.py"):
        (slow / name).parent.mkdir(parents=True, exist_ok=True)
    (slow / "project/benchmarks/gpu/agreement.py").write_text(
        "import time\nprint('began', flush=True)\ntime.sleep(60)\n"
    )
    (slow / "project/benchmarks/inference.py").write_text("raise SystemExit(3)\n")
    words = [unpacked / "measure.py", "--dry", "--seconds", 20, "--output", tmp_path / "out"]
    (slow / "measure.py").write_bytes((unpacked / "measure.py").read_bytes())
    words[0] = slow / "measure.py"
    done = run(*words, "--parts", "agreement", "inference")
    assert done.returncode == 1, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["agreement"]["ended"] == "its time was up" and 2 < summary["agreement"]["seconds"] < 15
    assert summary["inference-float32"]["ended"] == "failed, exit status 3"
    assert (tmp_path / "out" / "agreement.txt").read_text() == "began\n"


@pytest.mark.slow
def test_every_part_runs(unpacked, tmp_path):
    """Silent: a mistake that is found while the GPU's time runs."""
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "PYTHONPATH"}
    done = run("measure.py", "--dry", "--seconds", 1200, "--output", tmp_path, cwd=unpacked, env=environment)
    logs = "".join(path.read_text()[-1500:] for path in tmp_path.glob("*.txt"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [*summary] == ["agreement", "inference-float32", "training", "curve"]
    said = (tmp_path / "agreement.txt").read_text()
    assert said.count("| bfloat16 and float32 |") == 2 and "All agrees as it must." in said
    assert "peak memory" in (tmp_path / "inference-float32.txt").read_text()
    assert "| clsr |" in (tmp_path / "training.txt").read_text()
    points = [json.loads(line) for line in (tmp_path / "curve/points.jsonl").read_text().splitlines()]
    assert [(point["method"], point["steps"]) for point in points][1:] == [("compact", 1)]
    assert (tmp_path / "curve/curve.md").is_file()
