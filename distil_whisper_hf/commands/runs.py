"""What the training programs share: their flags, JSON recipes and the last steps of a run."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, HfArgumentParser, PreTrainedModel, WhisperProcessor, set_seed
from transformers.trainer_utils import get_last_checkpoint

from ..data.clips import Clip
from ..data.joining import join_clips
from ..data.labels import LabelBuilder
from ..data.sources import Speech, SpeechArguments, read_speech, write_json
from ..training.arguments import SpeechTrainingArguments
from ..training.datasets import RowMaker, SpeechDataset
from ..training.features import FeatureCache
from ..training.speech_trainer import SpeechTrainer
from .final_scores import ScoreRow, as_dicts, score_model, table

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


def parse(kinds: Sequence[type], arguments: Sequence[str] | None, *, program: str, description: str) -> tuple[Any, ...]:
    """The arguments of a program: flags over what JSON recipes say over defaults.

    Args:
        kinds: dataclasses, whose fields are the flags.
        arguments: words of the command line; those that end in .json and stand before the first flag are recipes, the
            later ones over the earlier ones.

    Raises:
        ValueError: a recipe with a name that is no flag, or a value that a dataclass refuses.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = HfArgumentParser(list(kinds), prog=program, description=description)
    known = {item.name for kind in kinds for item in fields(kind) if item.init}
    while words and words[0].endswith(".json"):
        path = Path(words.pop(0))
        recipe = json.loads(path.read_text(encoding="utf-8"))
        unknown = sorted(set(recipe) - known)
        if unknown:
            raise ValueError(f"{path.name} says {', '.join(unknown)}, which {program} does not know: see --help.")
        parser.set_defaults(**recipe)
    return parser.parse_args_into_dataclasses(args=words)


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
    window = processor.feature_extractor.chunk_length
    if run.join_seconds > window:
        raise ValueError(f"join_seconds must be at most the model's window of {window} s, got {run.join_seconds:g}.")
    if run.join_seconds > 0:
        clips = join_clips(clips, labels=labels, max_seconds=run.join_seconds, copies=run.join_copies, seed=seed)
    cache = None if run.feature_cache is None else FeatureCache(run.feature_cache)
    make_row = RowMaker(processor.feature_extractor, teacher_extractor=teacher_extractor, cache=cache)
    return SpeechDataset(clips, make_row)


def prepare(
    run: RunArguments, speech_arguments: SpeechArguments, training: SpeechTrainingArguments
) -> tuple[WhisperProcessor, LabelBuilder, Speech]:
    """Open the processor, read and divide the speech, say and write what came of it.

    Raises:
        ValueError: no model named, or what reading the speech refuses.
    """
    if run.model is None:
        raise ValueError("Expected a Whisper to start from, got none. Name it: --model openai/whisper-small.")
    set_seed(training.seed)
    processor = AutoProcessor.from_pretrained(run.model)
    labels = LabelBuilder(processor.tokenizer, leading_space=speech_arguments.leading_space)
    speech = read_speech(speech_arguments, labels, processor.feature_extractor)
    if training.process_index == 0:
        print(speech.report.summary())
        print(speech.splits.report())
        speech.save(Path(training.output_dir))
    return processor, labels, speech


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


def sample(clips: Sequence[Clip], limit: int | None) -> list[Clip]:
    """At most `limit` clips, spread over the whole set by a hash and the same in every run, in the set's order."""
    if limit is None or len(clips) <= limit:
        return list(clips)
    chosen = {id(clip) for clip in sorted(clips, key=lambda clip: clip.digest)[:limit]}
    return [clip for clip in clips if id(clip) in chosen]


def report(
    systems: dict[str, PreTrainedModel],
    processor: WhisperProcessor,
    speech: Speech,
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
    sets = {name: sample(clips, run.test_limit) for name, clips in speech.test_sets.items()}
    rows: list[ScoreRow] = []
    outcome = json.loads((folder / OUTCOME_FILE).read_text(encoding="utf-8"))
    more = {**more, **outcome, "test_precision": run.test_precision}
    texts = {
        name: {
            "domain": "out" if name in speech.out_of_domain else "in",
            "ids": [clip.id for clip in clips],
            "languages": [clip.language for clip in clips],
            "references": [clip.text for clip in clips],
        }
        for name, clips in sets.items()
    }
    for system, model in systems.items():
        model = model.to(getattr(torch, run.test_precision))
        found, transcripts = score_model(
            model,
            processor,
            sets,
            system=system,
            out_of_domain=speech.out_of_domain,
            batch_size=run.test_batch_size,
            max_new_tokens=run.test_max_new_tokens,
        )
        rows += found
        for name, hypotheses in transcripts.items():
            texts[name][system] = hypotheses
    print(table(rows))
    write_json(folder / "scores.json", {**more, "rows": as_dicts(rows), "transcripts": texts})
    return rows
