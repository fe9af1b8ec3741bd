"""What the training programs share: their flags, JSON recipes and the last steps of a run."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, PreTrainedModel, WhisperProcessor, set_seed

from ..cpu_precision import computing_dtype
from ..data.arguments import DataArguments
from ..data.atomic_files import write_json
from ..data.clips import Clip
from ..data.corpus import Corpus, read_corpus
from ..data.joining import WindowStyle, join_clips
from ..data.labels import LabelBuilder
from ..data.rejections import notices
from ..data.screening import REJECTIONS_FILE, TooManyRejected
from ..evaluation.systems.hypotheses import GenerationSettings
from ..evaluation.systems.opening import System
from ..evaluation.systems.processes import running
from ..secret_tokens import without_given_tokens
from ..training.arguments import SpeechTrainingArguments
from ..training.datasets import RowMaker, SpeechDataset
from ..training.features import FeatureCache
from ..training.resuming import last_checkpoint
from ..training.speech_trainer import SpeechTrainer
from .final_scores import ScoreRow, score_system, table
from .preview import count, preview
from .run_records import (
    OUTCOME_FILE,
    SCORES_FILE,
    RunRecord,
    begin_run,
    check_no_run,
    clips_digest,
    outcome_of,
    read_run,
    run_files,
    weight_digests,
    write_outcome,
)
from .starting import check_new_tokens, open_config


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
    timestamp_probability: float = field(
        default=0.0,
        metadata={
            "help": "Share of joined windows that say when their clips begin and end, so that long audio, which is "
            "transcribed with timestamps, keeps working (0.5 is a good value)."
        },
    )
    prompt_probability: float = field(
        default=0.0,
        metadata={
            "help": "Share of joined windows with the text of the speaker's window before as a prompt, as long audio "
            "has it with condition_on_prev_tokens."
        },
    )
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
    test_only: bool = field(
        default=False, metadata={"help": "Test what output_dir holds, trained there or not, without training."}
    )
    test_batch_size: int = field(default=16, metadata={"help": "Clips in a batch when testing."})
    test_max_new_tokens: int = field(default=200, metadata={"help": "Most tokens of a transcript when testing."})
    test_precision: str = field(
        default="float32",
        metadata={"help": "Of the tested models.", "choices": ("float32", "bfloat16", "float16")},
    )
    resume: bool = field(
        default=False,
        metadata={
            "help": "Go on from the last checkpoint in output_dir, if any; what is there of another run is refused."
        },
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Remove the run in output_dir, its checkpoints and experts, and start anew."}
    )
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
        if self.window_style != WindowStyle() and self.join_seconds == 0:
            raise ValueError(
                "Expected joined clips with --timestamp_probability and --prompt_probability, got them one by one: add "
                "--join_seconds 28."
            )
        if self.resume and self.overwrite:
            raise ValueError("Expected --resume, which goes on with a run, or --overwrite, which removes it, got both.")

    @property
    def window_style(self) -> WindowStyle:
        """How joined windows are written."""
        return WindowStyle(self.timestamp_probability, self.prompt_probability)

    @property
    def windows(self) -> dict[str, float]:
        """What decides the windows, as a run's record keeps it."""
        names = ("join_seconds", "join_copies", "timestamp_probability", "prompt_probability")
        return {name: getattr(self, name) for name in names}


def command_line(program: str, arguments: Sequence[str] | None) -> str:
    """The command as a person would type it again, without tokens."""
    words = sys.argv[1:] if arguments is None else arguments
    return shlex.join(["distil-whisper", program, *without_given_tokens(words)])


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
        clips = join_clips(
            clips,
            labels=labels,
            max_seconds=run.join_seconds,
            copies=run.join_copies,
            seed=seed,
            style=run.window_style,
        )
    cache = None if run.feature_cache is None else FeatureCache(run.feature_cache)
    make_row = RowMaker(processor.feature_extractor, teacher_extractor=teacher_extractor, cache=cache)
    return SpeechDataset(clips, make_row)


def prepare(
    run: RunArguments, data: DataArguments, training: SpeechTrainingArguments
) -> tuple[WhisperProcessor, LabelBuilder, Corpus]:
    """Open the processor, read and divide the speech, say what came of it.

    Raises:
        FileExistsError: the folder holds a run, and nothing was said of what to do with it.
        ValueError: a setting that the run could only fail by later, or what reading the speech refuses.
    """
    config = open_config(run.model)
    if run.test != "none":
        check_new_tokens(config, run.test_max_new_tokens, flag="--test_max_new_tokens")
    if run.test_only and not weight_digests(Path(training.output_dir)):
        raise ValueError(
            f"Expected weights to test in {training.output_dir!r}, found none. Train first, without --test_only."
        )
    if training.process_index == 0 and not (run.dry_run or run.test_only or run.resume or run.overwrite):
        check_no_run(Path(training.output_dir))
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
        print(corpus.report.summary())
        if corpus.report.rejections:
            print(f"what was left out: {Path(training.output_dir) / REJECTIONS_FILE}")
        for line in notices(corpus.report.notes):
            print(line)
        print(corpus.splits.report())
    return processor, labels, corpus


def show_rows(
    rows: SpeechDataset | Iterable[Clip],
    processor: WhisperProcessor,
    labels: LabelBuilder,
    corpus: Corpus,
    folder: str | Path,
) -> None:
    """The end of a dry run: test sets and first rows as the model will see them; splits in a folder without a run."""
    if not running().main:
        return
    for name, clips in corpus.test_sets.items():
        domain = "out of domain" if name in corpus.out_of_domain else "in domain"
        print(f"test set {name} ({domain}): {count(clips)}")
    print(preview(rows.clips if isinstance(rows, SpeechDataset) else rows, processor.tokenizer, labels))
    if not run_files(Path(folder)):
        corpus.save(Path(folder))


