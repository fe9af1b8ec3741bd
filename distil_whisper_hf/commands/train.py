"""Train language experts: one command from speech to `expert.<name>.safetensors` and its test scores.

distil-whisper train examples/recipes/paper_js.json --model openai/whisper-small --teacher openai/whisper-large-v2 \
    --data FOLDER --language ca --output_dir runs/ca
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoProcessor, set_seed
from transformers.trainer_utils import get_last_checkpoint

from ..evaluation.prediction_metrics import PredictionMetrics
from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration
from ..training.arguments import DistilWhisperTrainingArguments
from ..training.clips import Clip
from ..training.labels import LabelBuilder
from ..training.speech_datasets import RowMaker, SpeechDataset
from ..training.teacher import BaseTeacher, Teacher
from ..training.trainer import DistilWhisperTrainer
from .programs import RunArguments, command_line, parse, report, training_rows
from .scoring import gate_use
from .speech import Speech, SpeechArguments, one_for_each, read_speech, stream_speech


@dataclass
class ExpertArguments:
    """The teacher, and what a new expert is."""

    teacher: str | None = field(
        default=None,
        metadata={"help": "Whisper to learn from: folder, Hub name, or `base` for the student's own base."},
    )
    teacher_precision: str = field(
        default="float32",
        metadata={"help": "Of the teacher alone.", "choices": ("float32", "bfloat16", "float16", "int8")},
    )
    gate_estimator: str = field(
        default="soft",
        metadata={
            "help": "soft: the paper's gate; straight_through: hard in training as in evaluation, for short runs.",
            "choices": ("soft", "straight_through"),
        },
    )
    expert_dropout: float = field(default=0.3, metadata={"help": "Dropout on an expert's output."})
    gate_dropout: float = field(default=0.1, metadata={"help": "Dropout on a gate's input."})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    kinds = (RunArguments, SpeechArguments, ExpertArguments, DistilWhisperTrainingArguments)
    run, speech_arguments, expert, training = parse(
        kinds, arguments, program="distil-whisper train", description=__doc__
    )
    if run.model is None:
        raise ValueError("Expected a Whisper to start from, got none. Name it: --model openai/whisper-small.")
    set_seed(training.seed)
    output = Path(training.output_dir)
    processor = AutoProcessor.from_pretrained(run.model)
    labels = LabelBuilder(processor.tokenizer, leading_space=speech_arguments.leading_space)
    speech = read_speech(speech_arguments, labels, processor.feature_extractor)
    print(speech.report.summary())
    print(speech.splits.report())
    speech.save(output)

    model = DistilWhisperForConditionalGeneration.from_pretrained(
        run.model,
        gate_estimator=expert.gate_estimator,
        expert_dropout=expert.expert_dropout,
        gate_dropout=expert.gate_dropout,
    )
    for name, language in _experts(speech_arguments, speech.splits.train):
        model.add_expert(name, language=language)
    model = model.to(training.device)
    teacher = _open_teacher(expert, model, processor)
    extractor = teacher.processor.feature_extractor if isinstance(teacher, Teacher) else None
    if speech_arguments.streaming:
        make_row = RowMaker(processor.feature_extractor, teacher_extractor=extractor)
        rejections = output / "rejections.jsonl"
        rows = stream_speech(speech_arguments, labels, make_row, rejections_file=rejections)
    else:
        clips = speech.splits.train
        rows = training_rows(
            clips, run, labels=labels, processor=processor, teacher_extractor=extractor, seed=training.seed
        )
    trainer = DistilWhisperTrainer(
        model,
        training,
        processing_class=processor,
        teacher=teacher,
        train_dataset=rows,
        eval_dataset=_dev_set(speech.splits.dev, processor, teacher),
        compute_metrics=PredictionMetrics(processor.tokenizer) if training.predict_with_generate else None,
    )
    checkpoint = get_last_checkpoint(str(output)) if run.resume and output.is_dir() else None
    started = time.perf_counter()
    outcome = trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - started
    for name, clip in model.config.language_experts.items():
        clip["training"]["clips"] = sum((c.expert or c.language) == name for c in speech.splits.train)
        clip["training"]["steps"] = outcome.global_step
    trainer.save_model()
    left_out = sum(rows.counts().values()) if speech_arguments.streaming else len(rows.failures())
    print(f"{outcome.global_step} steps in {seconds:.0f} s; {left_out} clips were left out in training")
    if run.test != "none" and trainer.is_world_process_zero():
        # Opened anew, as users will: the trainer leaves mixed precision wrapped around the model that it trained.
        base = DistilWhisperForConditionalGeneration.from_pretrained(run.model).to(training.device)
        trained = DistilWhisperForConditionalGeneration.from_pretrained(run.model).to(training.device)
        trained.load_expert(model.expert_names, output)
        label = f"experts-{'clsr' if training.distillation == 'none' else training.distillation}"
        systems = {"whisper": base, label: trained} if run.test == "both" else {label: trained}
        gates = {
            name: gate_use(trained, processor, clips[: run.test_limit])
            for name in model.expert_names
            if (clips := _of_expert(speech, name))
        }
        report(
            systems,
            processor,
            speech,
            run,
            output,
            command=command_line("train", arguments),
            gates=gates,
            seconds=seconds,
            steps=outcome.global_step,
            trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        )
    return 0


def _open_teacher(
    expert: ExpertArguments, model: DistilWhisperForConditionalGeneration, processor: object
) -> Teacher | BaseTeacher | None:
    if expert.teacher is None:
        return None
    if expert.teacher == "base":
        return BaseTeacher(model)
    return Teacher.from_pretrained(
        expert.teacher, student=model, student_processor=processor, precision=expert.teacher_precision
    )


def _dev_set(clips: list[Clip], processor: object, teacher: Teacher | BaseTeacher | None) -> SpeechDataset | None:
    extractor = teacher.processor.feature_extractor if isinstance(teacher, Teacher) else None
    return SpeechDataset(clips, RowMaker(processor.feature_extractor, teacher_extractor=extractor)) if clips else None


def _of_expert(speech: Speech, name: str) -> list[Clip]:
    """Test clips of an expert: those of its own domain, or of any where there are none."""
    everywhere = [clip for clips in speech.test_sets.values() for clip in clips]
    return [clip for clip in speech.splits.test or everywhere if (clip.expert or clip.language) == name]


def _experts(arguments: SpeechArguments, clips: list[Clip]) -> list[tuple[str, str]]:
    """Name and language of every expert to train."""
    if not arguments.streaming:
        return sorted({(clip.expert or clip.language, clip.language) for clip in clips})
    languages = one_for_each(arguments.language, arguments.data, "language")
    experts = one_for_each(arguments.expert, arguments.data, "expert")
    if None in languages:
        raise ValueError("Expected the language of every streamed source, which cannot be looked up: --language ca.")
    return sorted({(name or language, language) for name, language in zip(experts, languages, strict=True)})
