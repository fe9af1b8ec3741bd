"""What taking trained weights part of the way back to the base does, in and out of domain.

    python benchmarks/interpolation.py runs/el-clsr runs/el-full runs/el-lora --base BASE --data tuxpaint-el \
        --test-data artikulate-el --language el --weights 0.5 0.7 1.0

A run is an output folder of `distil-whisper train` or `baseline`: an expert, a whole model, or a LoRA adapter. Each is
tested with every weight w, its own weights being `(1 - w) · base + w · trained`, on test clips of the data that it was
trained on, split as the programs do, and on clips of another domain. 1 is the run as it is.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoProcessor, PreTrainedModel, WhisperForConditionalGeneration

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.checkpoints import expert_filename
from distil_whisper_hf.commands.final_scores import ScoreRow, score_system, table
from distil_whisper_hf.data.arguments import DataArguments
from distil_whisper_hf.data.corpus import read_corpus
from distil_whisper_hf.data.labels import LabelBuilder
from distil_whisper_hf.evaluation.systems.hypotheses import GenerationSettings
from distil_whisper_hf.evaluation.systems.opening import System


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of train and baseline")
    parser.add_argument("--base", required=True, help="plain Whisper that they started from: folder or Hub name")
    parser.add_argument("--data", required=True, help="folder that they were trained on")
    parser.add_argument("--test-data", nargs="*", default=[], help="folders of other domains")
    parser.add_argument("--language", required=True, help="Whisper's code")
    parser.add_argument("--split-by", default="text", help="as in training")
    parser.add_argument("--weights", nargs="+", type=float, default=[0.5, 0.7, 1.0])
    parser.add_argument("--clips", type=int, default=40, help="most clips of each set")
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--max-new-tokens", type=int, default=160)
    args = parser.parse_args()

    processor = AutoProcessor.from_pretrained(args.base)
    arguments = DataArguments(
        data=[args.data], language=[args.language], split_by=args.split_by, test_data=args.test_data,
        test_language=[args.language] * len(args.test_data), where=["suspect=0"],
    )  # fmt: skip
    labels = LabelBuilder(processor.tokenizer)
    corpus = read_corpus(arguments, labels, processor.feature_extractor, test_limit=args.clips)
    settings = GenerationSettings(max_new_tokens=args.max_new_tokens, batch_size=16)
    rows: list[ScoreRow] = []
    for run in args.runs:
        for weight in args.weights:
            model = opened(run, args.base, args.language, weight).to(getattr(torch, args.precision))
            system = System(f"{run.name} {weight:g}", model.eval(), processor)
            found, _ = score_system(system, corpus.test_sets, settings)
            rows += found
    print(table(rows))


if __name__ == "__main__":
    main()
