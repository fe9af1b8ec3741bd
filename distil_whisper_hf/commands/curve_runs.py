"""The points of one run on a curve: train it, take it back to the base step by step, score every step.

A run is a process of its own, so that it may stand beside others and give its memory back. What it finds appears in one
file when all of it is there, so a curve that was interrupted goes on with the runs that have none.
"""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, PreTrainedModel, WhisperForConditionalGeneration

from ..cpu_precision import computing_dtype
from ..data.arguments import DataArguments
from ..data.atomic_files import write_text
from ..data.corpus import Corpus, read_corpus
from ..data.labels import LabelBuilder
from ..evaluation.report.curves import START
from ..evaluation.systems.hypotheses import GenerationSettings
from ..evaluation.systems.interpolating import open_interpolated
from ..evaluation.systems.opening import System
from .final_scores import score, score_system


@dataclass(frozen=True)
class Run:
    """One training and what is asked of it.

    Attributes:
        pair: name of the speech that it is trained and tested on.
        method: name of the method, `START` for none.
        program: "train" or "baseline".
        model: what is started from: folder or Hub name.
        language: Whisper's code of what is trained.
        flags: of the program, by name; a list is a flag of several words.
        data: fields of `DataArguments`: what is trained and tested on.
        learning_rate, steps, seed: 0 for the start.
        weights: shares of what was trained that are scored.
        others: how many of the last sources of `test_data` are of other languages.
        limit: most clips of each test set.
        precision: that is tested in.
        max_new_tokens, batch_size: of testing.
    """

    pair: str
    method: str
    program: str
    model: str
    language: str
    flags: Mapping[str, Any]
    data: Mapping[str, Any]
    learning_rate: float
    steps: int
    seed: int
    weights: tuple[float, ...]
    others: int
    limit: int | None
    precision: str
    max_new_tokens: int
    batch_size: int

    @property
    def name(self) -> str:
        """What its files are called: what a person tells it by, and a digest of all that decides its points."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:10]
        return f"{self.pair}-{self.method}-{self.learning_rate:g}-{self.steps}-{self.seed}-{digest}".replace("/", "_")

    def command(self, folder: Path) -> list[str]:
        """Words after `distil-whisper` that train it."""
        given = {
            # What is tested, too: it is taken out of training, and the parts are divided alike.
            **self.data,
            **self.flags,
            "model": self.model,
            "learning_rate": self.learning_rate,
            "max_steps": self.steps,
            "seed": self.seed,
            "output_dir": str(folder),
            "test": "none",
            "save_strategy": "no",
        }
        if self.program == "train" and "teacher" not in given:
            given.setdefault("distillation", "none")
        words = [self.program]
        for key, value in given.items():
            words += [f"--{key}", *(map(str, value) if isinstance(value, list | tuple) else [str(value)])]
        return words


def carry_out(run: Run, output: Path, *, keep: bool = False) -> None:
    """Train and score a run; `output/points/NAME.jsonl` is there when all is done.

    Args:
        keep: leave what was trained in `output/runs`.
    """
    folder = output / "runs" / run.name
    if run.method != START:
        from . import baseline, train

        program = {"train": train, "baseline": baseline}[run.program].main
        # A run that was killed has nothing to go on from: it saves no checkpoints.
        shutil.rmtree(folder, ignore_errors=True)
        status = program(run.command(folder)[1:])
        if status:
            raise RuntimeError(f"Expected run {run.name} to end, got exit status {status}: see above.")
    lines = [json.dumps(point, ensure_ascii=False) + "\n" for point in _points(run, folder)]
    (output / "points").mkdir(parents=True, exist_ok=True)
    write_text(output / "points" / f"{run.name}.jsonl", "".join(lines))
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)


def _points(run: Run, folder: Path) -> Iterator[dict[str, Any]]:
    processor = AutoProcessor.from_pretrained(run.model)
    corpus = read_corpus(
        DataArguments(**run.data), LabelBuilder(processor.tokenizer), processor.feature_extractor, test_limit=run.limit
    )
    settings = GenerationSettings(max_new_tokens=run.max_new_tokens, batch_size=run.batch_size)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    on_cpu = str(run.flags.get("use_cpu", False)).lower() in ("true", "1")
    device = torch.device("cpu") if device is None or on_cpu else device
    dtype = computing_dtype(getattr(torch, run.precision), device)
    for weight in (0.0,) if run.method == START else run.weights:
        model: PreTrainedModel
        if run.method == START:
            model = WhisperForConditionalGeneration.from_pretrained(run.model, dtype="float32")
        else:
            model = open_interpolated(folder, run.model, run.language, weight)
        # Transformers' wrapper of `to` hides from type checkers that it is a method.
        model = model.to(device, dtype).eval()  # type: ignore[arg-type,call-arg]
        yield {
            **{name: getattr(run, name) for name in ("pair", "method", "learning_rate", "steps", "seed")},
            "weight": weight,
            "sets": _scored(System(f"{run.method} {weight:g}", model, processor), corpus, settings, run),
            "command": " ".join(["distil-whisper", *run.command(folder)]),
        }
        del model
        gc.collect()


def _scored(system: System, corpus: Corpus, settings: GenerationSettings, run: Run) -> dict[str, Any]:
    """By set: domain, counts of every clip, and transcripts where it is of another language."""
    _, texts = score_system(system, corpus.test_sets, settings)
    others = corpus.out_of_domain[len(corpus.out_of_domain) - run.others :]
    sets = {}
    for name, hypotheses in texts.items():
        clips = corpus.test_sets[name]
        scores = score(clips, hypotheses, system=system.name)
        domain = "other" if name in others else "out" if name in corpus.out_of_domain else "in"
        sets[name] = {
            "domain": domain,
            "clips": [clip.id for clip in clips],
            "errors": [one.words.errors for one in scores],
            "words": [one.words.reference_length for one in scores],
        }
        if domain == "other":
            sets[name]["texts"] = hypotheses
    return sets


def main(arguments: list[str]) -> int:
    """Carry out the run that stands in a JSON file, into a folder: `python -m ….curve_runs RUN.json OUTPUT [keep]`."""
    given = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    carry_out(Run(**{**given, "weights": tuple(given["weights"])}), Path(arguments[1]), keep="keep" in arguments[2:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
