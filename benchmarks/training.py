"""Step time and peak memory of training, every variant as a ratio to full fine-tuning in the same run.

    python benchmarks/training.py --base BASE --speech FOLDER --language pl

Each variant trains in a process of its own, so that its peak memory is its own; the variants take turns for several
rounds, and the median step over all rounds counts, the first step of each round left out. Also printed: the share of a
step that the live teacher takes, and how long the loader takes for a batch against the step that consumes it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import AutoProcessor, TrainerCallback, WhisperForConditionalGeneration, WhisperProcessor

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.commands.baseline import BaselineArguments, with_adapters
from distil_whisper_hf.commands.runs import RunArguments, training_rows
from distil_whisper_hf.data.arguments import DataArguments
from distil_whisper_hf.data.corpus import read_corpus
from distil_whisper_hf.data.labels import LabelBuilder
from distil_whisper_hf.training.arguments import DistilWhisperTrainingArguments, SpeechTrainingArguments
from distil_whisper_hf.training.collator import SpeechCollator
from distil_whisper_hf.training.datasets import SpeechDataset
from distil_whisper_hf.training.speech_trainer import SpeechTrainer
from distil_whisper_hf.training.teacher import Teacher
from distil_whisper_hf.training.teacher_cache import CachedTeacher
from distil_whisper_hf.training.trainer import DistilWhisperTrainer

VARIANTS = ("full", "lora", "compact", "clsr", "js", "js-cached", "kl")
# Of LoRA on fc1 and fc2, and of the compact expert.
RANK = 16


class StepTimes(TrainerCallback):
    """Seconds of each optimiser step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.started = 0.0

    def on_step_begin(self, *args, **kwargs) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *args, **kwargs) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.started)


class TimedTeacher:
    """A teacher that adds up its own seconds."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher, self.seconds = teacher, []
        self.own_features, self.name, self.processor = teacher.own_features, teacher.name, teacher.processor

    def __call__(self, *args):
        started = time.perf_counter()
        logits = self.teacher(*args)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - started)
        return logits


def peak_bytes() -> int:
    """Most memory that this process held: the GPU's where there is one, otherwise resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def read(args: argparse.Namespace) -> tuple[WhisperProcessor, LabelBuilder, SpeechDataset]:
    processor = AutoProcessor.from_pretrained(args.base)
    labels = LabelBuilder(processor.tokenizer)
    speech = read_corpus(
        DataArguments(data=[args.speech], language=[args.language], where=["suspect=0"]),
        labels,
        processor.feature_extractor,
    )
    rows = training_rows(speech.splits.train, RunArguments(join_seconds=28.0), labels=labels, processor=processor)
    return processor, labels, rows


def measure(args: argparse.Namespace) -> dict:
    """One variant in this process."""
    processor, labels, rows = read(args)
    common = {
        "output_dir": args.output, "max_steps": args.steps, "per_device_train_batch_size": args.batch, "bf16": True,
        "use_cpu": not torch.cuda.is_available(), "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "logging_strategy": "no",
    }  # fmt: skip
    times, teacher = StepTimes(), None
    if args.variant in ("full", "lora"):
        model = WhisperForConditionalGeneration.from_pretrained(args.base)
        if args.variant == "lora":
            model = with_adapters(model, BaselineArguments(method="lora", lora_rank=RANK))
        trainer = SpeechTrainer(
            model, SpeechTrainingArguments(**common), processing_class=processor, train_dataset=rows, callbacks=[times]
        )
    else:
        model = DistilWhisperForConditionalGeneration.from_pretrained(args.base)
        model.add_expert(args.language, rank=RANK if args.variant == "compact" else None)
        divergence = args.variant.partition("-")[0] if args.variant.startswith(("js", "kl")) else "none"
        arguments = DistilWhisperTrainingArguments(**common, distillation=divergence)
        if divergence != "none":
            # In the precision that the student computes in.
            live = Teacher.from_pretrained(
                args.teacher or args.base, student=model, student_processor=processor, precision="bfloat16"
            )
            teacher = TimedTeacher(live)
        if args.variant == "js-cached":
            # Full before the first step, as `distil-whisper teach` leaves it.
            teacher = CachedTeacher(live, Path(args.output) / "teacher")
        trainer = DistilWhisperTrainer(
            model, arguments, processing_class=processor, teacher=teacher, train_dataset=rows, callbacks=[times]
        )
    if isinstance(teacher, CachedTeacher):
        for inputs in trainer.get_train_dataloader():
            trainer.ask_teacher(inputs)
    loaded = peak_bytes()
    trainer.train()
    outcome = {"seconds": times.seconds[1:], "peak": peak_bytes(), "before": loaded}
    if isinstance(teacher, TimedTeacher):
        outcome["teacher"] = teacher.seconds[1:]
    if args.variant == "clsr":
        # What a worker does, in this process: reading, features and labels of the batches.
        loader = DataLoader(rows, batch_size=args.batch, collate_fn=SpeechCollator(labels))
        started = time.perf_counter()
        # Five of them, or all there are.
        batches = sum(1 for _ in islice(loader, 5))
        outcome["loader"] = (time.perf_counter() - started) / batches
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="plain Whisper: folder or Hub name")
    parser.add_argument("--teacher", default=None, help="of js and kl; by default the base, live and in bfloat16")
    parser.add_argument("--speech", required=True, help="folder with metadata.csv")
    parser.add_argument("--language", required=True, help="Whisper's code")
    parser.add_argument("--batch", type=int, default=4, help="windows of 30 s in a step")
    parser.add_argument("--steps", type=int, default=4, help="steps of each variant in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", default="runs/training_benchmark")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="full among them")
    parser.add_argument("--variant", choices=VARIANTS, default=None, help="measure this one in this process only")
    args = parser.parse_args()
    if args.variant is not None:
        print(json.dumps(measure(args)))
        return
    found = {variant: [] for variant in args.variants}
    for _ in range(args.rounds):
        for variant in args.variants:
            command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            if ended.returncode:
                raise SystemExit(f"{variant} failed:\n{ended.stderr[-3000:]}")
            found[variant].append(json.loads(ended.stdout.splitlines()[-1]))
    step = {v: statistics.median(s for run in runs for s in run["seconds"]) for v, runs in found.items()}
    peak = {v: statistics.median(run["peak"] for run in runs) for v, runs in found.items()}
    print("| variant | s / step | step / full's | peak GB | peak / full's | teacher's share of the step |")
    print("|---|---|---|---|---|---|")
    for variant in args.variants:
        taught = [s for run in found[variant] for s in run.get("teacher", [])]
        share = f"{statistics.median(taught) / step[variant]:.0%}" if taught else ""
        print(
            f"| {variant} | {step[variant]:.2f} | {step[variant] / step['full']:.2f} | {peak[variant] / 1e9:.2f} "
            f"| {peak[variant] / peak['full']:.2f} | {share} |"
        )
    if "clsr" not in found:
        return
    loader = statistics.median(run["loader"] for run in found["clsr"])
    print(
        f"\nLoader: {loader:.3f} s for a batch of {args.batch} on one core, {loader / step['clsr']:.1%} of a CLSR step."
    )


if __name__ == "__main__":
    main()