def carry_out(
    trainer: SpeechTrainer,
    run: RunArguments,
    record: RunRecord,
    corpus: Corpus,
    *,
    describe: Callable[[int], None] = lambda steps: None,
) -> None:
    """Train and save, as far as that is not done yet; say what it took, and keep it for the run's tests.

    Args:
        record: of the run; the folder may hold it already.
        describe: told the number of steps before the model is saved.

    Raises:
        ValueError: the run is to go on, and the folder holds another one.
        CheckpointError: no checkpoint to go on from, or one that lacks a state.
    """
    training = trainer.args
    processes = running()
    folder = Path(training.output_dir)
    # The others look at what the main process leaves.
    with training.main_process_first(local=False):
        if training.process_index == 0:
            begin_run(folder, record, resume=run.resume, overwrite=run.overwrite)
    trainer.run_id = run_id_in(folder, record)
    done = outcome_of(folder, trainer.run_id)
    if done is not None:
        if training.process_index == 0:
            print(
                f"The run in {str(folder)!r} was trained before, {done['steps']} steps: its weights stay as they are."
            )
        return
    if training.process_index == 0:
        corpus.save(folder)
    checkpoint = last_checkpoint(folder, trainer.run_id, processes=training.world_size) if run.resume else None
    outcome = trainer.train(resume_from_checkpoint=checkpoint)
    describe(outcome.global_step)
    trainer.save_model()
    rows = trainer.train_dataset
    # Each process knows of its own; the others open what the main process has saved, to test it.
    if isinstance(rows, SpeechDataset):
        failed = processes.gather([clip.id for clip in rows.failures()])
        left_out = len({name for names in failed for name in names})
    else:
        left_out = sum(processes.gather(sum(rows.counts().values())))
    if training.process_index != 0:
        return
    parameters = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    print(
        f"{outcome.global_step} steps in {trainer.seconds:.0f} s, {parameters:,} parameters; "
        f"{left_out} clips were left out in training"
    )
    content = {"steps": outcome.global_step, "seconds": trainer.seconds, "trained_parameters": parameters}
    write_outcome(folder, trainer.run_id, {**content, "left_out": left_out})


def run_id_in(folder: Path, record: RunRecord) -> str:
    """The id that the checkpoints of this run have: an older version may have given it, from fewer arguments."""
    there = read_run(folder)
    return record.id if there is None else there["id"]


def is_tested(run: RunArguments, corpus: Corpus, folder: str | Path) -> bool:
    """Whether the scores in a run's folder are those that would be made now, and if so says it."""
    try:
        kept = json.loads((Path(folder) / SCORES_FILE).read_text(encoding="utf-8"))
        tested = kept["tested"] == _test_digest(run, corpus, Path(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if tested and running().main:
        print(f"The run in {str(folder)!r} was tested before: nothing was changed.")
    return tested


def _test_digest(run: RunArguments, corpus: Corpus, folder: Path) -> str:
    """Digest of what decides the scores of a run: its weights, test clips and settings."""
    settings = {name: value for name, value in asdict(run).items() if name.startswith("test") and name != "test_only"}
    sets = {name: clips_digest(clips) for name, clips in corpus.test_sets.items()}
    decides = json.dumps([weight_digests(folder), settings, sets], sort_keys=True)
    return hashlib.sha256(decides.encode()).hexdigest()[:32]


def report(
    systems: Mapping[str, PreTrainedModel],
    processor: WhisperProcessor,
    corpus: Corpus,
    run: RunArguments,
    training: SpeechTrainingArguments,
    **more: Any,
) -> list[ScoreRow]:
    """Test systems, print the table, and write it with the transcripts into `scores.json`, the last file of a run.

    Several processes share the clips; the first one alone prints and writes.

    Args:
        systems: name -> model, tested in this order.
        more: further content of the file, such as the command and gate use.
    """
    folder = Path(training.output_dir)
    dtype = computing_dtype(getattr(torch, run.test_precision), training.device)
    settings = GenerationSettings(max_new_tokens=run.test_max_new_tokens, batch_size=run.test_batch_size)
    rows: list[ScoreRow] = []
    heard: dict[str, dict[str, list[str]]] = {}
    for name, model in systems.items():
        found, heard[name] = score_system(System(name, model.to(dtype).eval(), processor), corpus.test_sets, settings)
        rows += found
    if training.process_index != 0:
        return rows
    try:
        outcome = json.loads((folder / OUTCOME_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        # Not trained here: compressed, converted or fetched.
        outcome = {}
    # A run of version 0.1 has none.
    outcome.pop("files", None)
    said = {**more, **outcome, "tested": _test_digest(run, corpus, folder)}
    said["test_precision"] = str(dtype).removeprefix("torch.")
    texts: dict[str, dict[str, Any]] = {
        name: {
            "domain": "out" if name in corpus.out_of_domain else "in",
            "ids": [clip.id for clip in clips],
            "languages": [clip.language for clip in clips],
            "references": [clip.text for clip in clips],
        }
        for name, clips in corpus.test_sets.items()
    }
    for name, transcripts in heard.items():
        for dataset, hypotheses in transcripts.items():
            texts[dataset][name] = hypotheses
    print(table(rows))
    write_json(folder / SCORES_FILE, {**said, "rows": [asdict(row) for row in rows], "transcripts": texts})
    return rows
