"""Train language experts: one command from speech to `expert.<name>.safetensors` and its test scores.

distil-whisper train examples/recipes/paper_js.json --model openai/whisper-small --teacher openai/whisper-large-v2 \
    --data FOLDER --language ca --output_dir runs/ca
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import PreTrainedModel, WhisperProcessor

from ..configuration_distil_whisper import EXPERT_SIDES
from ..data.clips import Clip
from ..data.labels import LabelBuilder
from ..data.sources import Speech, SpeechArguments, one_for_each, stream_speech
from ..evaluation.scores.trainer_metrics import PredictionMetrics
from ..languages import language_code
from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration
from ..training.arguments import DistilWhisperTrainingArguments
from ..training.datasets import RowMaker, SpeechDataset
from ..training.teacher import BaseTeacher, Teacher
from ..training.trainer import DistilWhisperTrainer
from .final_scores import gate_use
from .runs import RunArguments, command_line, finish, parse, prepare, report, sample, train, training_rows


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
    expert_sides: str = field(
        default="both",
        metadata={
            "help": "Where a new expert is: in both encoder and decoder, as in the paper, or in one of them, at about "
            "half the size. Encoder experts learn how a language sounds, decoder experts the training texts too.",
            "choices": tuple(EXPERT_SIDES),
        },
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
    processor, labels, speech = prepare(run, speech_arguments, training)
    names = _experts(speech_arguments, speech.splits.train)
    main_process = training.process_index == 0
    if not run.test_only:
        trainer = _trainer(run, speech_arguments, expert, training, processor, labels, speech)
        outcome = train(trainer, run)
        for name, _ in names:
            entry = trainer.model.config.language_experts[name]["training"]
            clips = sum((clip.expert or clip.language) == name for clip in speech.splits.train)
            entry |= {"clips": clips, "steps": outcome["steps"]}
        trainer.save_model()
        finish(outcome, training)
    if run.test == "none" or not main_process:
        return 0
    # Opened anew, as users will: the trainer leaves mixed precision wrapped around the model that it trained.
    trained = DistilWhisperForConditionalGeneration.from_pretrained(run.model).to(training.device)
    trained.load_expert([name for name, _ in names], training.output_dir)
    label = f"experts-{'clsr' if training.distillation == 'none' else training.distillation}"
    systems: dict[str, PreTrainedModel] = {label: trained}
    if run.test == "both":
        base = DistilWhisperForConditionalGeneration.from_pretrained(run.model).to(training.device)
        systems = {"whisper": base, **systems}
    gates = {
        name: gate_use(trained, processor, clips)
        for name, _ in names
        if (clips := sample(_of_expert(speech, name), run.test_limit))
    }
    report(systems, processor, speech, run, training, command=command_line("train", arguments), gates=gates)
    return 0


def _trainer(
    run: RunArguments,
    speech_arguments: SpeechArguments,
    expert: ExpertArguments,
    training: DistilWhisperTrainingArguments,
    processor: WhisperProcessor,
    labels: LabelBuilder,
    speech: Speech,
) -> DistilWhisperTrainer:
    model = DistilWhisperForConditionalGeneration.from_pretrained(
        run.model,
        gate_estimator=expert.gate_estimator,
        expert_dropout=expert.expert_dropout,
        gate_dropout=expert.gate_dropout,
    )
    for name, language in _experts(speech_arguments, speech.splits.train):
        model.add_expert(name, language=language, sides=expert.expert_sides)
    model = model.to(training.device)
    teacher = _open_teacher(expert, model, processor)
    extractor = teacher.processor.feature_extractor if isinstance(teacher, Teacher) else None
    if speech_arguments.streaming:
        make_row = RowMaker(processor.feature_extractor, teacher_extractor=extractor)
        rejections = Path(training.output_dir) / "rejections.jsonl"
        rows = stream_speech(speech_arguments, labels, make_row, rejections_file=rejections)
    else:
        clips = speech.splits.train
        rows = training_rows(
            clips, run, labels=labels, processor=processor, teacher_extractor=extractor, seed=training.seed
        )
    dev = speech.splits.dev
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


def _open_teacher(
    expert: ExpertArguments, model: DistilWhisperForConditionalGeneration, processor: WhisperProcessor
) -> Teacher | BaseTeacher | None:
    if expert.teacher is None:
        return None
    if expert.teacher == "base":
        return BaseTeacher(model)
    return Teacher.from_pretrained(
        expert.teacher, student=model, student_processor=processor, precision=expert.teacher_precision
    )


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
    codes = [language_code(language) for language in languages]
    return sorted({(name or code, code) for name, code in zip(experts, codes, strict=True)})
