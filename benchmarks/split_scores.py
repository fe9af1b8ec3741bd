"""What the programs here share that score variants of a trained run on test clips: flags, test sets, one table.

The sets are split as `distil-whisper train` does, so that what is in domain was not trained on.
"""

import argparse
from collections.abc import Iterable

import torch
from transformers import AutoProcessor, PreTrainedModel

from distil_whisper_hf.commands.final_scores import ScoreRow, score_system, table
from distil_whisper_hf.data.arguments import DataArguments
from distil_whisper_hf.data.corpus import read_corpus
from distil_whisper_hf.data.labels import LabelBuilder
from distil_whisper_hf.evaluation.systems.hypotheses import GenerationSettings
from distil_whisper_hf.evaluation.systems.opening import System


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The base, what was trained on, what is tested on, and how."""
    parser.add_argument("--base", required=True, help="plain Whisper that it started from: folder or Hub name")
    parser.add_argument("--data", required=True, help="folder that it was trained on")
    parser.add_argument("--test-data", nargs="*", default=[], help="folders of other domains")
    parser.add_argument("--language", required=True, help="Whisper's code")
    parser.add_argument("--split-by", default="text", help="as in training")
    parser.add_argument("--clips", type=int, default=40, help="most clips of each set")
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--max-new-tokens", type=int, default=160)


def print_scores(args: argparse.Namespace, variants: Iterable[tuple[str, PreTrainedModel]]) -> None:
    """Score each variant, of its name and opened when its turn comes, and print the table of all."""
    processor = AutoProcessor.from_pretrained(args.base)
    arguments = DataArguments(
        data=[args.data], language=[args.language], split_by=args.split_by, test_data=args.test_data,
        test_language=[args.language] * len(args.test_data), where=["suspect=0"],
    )  # fmt: skip
    corpus = read_corpus(
        arguments, LabelBuilder(processor.tokenizer), processor.feature_extractor, test_limit=args.clips
    )
    settings = GenerationSettings(max_new_tokens=args.max_new_tokens, batch_size=16)
    rows: list[ScoreRow] = []
    for name, model in variants:
        model = model.to(getattr(torch, args.precision)).eval()
        found, _ = score_system(System(name, model, processor), corpus.test_sets, settings)
        rows += found
    print(table(rows))
