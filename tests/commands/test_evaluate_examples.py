"""The example and the benchmark of evaluation run, at tiny settings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from models import save_whisper
from tiny import tiny_processor

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = save_whisper(
        tmp_path_factory.mktemp("examples") / "base", max_source_positions=1500, encoder_layers=1, decoder_layers=2
    )
    tiny_processor().save_pretrained(folder)
    return folder


def run(program: str, *arguments: object) -> str:
    command = [sys.executable, str(ROOT / program), *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_evaluate(base, tmp_path):
    """Prevents the command that the README names from failing on this repository's own clips, cost included."""
    output = tmp_path / "out"
    printed = run(
        "examples/evaluate.py", "--systems", base, "--data", ROOT / "examples/audio", "--output", output,
        "--max-new-tokens", 3, "--resamples", 100, "--cost-clips", 1, "--quiet",
    )  # fmt: skip
    assert "3 scores of 3 clips" in printed
    report = (output / "report.md").read_text(encoding="utf-8")
    assert "## Size, memory and time" in report and "| base float32 | 3.6 M |" in report
    assert {path.name for path in output.iterdir()} == {
        "costs.json", "figures", "hypotheses", "report.md", "results.jsonl", "scores.jsonl",
    }  # fmt: skip


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
