"""Train language experts: one command from speech to `expert.<name>.safetensors` and its test scores.

distil-whisper train examples/recipes/paper_js.json --model openai/whisper-small --teacher openai/whisper-large-v2 \\
    --data FOLDER --language ca --output_dir runs/ca
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, TrainerCallback, WhisperProcessor

from ..configuration_distil_whisper import DistilWhisperConfig
from ..cpu_precision import computing_dtype
from ..data.arguments import DataArguments, one_for_each
from ..data.clips import Clip
from ..data.corpus import Corpus, stream_clips
from ..data.labels import LabelBuilder
from ..data.sampling import choose_clips
from ..data.screening import REJECTIONS_FILE, Screen
from ..data.untranscribed import audio_files
from ..evaluation.scores.trainer_metrics import PredictionMetrics
from ..evaluation.systems.gates import open_shares, record_decisions
from ..evaluation.systems.hypotheses import GenerationSettings
from ..evaluation.systems.opening import System
from ..expert_header import tensors_digest
from ..languages import language_code
from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration
from ..training.arguments import DistilWhisperTrainingArguments
from ..training.datasets import RowMaker, SpeechDataset, StreamingSpeechDataset
from ..training.expert_arguments import ExpertArguments, open_teacher
from ..training.teacher import Teacher
from ..training.teacher_cache import CachedTeacher
from ..training.trainer import DistilWhisperTrainer
from .anchors import AnchorArguments, anchor_windows
from .choosing import choose_interpolation
from .command_line import parse
from .mistakes import program
from .output_folders import check_disk_space, check_output_dir, locked
from .run_records import RunRecord, run_record
from .runs import (
    RunArguments,
    carry_out,
    command_line,
    is_tested,
    prepare,
    report,
    show_rows,
    training_rows,
)
from .starting import check_libraries, expert_bytes, open_config

PROGRAM = "distil-whisper train"
# What its flags are the fields of.
KINDS = (RunArguments, DataArguments, ExpertArguments, AnchorArguments, DistilWhisperTrainingArguments)


@program(PROGRAM)
def main(arguments: Sequence[str]) -> int:
    """Run the program; returns the exit status."""
    return train(arguments, command=command_line("train", arguments))


def train(arguments: Sequence[str], *, command: str, callbacks: Sequence[TrainerCallback] = ()) -> int:
    """What the program does, for an engine that starts processes by itself (see `examples/ray_train.py`); raises what
    the program says.

    Args:
        arguments: words of the command line.
        command: kept with the scores.
        callbacks: for the trainer.
    """
    run, data, expert, anchors, training = read_arguments(arguments)
    _check_start(run, data, expert, anchors, training)
    with locked(training.output_dir, main_process=training.process_index == 0):
        return _train(run, data, expert, anchors, training, command=command, callbacks=callbacks)


def read_arguments(
    words: Sequence[str],
) -> tuple[RunArguments, DataArguments, ExpertArguments, AnchorArguments, DistilWhisperTrainingArguments]:
    """Flags and recipes as the program takes them; ValueError for a mistake in them."""
    return parse(KINDS, words, program=PROGRAM, description=__doc__)


def _train(
    run: RunArguments,
    data: DataArguments,
    expert: ExpertArguments,
    anchors: AnchorArguments,
    training: DistilWhisperTrainingArguments,
    *,
    command: str,
    callbacks: Sequence[TrainerCallback],
) -> int:
    processor, labels, corpus = prepare(run, data, training)
    names = _experts(data, corpus.splits.train)
    if run.dry_run:
        rows = (
            stream_clips(data)
            if data.streaming
            else training_rows(corpus.splits.train, run, labels=labels, processor=processor, seed=training.seed)
        )
        show_rows(rows, processor, labels, corpus, training.output_dir)
        return 0
    if not run.test_only:
        _check_room(run, expert, training, len(names))
        trainer = build_trainer(run, data, expert, anchors, training, processor, labels, corpus)
        for callback in callbacks:
            trainer.add_callback(callback)

        def describe(steps: int) -> None:
            for name, _ in names:
                entry = trainer.model.config.language_experts[name]["training"]
                entry |= {"clips": sum(clip.expert_name == name for clip in corpus.splits.train), "steps": steps}
                if anchors.anchor_data:
                    entry["anchor_windows"] = sum(clip.expert_name == name for clip in _anchors(trainer))
                if training.interpolation is None:
                    _interpolate(trainer.model, name, run, training, processor, corpus)

        carry_out(trainer, run, _record(trainer, run, data, expert, anchors, corpus), corpus, describe=describe)
    if run.test == "none":
        return 0
    if run.resume and is_tested(run, corpus, training.output_dir):
        return 0
    # Opened anew, as users will: the trainer leaves mixed precision wrapped around the model that it trained.
    trained = DistilWhisperForConditionalGeneration.from_pretrained(run.model, experts=[]).to(training.device)
    trained.load_expert([name for name, _ in names], training.output_dir)
    label = f"experts-{'clsr' if training.distillation == 'none' else training.distillation}"
    systems: dict[str, PreTrainedModel] = {label: trained}
    if run.test == "both":
        base = DistilWhisperForConditionalGeneration.from_pretrained(run.model, experts=[]).to(training.device)
        systems = {"whisper": base, **systems}
    gates = None
    if training.process_index == 0:
        # Only it writes.
        gates = _gate_shares(trained, processor, _of_experts(corpus, [name for name, _ in names], run.test_limit))
    report(systems, processor, corpus, run, training, command=command, gates=gates)
    return 0


def _interpolate(
    model: DistilWhisperForConditionalGeneration,
    name: str,
    run: RunArguments,
    training: DistilWhisperTrainingArguments,
    processor: WhisperProcessor,
    corpus: Corpus,
) -> None:
    """Take an expert back by the share that dev clips choose, and keep what they said in the record of its training."""
    weight, rates = choose_interpolation(
        model,
        name,
        run.model,
        [clip for clip in corpus.splits.dev if clip.expert_name == name],
        processor,
        device=training.device,
        dtype=computing_dtype(getattr(torch, run.test_precision), training.device),
        settings=GenerationSettings(max_new_tokens=run.test_max_new_tokens, batch_size=run.test_batch_size),
    )
    model.interpolate_expert(name, weight)
    model.config.language_experts[name]["training"]["interpolation_by_dev"] = rates
    shown = "; ".join(
        f"{share}: {' and '.join(f'{rate:.1f} % {domain} domain' for domain, rate in by_domain.items())}"
        for share, by_domain in rates.items()
    )
    if training.process_index == 0:
        print(f"expert {name}: {weight:g} of it, the rest Whisper's (dev WER {shown})")


def _record(
    trainer: DistilWhisperTrainer,
    run: RunArguments,
    data: DataArguments,
    expert: ExpertArguments,
    anchors: AnchorArguments,
    corpus: Corpus,
) -> RunRecord:
    models = {"base": trainer.model}
    teacher = trainer.teacher.teacher if isinstance(trainer.teacher, CachedTeacher) else trainer.teacher
    if isinstance(teacher, Teacher):
        models["teacher"] = teacher.model
    arguments = {**asdict(expert), **run.windows}
    if expert.teacher not in (None, "base"):
        # Known by its weights, wherever it lies.
        arguments["teacher"] = "a Whisper"
    # Where it lies changes nothing, that it cuts distributions does.
    if arguments.pop("teacher_cache") is None:
        arguments.pop("teacher_top")
    if data.streaming:
        arguments |= {name: value for name, value in asdict(data).items() if not name.startswith("test_")}
        # Each reads a part of the stream: their number decides the order of the clips.
        arguments["dataloader_num_workers"] = trainer.args.dataloader_num_workers
    # Experts that the model had already go on from where they are.
    for name in DistilWhisperConfig.from_pretrained(run.model).language_experts:
        if name in trainer.train_experts:
            arguments[f"expert {name} at the start"] = tensors_digest(trainer.model.expert_file(name).tensors)
    clips = {"training clips": corpus.splits.train, "dev clips": corpus.splits.dev}
    arguments["anchor_share"] = anchors.anchor_share if anchors.anchor_data else 0.0
    # By what is heard: what Whisper says on it may differ in the last bits elsewhere.
    clips["anchors"] = [replace(clip, text="", labels=None) for clip in _anchors(trainer)]
    return run_record(models=models, clips=clips, arguments=arguments, training=trainer.args)


def _check_start(
    run: RunArguments,
    data: DataArguments,
    expert: ExpertArguments,
    anchors: AnchorArguments,
    training: DistilWhisperTrainingArguments,
) -> None:
    """Refuse what could only fail later."""
    check_output_dir(training.output_dir, writes="experts")
    if (expert.teacher is None) != (training.distillation == "none") and not (run.test_only or run.dry_run):
        got = "no teacher" if expert.teacher is None else f"the teacher {expert.teacher}"
        raise ValueError(
            f"Expected --teacher exactly where there is a distillation, got {got} with --distillation "
            f"{training.distillation}. Name a teacher, or choose --distillation none."
        )
    if expert.teacher not in (None, "base"):
        open_config(expert.teacher, what="--teacher")
        check_libraries(["bitsandbytes"] if expert.teacher_precision == "int8" else [], what="an int8 teacher")
    for folder in anchors.anchor_data:
        audio_files(folder)
    if data.streaming and anchors.anchor_data:
        raise ValueError("Expected data that is read before training with --anchor_data, got a stream.")
    if data.streaming and training.max_steps < 1 and not run.test_only:
        raise ValueError(
            "Expected the number of steps of a streamed run, which has no end of its own: --max_steps 1000."
        )


def _check_room(
    run: RunArguments, expert: ExpertArguments, training: DistilWhisperTrainingArguments, experts: int
) -> None:
    """Refuse a run whose experts and checkpoints the disk has no room for; one that goes on has most of its own."""
    if run.resume:
        return
    config = DistilWhisperConfig.from_pretrained(run.model)
    kept = 0 if training.save_strategy == "no" else (training.save_total_limit or 2)
    needed = experts * expert_bytes(config, form=expert.form, checkpoints=kept)
    check_disk_space(training.output_dir, needed, f"{experts} experts and {kept} checkpoints")


def _anchors(trainer: DistilWhisperTrainer) -> list[Clip]:
    rows = trainer.train_dataset
    return [clip for clip in rows.clips if clip.anchor] if isinstance(rows, SpeechDataset) else []


def build_trainer(
    run: RunArguments,
    data: DataArguments,
    expert: ExpertArguments,
    anchors: AnchorArguments,
    training: DistilWhisperTrainingArguments,
    processor: WhisperProcessor,
    labels: LabelBuilder,
    corpus: Corpus,
) -> DistilWhisperTrainer:
    """The trainer of a run, with its model, teacher and rows."""
    model = DistilWhisperForConditionalGeneration.from_pretrained(run.model, **expert.settings)
    for name, language in _experts(data, corpus.splits.train):
        if name in model.expert_names:
            # Of a model that has it already: it goes on from there.
            continue
        form = expert.form
        model.add_expert(name, language=language, sides=form.sides, rank=form.rank, targets=form.targets)
    model = model.to(training.device)
    teacher = open_teacher(expert, model, processor)
    extractor = teacher.processor.feature_extractor if isinstance(teacher, Teacher | CachedTeacher) else None
    if data.streaming:
        rows = StreamingSpeechDataset(
            stream_clips(data),
            Screen(labels, max_seconds=float(processor.feature_extractor.chunk_length)),
            RowMaker(processor.feature_extractor, teacher_extractor=extractor),
            rejections_file=Path(training.output_dir) / REJECTIONS_FILE,
            endless=True,
        )
    else:
        clips = corpus.splits.train
        rows = training_rows(
            clips, run, labels=labels, processor=processor, teacher_extractor=extractor, seed=training.seed
        )
        if anchors.anchor_data:
            more = anchor_windows(
                anchors,
                run,
                corpus,
                _experts(data, clips),
                processor,
                labels,
                windows=len(rows),
                seed=training.seed,
                device=training.device,
            )
            rows = SpeechDataset([*rows.clips, *more], rows.make_row)
    dev = corpus.splits.dev
    make_row = RowMaker(processor.feature_extractor, teacher_extractor=extractor)
    return DistilWhisperTrainer(
        model,
        training,
        processing_class=processor,
        teacher=teacher,
        train_dataset=rows,
        eval_dataset=SpeechDataset(dev, make_row) if dev else None,
        compute_metrics=PredictionMetrics(processor.tokenizer) if training.predict_with_generate else None,
    )


def _of_experts(corpus: Corpus, names: Sequence[str], limit: int | None) -> list[Clip]:
    """Test clips of every expert: those of its own domain, or of any where there are none."""
    everywhere = [clip for clips in corpus.test_sets.values() for clip in clips]
    own = corpus.splits.test or everywhere
    return [clip for name in names for clip in choose_clips([one for one in own if one.expert_name == name], limit)]


def _gate_shares(
    model: DistilWhisperForConditionalGeneration, processor: WhisperProcessor, clips: Sequence[Clip]
) -> dict[str, dict[str, list[float]]]:
    """Share of open gates of every expert by side and layer, over speech frames and the tokens of the transcripts."""
    # By their number: two sources may name their clips alike.
    numbered = [replace(clip, dataset=str(number)) for number, clip in enumerate(clips)]
    texts = {clip.full_id: clip.text for clip in numbered}
    return open_shares(record_decisions(System("trained", model.eval(), processor), numbered, texts))


def _experts(arguments: DataArguments, clips: list[Clip]) -> list[tuple[str, str]]:
    """Name and language of every expert to train."""
    if not arguments.streaming:
        return sorted({(clip.expert_name, clip.language) for clip in clips})
    languages = one_for_each(arguments.language, arguments.data, "language")
    experts = one_for_each(arguments.expert, arguments.data, "expert")
    if None in languages:
        raise ValueError("Expected the language of every streamed source, which cannot be looked up: --language ca.")
    codes = [language_code(language) for language in languages]
    return sorted({(name or code, code) for name, code in zip(experts, codes, strict=True)})
