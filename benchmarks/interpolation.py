"""What taking trained weights part of the way back to the base does, in and out of domain.

    python benchmarks/interpolation.py runs/el-clsr runs/el-full runs/el-lora --base BASE --data tuxpaint-el \
        --test-data artikulate-el --language el --weights 0.5 0.7 1.0

A run is an output folder of `distil-whisper train` or `baseline`: an expert, a whole model, or a LoRA adapter. Each is
tested with every weight w, its own weights being `(1 - w) · base + w · trained`, on test clips of the data that it was
trained on, split as the programs do, and on clips of another domain. 1 is the run as it is.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from split_scores import add_arguments, print_scores
from transformers import PreTrainedModel, WhisperForConditionalGeneration

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.checkpoints import expert_filename


@torch.no_grad()
def opened(run: Path, base: str, language: str, weight: float) -> PreTrainedModel:
    """The run's model in float32, its trained weights taken back to the base by `1 - weight`."""
    if (run / expert_filename(language)).exists():
        model = DistilWhisperForConditionalGeneration.from_pretrained(base)
        model.load_expert(language, run)
        model.interpolate_expert(language, weight)
        return model
    plain = WhisperForConditionalGeneration.from_pretrained(base)
    if (run / "adapter_config.json").exists():
        from peft import PeftModel

        shared = {name: tensor.clone() for name, tensor in plain.named_parameters()}
        model = PeftModel.from_pretrained(plain, run).merge_and_unload()
    else:
        shared = dict(plain.named_parameters())
        model = WhisperForConditionalGeneration.from_pretrained(run)
    for name, tensor in model.named_parameters():
        tensor.lerp_(shared[name], 1.0 - weight)
    return model


def variants(args: argparse.Namespace) -> Iterator[tuple[str, PreTrainedModel]]:
    """Every run with every weight."""
    for run in args.runs:
        for weight in args.weights:
            yield f"{run.name} {weight:g}", opened(run, args.base, args.language, weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of train and baseline")
    add_arguments(parser)
    parser.add_argument("--weights", nargs="+", type=float, default=[0.5, 0.7, 1.0])
    args = parser.parse_args()
    print_scores(args, variants(args))


if __name__ == "__main__":
    main()
