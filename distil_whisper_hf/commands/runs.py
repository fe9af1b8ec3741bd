"""What the training programs share: their flags, JSON recipes and the last steps of a run."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, PreTrainedModel, WhisperProcessor, set_seed
from transformers.trainer_utils import get_last_checkpoint

from ..cpu_precision import computing_dtype
from ..data.arguments import DataArguments
from ..data.atomic_files import write_json
from ..data.clips import Clip
from ..data.corpus import Corpus, read_corpus
from ..data.joining import join_clips
from ..data.labels import LabelBuilder
from ..data.rejections import notices
from ..data.screening import REJECTIONS_FILE, TooManyRejected
from ..evaluation.systems.hypotheses import GenerationSettings
from ..evaluation.systems.opening import System
from ..training.arguments import SpeechTrainingArguments
from ..training.datasets import RowMaker, SpeechDataset
from ..training.features import FeatureCache
from ..training.speech_trainer import SpeechTrainer
from .final_scores import ScoreRow, score_system, table
from .preview import count, preview
from .starting import check_new_tokens, open_config

# Steps and seconds of a run, kept for tests that come later.
OUTCOME_FILE = "training.json"


@dataclass
class RunArguments:
    """The base, how windows are filled, and what is tested in the end."""

    model: str | None = field(default=None, metadata={"help": "Plain Whisper to start from: folder or Hub name."})
    join_seconds: float = field(
        default=0.0,
        metadata={
            "help": "Join short clips up to this many seconds (28 is a good value); 0 trains on them one by one."
        },
    )
    join_copies: int = field(default=1, metadata={"help": "How often the clips are joined anew; each is an epoch."})
    feature_cache: str | None = field(default=None, metadata={"help": "Folder to keep log-mel features in."})
    test: str = field(
        default="both",
        metadata={
            "help": "Score on the test sets at the end: the trained model and its base (both), the trained model "
            "alone, or none.",
            "choices": ("both", "trained", "none"),
        },
    )
    test_limit: int | None = field(
        default=None, metadata={"help": "Most clips of each test set, the same ones in every run."}
    )
    test_only: bool = field(default=False, metadata={"help": "Test what output_dir holds, without training."})
    test_batch_size: int = field(default=16, metadata={"help": "Clips in a batch when testing."})
    test_max_new_tokens: int = field(default=200, metadata={"help": "Most tokens of a transcript when testing."})
    test_precision: str = field(
        default="float32",
        metadata={"help": "Of the tested models.", "choices": ("float32", "bfloat16", "float16")},
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint in output_dir, if any."})
    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Read, screen and divide the speech, say what came of it, show the first rows, write splits.json "
            "and rejections.jsonl, and stop."
        },
    )

    def __post_init__(self) -> None:
        for name, least in (("join_copies", 1), ("test_limit", 1), ("test_batch_size", 1), ("join_seconds", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name} must be at least {least}, got {value}.")


def command_line(program: str, arguments: Sequence[str] | None) -> str:
    """The command as a person would type it again."""
    return shlex.join(["distil-whisper", program, *(sys.argv[1:] if arguments is None else arguments)])


def training_rows(
    clips: Sequence[Clip],
    run: RunArguments,
    *,
    labels: LabelBuilder,
    processor: WhisperProcessor,
    teacher_extractor: Any = None,
    seed: int = 0,
) -> SpeechDataset:
    """The training set, its clips joined if that is wanted."""
    if run.join_seconds > 0:
        clips = join_clips(clips, labels=labels, max_seconds=run.join_seconds, copies=run.join_copies, seed=seed)
    cache = None if run.feature_cache is None else FeatureCache(run.feature_cache)
    make_row = RowMaker(processor.feature_extractor, teacher_extractor=teacher_extractor, cache=cache)
    return SpeechDataset(clips, make_row)


def prepare(
    run: RunArguments, data: DataArguments, training: SpeechTrainingArguments
) -> tuple[WhisperProcessor, LabelBuilder, Corpus]:
    """Open the processor, read and divide the speech, say and write what came of it.

    Raises:
        ValueError: a setting that the run could only fail by later, or what reading the speech refuses.
    """
    config = open_config(run.model)
    if run.test != "none":
        check_new_tokens(config, run.test_max_new_tokens, flag="--test_max_new_tokens")
    if run.test_only and not (Path(training.output_dir) / OUTCOME_FILE).is_file():
        raise ValueError(
            f"Expected a run to test in {training.output_dir!r}, found no {OUTCOME_FILE}. Train first, without "
            "--test_only."
        )
    set_seed(training.seed)
    processor = AutoProcessor.from_pretrained(run.model)
    window = processor.feature_extractor.chunk_length
    if run.join_seconds > window:
        raise ValueError(f"--join_seconds must be at most the model's window of {window} s, got {run.join_seconds:g}.")
    labels = LabelBuilder(processor.tokenizer, leading_space=data.leading_space)
    try:
        corpus = read_corpus(data, labels, processor.feature_extractor, test_limit=run.test_limit)
    except TooManyRejected as error:
        if training.process_index == 0:
            error.report.save(Path(training.output_dir) / REJECTIONS_FILE)
        raise
    if training.process_index == 0:
        corpus.save(Path(training.output_dir))
        print(corpus.report.summary())
        if corpus.report.rejections:
            print(f"what was left out: {Path(training.output_dir) / REJECTIONS_FILE}")
        for line in notices(corpus.report.notes):
            print(line)
        print(corpus.splits.report())
    return processor, labels, corpus


def show_rows(
    rows: SpeechDataset | Iterable[Clip], processor: WhisperProcessor, labels: LabelBuilder, corpus: Corpus
) -> None:
    """The end of a dry run: the test sets, and the first rows as the model will see them."""
    for name, clips in corpus.test_sets.items():
        domain = "out of domain" if name in corpus.out_of_domain else "in domain"
        print(f"test set {name} ({domain}): {count(clips)}")
    print(preview(rows.clips if isinstance(rows, SpeechDataset) else rows, processor.tokenizer, labels))


def train(trainer: SpeechTrainer, run: RunArguments) -> dict[str, Any]:
    """Train, from the last checkpoint if that is wanted; returns steps, seconds and number of trained parameters."""
    output = trainer.args.output_dir
    checkpoint = get_last_checkpoint(output) if run.resume and Path(output).is_dir() else None
    started = time.perf_counter()
    outcome = trainer.train(resume_from_checkpoint=checkpoint)
    rows = trainer.train_dataset
    left_out = len(rows.failures()) if isinstance(rows, SpeechDataset) else sum(rows.counts().values())
    return {
        "steps": outcome.global_step,
        "seconds": time.perf_counter() - started,
        "trained_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "left_out": left_out,
    }


def finish(outcome: dict[str, Any], training: SpeechTrainingArguments) -> None:
    """Say what a run took, and keep it for its tests."""
    if training.process_index == 0:
        print(
            f"{outcome['steps']} steps in {outcome['seconds']:.0f} s, {outcome['trained_parameters']:,} parameters; "
            f"{outcome['left_out']} clips were left out in training"
        )
        write_json(Path(training.output_dir) / OUTCOME_FILE, outcome)


def report(
    systems: Mapping[str, PreTrainedModel],
    processor: WhisperProcessor,
    corpus: Corpus,
    run: RunArguments,
    training: SpeechTrainingArguments,
    **more: Any,
) -> list[ScoreRow]:
    """Test systems, print the table, and write it with the transcripts into `scores.json`.

    Args:
        systems: name -> model, tested in this order.
        more: further content of the file, such as the command and gate use.
    """
    folder = Path(training.output_dir)
    rows: list[ScoreRow] = []
    outcome = json.loads((folder / OUTCOME_FILE).read_text(encoding="utf-8"))
    dtype = computing_dtype(getattr(torch, run.test_precision), training.device)
    more = {**more, **outcome, "test_precision": str(dtype).removeprefix("torch.")}
    texts: dict[str, dict[str, Any]] = {
        name: {
            "domain": "out" if name in corpus.out_of_domain else "in",
            "ids": [clip.id for clip in clips],
            "languages": [clip.language for clip in clips],
            "references": [clip.text for clip in clips],
        }
        for name, clips in corpus.test_sets.items()
    }
    settings = GenerationSettings(max_new_tokens=run.test_max_new_tokens, batch_size=run.test_batch_size)
    for name, model in systems.items():
        system = System(name, model.to(dtype).eval(), processor)
        found, transcripts = score_system(system, corpus.test_sets, settings)
        rows += found
        for dataset, hypotheses in transcripts.items():
            texts[dataset][name] = hypotheses
    print(table(rows))
    write_json(folder / "scores.json", {**more, "rows": [asdict(row) for row in rows], "transcripts": texts})
    return rows
