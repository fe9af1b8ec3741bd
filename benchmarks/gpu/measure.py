"""All measurements of a GPU within a time limit, on a machine without network, from what `pack.py` packed.

    python measure.py --seconds 540 --output results

In this order, each in processes of its own, ended when its time is up: whether float32 and bfloat16 agree
(`agreement.txt`), the speed of inference (`inference-*.txt`) and of training (`training.txt`), and the runs of the
curve, side by side, in all the time that is left (`curve/`; `distil-whisper curve` goes on with the same folder).
`summary.json` says what was done in how many seconds. --dry does a little of each on the CPU, to find mistakes before
any GPU is asked for.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PARTS = ("agreement", "inference", "training", "curve")
# Of all seconds, at most this share for a part; the curve has what is left.
SHARES = {"agreement": 0.15, "inference": 0.25, "training": 0.25}
# Runs of a curve that have begun may end.
GRACE = 90.0


def install(wheels: list[Path], site: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(site)]
    subprocess.run([*command, *map(str, wheels)], check=True)


def commands(part: str, output: Path, *, dry: bool, jobs: int) -> dict[str, list[str]]:
    """Name of a log -> words after the interpreter."""
    benchmarks = HERE / "project" / "benchmarks"
    base, device = str(HERE / "base"), "cpu" if dry else "cuda"
    if part == "agreement":
        # A dry run may be of a Whisper that knows nothing.
        least = ["--least_tokens", "0", "--least_gates", "0"] if dry else []
        return {part: [str(benchmarks / "gpu/agreement.py"), "--base", base, "--device", device, *least]}
    if part == "inference":
        sizes = ["--batches", "1", "--repeats", "1"] if dry else ["--batches", "1", "8", "32", "--repeats", "7"]
        return {
            f"inference-{dtype}": [
                str(benchmarks / "inference.py"), "--base", base, "--device", device, "--dtype", dtype, *sizes,
            ]
            for dtype in (("float32",) if dry else ("float32", "bfloat16"))
        }  # fmt: skip
    if part == "training":
        given = json.loads((HERE / "training.json").read_text(encoding="utf-8"))
        sizes = {"batch": 1, "steps": 2, "rounds": 1} if dry else {"batch": 16, "steps": 6, "rounds": 2}
        words = [word for key, value in {**given, **sizes}.items() for word in (f"--{key}", str(value))]
        some = ["--variants", "full", "clsr"] if dry else []
        return {part: [str(benchmarks / "training.py"), "--base", base, *words, *some, "--output",
                       str(output / ".training")]}  # fmt: skip
    recipe = HERE / "curve.json"
    if dry:
        recipe = output / "dry.json"
        recipe.write_text(json.dumps(dry_recipe(json.loads((HERE / "curve.json").read_text(encoding="utf-8")))))
    return {part: ["-m", "distil_whisper_hf.cli", "curve", str(recipe), "--output_dir", str(output / "curve"),
                   "--jobs", str(jobs)]}  # fmt: skip


def dry_recipe(recipe: dict) -> dict:
    """The first pair and method, one step, two clips."""
    method = recipe["methods"][0]
    rates = method["learning_rate"]
    flags = {**recipe.get("flags", {}), "use_cpu": "true", "per_device_train_batch_size": 1}
    return {
        **recipe,
        "pairs": recipe["pairs"][:1],
        "methods": [{**method, "learning_rate": rates[:1] if isinstance(rates, list) else rates}],
        "reference": method["name"],
        "steps": [1],
        "seeds": [0],
        "weights": [1.0],
        "flags": flags,
        "limit": 2,
        "max_new_tokens": 5,
        "resamples": 100,
    }


def run(words: list[str], log: Path, *, seconds: float, environment: dict[str, str]) -> str:
    """Run a program until it ends or its time is up; returns which."""
    with log.open("w", encoding="utf-8") as file:
        # A group of its own, so that what it starts ends with it.
        started = subprocess.Popen(
            [sys.executable, *words], cwd=HERE, env=environment, stdout=file, stderr=file, start_new_session=True
        )
        try:
            return "done" if started.wait(timeout=seconds) == 0 else f"failed, exit status {started.returncode}"
        except subprocess.TimeoutExpired:
            for sent in (signal.SIGTERM, signal.SIGKILL):
                os.killpg(started.pid, sent)
                try:
                    started.wait(timeout=5)
                    break
                except subprocess.TimeoutExpired:
                    continue
            return "its time was up"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=540.0, help="for everything")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--jobs", type=int, default=max(1, (os.cpu_count() or 1) - 2), help="runs of the curve at a time"
    )
    parser.add_argument("--dry", action="store_true", help="a little of everything on the CPU")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    output = args.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    site, wheels = HERE / "site", sorted((HERE / "wheels").glob("*.whl"))
    if wheels and not site.exists():
        install(wheels, site)
    places = [site, HERE / "project"]
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(map(str, places)), "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    summary: dict[str, dict] = {}
    for part in args.parts:
        until = min(end, time.monotonic() + SHARES.get(part, 1.0) * args.seconds)
        for name, words in commands(part, output, dry=args.dry, jobs=1 if args.dry else args.jobs).items():
            left, started = until - time.monotonic(), time.monotonic()
            if part == "curve":
                words = [*words, "--seconds", f"{left - min(GRACE, left / 3):.0f}"]
            ended = "no time was left"
            if left > 0:
                ended = run(words, output / f"{name}.txt", seconds=left, environment=environment)
            summary[name] = {"ended": ended, "seconds": round(time.monotonic() - started, 1)}
            (output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {ended}, {summary[name]['seconds']} s", flush=True)
    return 0 if all(one["ended"] == "done" for one in summary.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
