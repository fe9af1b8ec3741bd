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

from split_scores import add_arguments, print_scores
from transformers import PreTrainedModel

from distil_whisper_hf.evaluation.systems.interpolating import open_interpolated


def variants(args: argparse.Namespace) -> Iterator[tuple[str, PreTrainedModel]]:
    """Every run with every weight."""
    for run in args.runs:
        for weight in args.weights:
            yield f"{run.name} {weight:g}", open_interpolated(run, args.base, args.language, weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of train and baseline")
    add_arguments(parser)
    parser.add_argument("--weights", nargs="+", type=float, default=[0.5, 0.7, 1.0])
    args = parser.parse_args()
    print_scores(args, variants(args))


if __name__ == "__main__":
    main()
