"""Kills runs at random moments, goes on with each, and compares what comes out with unbroken ones: `make kills`.

    python tests/kill_campaign.py --kills 60 --seed 0

A tiny expert is trained, saved and tested, and an evaluation of it is made, each in a process of its own that gets
SIGKILL after a random time, is begun again with the same words, and may be killed again. In the end the expert's file
has to be the unbroken run's byte for byte, as have scores, transcripts and the evaluation's tables, and nothing may be
left of saves that were broken off. Printed: kills by what was being done. Exit status 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import Value
from pathlib import Path

import torch
from models import save_whisper
from programs import TINY, short_processor, speech_folder

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.cli import main as program
from distil_whisper_hf.commands import runs, train
from distil_whisper_hf.data.atomic_files import UNFINISHED
from distil_whisper_hf.evaluation.systems import hypotheses
from distil_whisper_hf.training import speech_trainer
from distil_whisper_hf.training.trainer import DistilWhisperTrainer

PLACES = ("start", "step", "save", "last save", "test", "evaluate")
# More often than that, a run is left to end.
KILLS_OF_A_RUN = 4


class Bench:
    """A base, speech, and the words of the two programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = save_whisper(folder / "base", max_source_positions=100)
        short_processor().save_pretrained(self.base)
        self.speech = speech_folder(folder / "speech", "ca")
        self.place = Value("i", 0)

    def training(self, output: Path) -> list[str]:
        """Nine clips in batches of two: seven steps end in the middle of an epoch."""
        words = ["train", "--model", str(self.base), "--data", str(self.speech), "--language", "ca", "--where"]
        words += ["suspect=0", "--distillation", "none", "--test", "trained", "--output_dir", str(output), *TINY]
        return [*words, "--max_steps", "7", "--save_strategy", "steps", "--save_steps", "2", "--resume"]

    def evaluation(self, expert: Path, output: Path) -> list[str]:
        words = ["evaluate", "--systems", str(self.base), f"ours={self.base}+ca@{expert}", "--no_cost", "--quiet"]
        words += ["--data", str(self.speech), "--output_dir", str(output), "--resamples", "100"]
        return [*words, "--max_new_tokens", "5", "--batch_size", "2"]

    def start(self, words: list[str], before: Callable[[], None] = lambda: None) -> int:
        """Run a program in a process of its own; returns its id."""
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            code = 99
            try:
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, 1)
                if not os.environ.get("KILL_CAMPAIGN_SHOW"):
                    os.dup2(nothing, 2)
                before()
                self._watch()
                code = program(words)
            finally:
                os._exit(code)
        return child

    def _watch(self) -> None:
        """Let the parent know what is being done."""

        def watched(owner: object, name: str, place: str, *, then: str | None = None) -> None:
            inner = getattr(owner, name)

            def outer(*args, **kwargs):
                # A checkpoint saves the model too.
                if not kwargs.get("_internal_call"):
                    self.place.value = PLACES.index(place)
                result = inner(*args, **kwargs)
                if then is not None:
                    self.place.value = PLACES.index(then)
                return result

            setattr(owner, name, outer)

        self.place.value = PLACES.index("start")
        watched(DistilWhisperTrainer, "training_step", "step")
        watched(DistilWhisperTrainer, "_save_checkpoint", "save", then="step")
        watched(DistilWhisperTrainer, "save_model", "last save")
        watched(runs, "report", "test")
        watched(train, "report", "test")
        watched(hypotheses, "transcribe", "evaluate")


