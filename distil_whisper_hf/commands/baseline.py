"""Train what experts are compared with, on the same data and steps: full fine-tuning or LoRA of a plain Whisper.

distil-whisper baseline examples/recipes/lora.json --model openai/whisper-small --data FOLDER --language ca \
    --output_dir runs/ca-lora
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoProcessor, WhisperForConditionalGeneration, set_seed
from transformers.trainer_utils import get_last_checkpoint

from ..evaluation.prediction_metrics import PredictionMetrics
from ..training.arguments import SpeechTrainingArguments
from ..training.labels import LabelBuilder
from ..training.speech_datasets import RowMaker, SpeechDataset
from ..training.speech_trainer import SpeechTrainer
from .programs import RunArguments, command_line, parse, report, training_rows
from .speech import SpeechArguments, read_speech


@dataclass
class BaselineArguments:
    """Which baseline."""

    method: str = field(
        default="full",
        metadata={
            "help": "full: all weights; lora: adapters on fc1 and fc2 of every layer.",
            "choices": ("full", "lora"),
        },
    )
    lora_rank: int = field(default=64, metadata={"help": "Rank of the adapters."})
    lora_alpha: int = field(default=64, metadata={"help": "Scale of the adapters, divided by their rank."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout on the adapters' input."})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    kinds = (RunArguments, SpeechArguments, BaselineArguments, SpeechTrainingArguments)
    run, speech_arguments, baseline, training = parse(
        kinds, arguments, program="distil-whisper baseline", description=__doc__
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

    model = WhisperForConditionalGeneration.from_pretrained(run.model)
    if baseline.method == "lora":
        model = with_adapters(model, baseline)
    model = model.to(training.device)
    dev = speech.splits.dev
    trainer = SpeechTrainer(
        model,
        training,
        processing_class=processor,
        train_dataset=training_rows(speech.splits.train, run, labels=labels, processor=processor, seed=training.seed),
        eval_dataset=SpeechDataset(dev, RowMaker(processor.feature_extractor)) if dev else None,
        compute_metrics=PredictionMetrics(processor.tokenizer) if training.predict_with_generate else None,
    )
    checkpoint = get_last_checkpoint(str(output)) if run.resume and output.is_dir() else None
    started = time.perf_counter()
    outcome = trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - started
    trained_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    trainer.save_model()
    print(f"{outcome.global_step} steps in {seconds:.0f} s, {trained_parameters:,} parameters")
    if run.test != "none" and trainer.is_world_process_zero():
        trained = _open(baseline, run.model, output).to(training.device)
        systems = {baseline.method: trained}
        if run.test == "both":
            base = WhisperForConditionalGeneration.from_pretrained(run.model).to(training.device)
            systems = {"whisper": base, **systems}
        report(
            systems,
            processor,
            speech,
            run,
            output,
            command=command_line("baseline", arguments),
            seconds=seconds,
            steps=outcome.global_step,
            trained_parameters=trained_parameters,
        )
    return 0


def with_adapters(
    model: WhisperForConditionalGeneration, baseline: BaselineArguments
) -> WhisperForConditionalGeneration:
    """The model with adapters on `fc1` and `fc2` of every layer, which alone train."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=baseline.lora_rank,
        lora_alpha=baseline.lora_alpha,
        lora_dropout=baseline.lora_dropout,
        target_modules=["fc1", "fc2"],
    )
    return get_peft_model(model, config)


def _open(baseline: BaselineArguments, base: str, folder: Path) -> WhisperForConditionalGeneration:
    """What was trained, opened anew; adapters merged into their base."""
    if baseline.method == "full":
        return WhisperForConditionalGeneration.from_pretrained(folder)
    from peft import PeftModel

    return PeftModel.from_pretrained(WhisperForConditionalGeneration.from_pretrained(base), folder).merge_and_unload()
