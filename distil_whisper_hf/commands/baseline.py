"""Train what experts are compared with, on the same data and steps: full fine-tuning or LoRA of a plain Whisper.

distil-whisper baseline examples/recipes/lora.json --model openai/whisper-small --data FOLDER --language ca \\
    --output_dir runs/ca-lora
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from transformers import WhisperForConditionalGeneration

from ..compact_experts import ATTENTION
from ..data.arguments import DataArguments
from ..evaluation.scores.trainer_metrics import PredictionMetrics
from ..training.arguments import SpeechTrainingArguments
from ..training.datasets import RowMaker, SpeechDataset
from ..training.speech_trainer import SpeechTrainer
from .command_line import parse
from .mistakes import program
from .output_folders import check_output_dir, locked
from .run_records import run_record
from .runs import RunArguments, carry_out, command_line, is_tested, prepare, report, show_rows, training_rows
from .starting import check_libraries

PROGRAM = "distil-whisper baseline"


@dataclass
class BaselineArguments:
    """Which baseline."""

    method: str = field(
        default="full",
        metadata={
            "help": "full: all weights; lora: adapters on linear layers.",
            "choices": ("full", "lora"),
        },
    )
    lora_rank: int = field(default=64, metadata={"help": "Rank of the adapters."})
    lora_alpha: int = field(default=64, metadata={"help": "Scale of the adapters, divided by their rank."})
    lora_targets: str = field(
        default="ffn",
        metadata={
            "help": "Where adapters are: ffn, fc1 and fc2 of every layer, or all, also attention's projections.",
            "choices": ("ffn", "all"),
        },
    )
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout on the adapters' input."})


@program(PROGRAM)
def main(arguments: Sequence[str]) -> int:
    """Run the program; returns the exit status."""
    kinds = (RunArguments, DataArguments, BaselineArguments, SpeechTrainingArguments)
    run, data, baseline, training = parse(kinds, arguments, program=PROGRAM, description=__doc__)
    if data.streaming:
        raise ValueError("Expected data that is read before training: streaming is for experts (distil-whisper train).")
    check_output_dir(training.output_dir, writes="model" if baseline.method == "full" else "adapter")
    check_libraries(["peft"] if baseline.method == "lora" else [], what="LoRA")
    with locked(training.output_dir, main_process=training.process_index == 0):
        return _train(run, data, baseline, training, command=command_line("baseline", arguments))


def _train(
    run: RunArguments,
    data: DataArguments,
    baseline: BaselineArguments,
    training: SpeechTrainingArguments,
    *,
    command: str,
) -> int:
    processor, labels, corpus = prepare(run, data, training)
    if run.dry_run:
        clips = training_rows(corpus.splits.train, run, labels=labels, processor=processor, seed=training.seed)
        show_rows(clips, processor, labels, corpus, training.output_dir)
        return 0
    if not run.test_only:
        model = WhisperForConditionalGeneration.from_pretrained(run.model)
        clips, dev = corpus.splits.train, corpus.splits.dev
        record = run_record(
            models={"base": model},
            clips={"training clips": clips, "dev clips": dev},
            arguments={**asdict(baseline), **run.windows},
            training=training,
        )
        if baseline.method == "lora":
            model = with_adapters(model, baseline)
        trainer = SpeechTrainer(
            model.to(training.device),
            training,
            processing_class=processor,
            train_dataset=training_rows(clips, run, labels=labels, processor=processor, seed=training.seed),
            eval_dataset=SpeechDataset(dev, RowMaker(processor.feature_extractor)) if dev else None,
            compute_metrics=PredictionMetrics(processor.tokenizer) if training.predict_with_generate else None,
        )
        carry_out(trainer, run, record, corpus)
    if run.test == "none":
        return 0
    if run.resume and is_tested(run, corpus, training.output_dir):
        return 0
    systems = {baseline.method: _open(baseline, run.model, Path(training.output_dir)).to(training.device)}
    if run.test == "both":
        base = WhisperForConditionalGeneration.from_pretrained(run.model)
        systems = {"whisper": base.to(training.device), **systems}
    report(systems, processor, corpus, run, training, command=command)
    return 0


def with_adapters(
    model: WhisperForConditionalGeneration, baseline: BaselineArguments
) -> WhisperForConditionalGeneration:
    """The model with adapters, which alone train."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=baseline.lora_rank,
        lora_alpha=baseline.lora_alpha,
        lora_dropout=baseline.lora_dropout,
        target_modules=["fc1", "fc2", *(ATTENTION if baseline.lora_targets == "all" else ())],
    )
    return get_peft_model(model, config)


def _open(baseline: BaselineArguments, base: str, folder: Path) -> WhisperForConditionalGeneration:
    """What was trained, opened anew; adapters merged into their base."""
    if baseline.method == "full":
        return WhisperForConditionalGeneration.from_pretrained(folder)
    from peft import PeftModel

    return PeftModel.from_pretrained(WhisperForConditionalGeneration.from_pretrained(base), folder).merge_and_unload()