def ended(child: int) -> int:
    """The exit status of a process that is waited for; negative: the signal that ended it."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def to_the_end(bench: Bench, words: list[str]) -> float:
    started = time.monotonic()
    status = ended(bench.start(words))
    if status != 0:
        raise RuntimeError(f"expected a run to end with 0, got {status}: {' '.join(words)}")
    return time.monotonic() - started


def killed_and_resumed(bench: Bench, words: list[str], seconds: float, chance: random.Random) -> Counter:
    """Kill a program at random moments, begin it again each time, let it end at last; returns kills by place."""
    kills: Counter = Counter()
    while kills.total() < KILLS_OF_A_RUN:
        child = bench.start(words)
        time.sleep(chance.uniform(0.02, 1.1) * seconds)
        place = PLACES[bench.place.value]
        os.kill(child, signal.SIGKILL)
        status = ended(child)
        if status == 0:
            return kills
        if status != -signal.SIGKILL:
            raise RuntimeError(f"expected a run to go on or be killed, it ended with {status}: {' '.join(words)}")
        kills[place] += 1
    to_the_end(bench, words)
    return kills


def trained(folder: Path) -> dict:
    """What a training leaves that has to be the same."""
    scores = json.loads((folder / "scores.json").read_text())
    return {
        "expert": (folder / "expert.ca.safetensors").read_bytes(),
        "scores": {name: scores[name] for name in ("rows", "transcripts", "gates", "steps")},
        "left": leftovers(folder),
    }


def evaluated(folder: Path) -> dict:
    """What an evaluation leaves that has to be the same."""
    said = []
    for path in (folder / "hypotheses").glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        said.append(sorted(json.dumps({**row, "seconds": None}) for row in rows))
    tables = {name: (folder / name).read_text() for name in ("scores.jsonl", "results.jsonl", "gates.json")}
    return {"hypotheses": sorted(said), "tables": tables, "left": leftovers(folder)}


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(f"{UNFINISHED}*"))


# What is called when the kill comes, and for the how manieth time.
SPOTS = {
    "in a step": (DistilWhisperTrainer, "training_step", 6),
    "before a save": (DistilWhisperTrainer, "_save_checkpoint", 2),
    "before a checkpoint is sealed": (speech_trainer, "seal", 2),
    "as files are renamed": (os, "replace", 12),
    # Four checkpoints are saved before.
    "in the last save": (DistilWhisperForConditionalGeneration, "save_pretrained", 5),
    "after the last save": (runs, "write_outcome", 1),
    "in the test": (runs, "score_system", 1),
}


def kill_at(owner: object, name: str, number: int) -> None:
    """Let this process be killed as it calls a function for the `number`th time."""
    inner, calls = getattr(owner, name), Counter()

    def call(*args, **kwargs):
        calls[name] += 1
        if calls[name] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*args, **kwargs)

    setattr(owner, name, call)


def kill_everywhere(folder: Path) -> list[str]:
    """Kill a training once at each of `SPOTS`; returns what differed."""
    bench, faults = Bench(folder), []
    to_the_end(bench, bench.training(folder / "whole"))
    expected = trained(folder / "whole")
    for number, (name, spot) in enumerate(SPOTS.items()):
        output = folder / f"run-{number}"
        status = ended(bench.start(bench.training(output), before=lambda spot=spot: kill_at(*spot)))
        if status != -signal.SIGKILL or (output / "scores.json").exists():
            faults.append(f"{name}: not killed there, ended with {status}")
            continue
        to_the_end(bench, bench.training(output))
        outcome = trained(output)
        differing = [part for part in outcome if outcome[part] != expected[part]]
        print(f"killed {name}: {'the same' if not differing else ', '.join(differing)}")
        faults += [f"{name}: {part} not as in the unbroken run" for part in differing]
    return faults


def campaign(kills: int, seed: int, folder: Path) -> tuple[Counter, list[str]]:
    """Kill until there were so many; returns kills by place, and what differed."""
    bench, chance = Bench(folder), random.Random(seed)
    whole = folder / "whole"
    training_seconds = to_the_end(bench, bench.training(whole))
    expected = {"training": trained(whole)}
    evaluation_seconds = to_the_end(bench, bench.evaluation(whole, folder / "evaluated"))
    expected["evaluation"] = evaluated(folder / "evaluated")
    found, faults = Counter(), []
    for number in range(10_000):
        if found.total() >= kills:
            break
        kind = "evaluation" if number % 4 == 3 else "training"
        output = folder / f"{kind}-{number}"
        words = bench.training(output) if kind == "training" else bench.evaluation(whole, output)
        seconds = training_seconds if kind == "training" else evaluation_seconds
        found += killed_and_resumed(bench, words, seconds, chance)
        outcome = trained(output) if kind == "training" else evaluated(output)
        differing = [name for name in outcome if outcome[name] != expected[kind][name]]
        if differing:
            faults.append(f"{kind} {number}: {', '.join(differing)} not as in the unbroken run ({output})")
        else:
            shutil.rmtree(output)
    return found, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        faults = kill_everywhere(Path(folder))
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        found, more = campaign(args.kills, args.seed, Path(folder))
    faults += more
    for place in PLACES:
        print(f"{place:10} {found[place]:4} kills")
    seconds = time.monotonic() - started
    print(f"{found.total()} kills, {len(faults)} outcomes that differ, seed {args.seed}, {seconds:.0f} s")
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
