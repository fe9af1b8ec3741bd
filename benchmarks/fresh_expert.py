"""What dropout, noise and soft gates do to a new expert before its first step.

    python benchmarks/fresh_expert.py --base BASE --speech FOLDER --language pl

A new expert is a copy of the shared path, so without any of them the model is Whisper. Printed for each setting: the
cross-entropy (nats per token, no smoothing) on the same joined clips in training mode, and its distance from Whisper's.
"""

import argparse
from itertools import product

import torch
from torch.utils.data import DataLoader
from transformers import AutoProcessor

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.data.arguments import DataArguments
from distil_whisper_hf.data.corpus import read_corpus
from distil_whisper_hf.data.joining import join_clips
from distil_whisper_hf.data.labels import LabelBuilder
from distil_whisper_hf.training.collator import SpeechCollator
from distil_whisper_hf.training.datasets import RowMaker, SpeechDataset
from distil_whisper_hf.training.losses import cross_entropy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="plain Whisper: folder or Hub name")
    parser.add_argument("--speech", required=True, help="folder with metadata.csv")
    parser.add_argument("--language", required=True, help="Whisper's code")
    parser.add_argument("--windows", type=int, default=8, help="joined clips to measure on")
    args = parser.parse_args()

    processor = AutoProcessor.from_pretrained(args.base)
    labels = LabelBuilder(processor.tokenizer)
    arguments = DataArguments(data=[args.speech], language=[args.language], where=["suspect=0"])
    speech = read_corpus(arguments, labels, processor.feature_extractor)
    clips = join_clips(speech.splits.train, labels=labels)[: args.windows]
    rows = SpeechDataset(clips, RowMaker(processor.feature_extractor))
    batch = next(iter(DataLoader(rows, batch_size=args.windows, collate_fn=SpeechCollator(labels))))
    print("| gates | expert dropout | noise | CE | CE - Whisper's |")
    print("|---|---|---|---|---|")
    plain = None
    settings = [("none", 0.0, 0.0), *product(("straight_through", "soft"), (0.0, 0.1, 0.3), (0.0, 5.0))]
    for estimator, dropout, noise in settings:
        options = {} if estimator == "none" else {"gate_estimator": estimator, "expert_dropout": dropout}
        model = DistilWhisperForConditionalGeneration.from_pretrained(args.base, skip_gate_probability=0.0, **options)
        if estimator != "none":
            model.add_expert(args.language)
        model.train()
        model.gate_noise = noise
        torch.manual_seed(0)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch["input_features"], labels=batch["labels"]).logits
        loss = cross_entropy(logits, batch["labels"], label_smoothing=0.0).item()
        plain = loss if plain is None else plain
        print(f"| {estimator} | {dropout} | {noise:g} | {loss:.3f} | {loss - plain:+.3f} |", flush=True)


if __name__ == "__main__":
    main()
