"""What cutting full experts to a low rank keeps of what they learnt, in and out of domain.

    python benchmarks/compression.py runs/el-s1 runs/el-s2 --base BASE --data tuxpaint-el --test-data artikulate-el \
        --language el --ranks 8 16 32 64

A run is an output folder of `distil-whisper train`, with a full expert. It is tested as it is and cut to each rank, on
test clips of the data that it was trained on and on clips of another domain. Printed before the scores: how much of the
difference to Whisper each rank keeps, by layer.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

from split_scores import add_arguments, print_scores
from transformers import PreTrainedModel

from distil_whisper_hf import DistilWhisperForConditionalGeneration


def variants(args: argparse.Namespace) -> Iterator[tuple[str, PreTrainedModel]]:
    """Every run as it is, and cut to each rank."""
    for run in args.runs:
        for rank in (None, *args.ranks):
            model = DistilWhisperForConditionalGeneration.from_pretrained(args.base)
            model.load_expert(args.language, run)
            if rank is None:
                yield run.name, model
                continue
            kept = model.compress_expert(args.language, rank=rank)
            shares = {layer: statistics.mean(parts.values()) for layer, parts in kept.items()}
            print(f"{run.name}, rank {rank}: " + ", ".join(f"{layer} {share:.0%}" for layer, share in shares.items()))
            yield f"{run.name}, rank {rank}", model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of train")
    add_arguments(parser)
    parser.add_argument("--ranks", nargs="+", type=int, default=[8, 16, 32, 64])
    args = parser.parse_args()
    print_scores(args, variants(args))


if __name__ == "__main__":
    main()
