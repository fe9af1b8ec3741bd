"""Train the demo's two models from nothing but telephone prompts: a student, and a teacher that knows Italian better.

    pip install av==18.1.0 soundfile
    python examples/demo_data/make_models.py --work FOLDER      about half an hour on 2 CPU cores

Needs Debian or a relative of it, with `apt-get update` done (25 MB are downloaded into FOLDER, nothing is installed).
Both go on from one beginning, which FOLDER keeps. What is made replaces student/ and teacher/ in this folder. Another
machine rounds otherwise, and after some thousand steps other weights come of it: error rates will be some points off.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import torch
from corpus import Entry, make_processor, read_corpus, training_clip
from pretraining import Pupil, train
from splicing import Batch, Splicer
from splits import share_of
from transformers import WhisperProcessor

from distil_whisper_hf.commands.final_scores import score, score_rows, table
from distil_whisper_hf.data.clips import Clip

HERE = Path(__file__).resolve().parent
BATCH_SIZE = 8
RATE = 1.5e-3
SEED = 0
# The language that the student knows little of.
WEAK = "it"


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        steps: batches, over which the learning rate falls to zero.
        weights: how often each language is drawn.
        weak_share: share of the training prompts of the weak language that are heard.
        change: how strongly the sound is varied (see Splicer).
        listen_first: steps in which the encoder alone learns.
    """

    steps: int
    weights: dict[str, float]
    weak_share: float
    change: float
    listen_first: int = 0


BEGINNING = "beginning"
STAGES = {
    BEGINNING: Stage(2400, {"es": 1.0, "it": 0.1}, weak_share=0.12, change=1.0, listen_first=150),
    "student": Stage(1200, {"es": 1.0, "it": 0.1}, weak_share=0.12, change=0.5),
    "teacher": Stage(3000, {"es": 0.25, "it": 1.0}, weak_share=1.0, change=0.5),
}


def main() -> None:
    """Make both models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for packages, alignments and the beginning")
    parser.add_argument("--only", choices=tuple(STAGES), help="one stage; the last two need the first")
    args = parser.parse_args()
    corpus = read_corpus(args.work)
    processor = make_processor(corpus)
    kept = args.work / f"{BEGINNING}.pt"
    for name in STAGES if args.only is None else (args.only,):
        torch.manual_seed(SEED)
        pupil = Pupil(processor)
        if name != BEGINNING:
            pupil.load_state_dict(torch.load(kept, weights_only=True))
        stage = STAGES[name]
        batches = draw_batches(corpus, stage, processor)
        train(pupil, batches, steps=stage.steps, peak=RATE, listen_first=stage.listen_first, name=name)
        show_dev(pupil, processor, corpus, name)
        if name == BEGINNING:
            torch.save(pupil.state_dict(), kept)
        else:
            write(pupil, processor, HERE / name)


def draw_batches(corpus: dict[str, list[Entry]], stage: Stage, processor: WhisperProcessor) -> Iterator[Batch]:
    """Batches of spliced speech without end."""
    tokenizer = processor.tokenizer
    start = ("<|startoftranscript|>", "<|{}|>", "<|transcribe|>", "<|notimestamps|>")
    prompts = {name: tokenizer.convert_tokens_to_ids([token.format(name) for token in start]) for name in stage.weights}
    clips = [
        training_clip(entry, processor)
        for entries in corpus.values()
        for entry in entries
        if entry.places is not None
        and (entry.prompt.language != WEAK or share_of(entry.prompt.text) < stage.weak_share)
    ]
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    splicer = Splicer(clips, stage.weights, prompts, end=end, seed=SEED, change=stage.change)
    return (splicer.batch(BATCH_SIZE) for _ in repeat(None))


def show_dev(pupil: Pupil, processor: WhisperProcessor, corpus: dict[str, list[Entry]], name: str) -> None:
    """Print error rates on dev clips."""
    rows = []
    for language, entries in corpus.items():
        chosen = [entry.prompt for entry in entries if entry.split == "dev"]
        clips = [Clip(prompt.name, b"", prompt.text, language) for prompt in chosen]
        texts = transcribe(pupil, processor, [prompt.samples / 32768 for prompt in chosen], language)
        rows += score_rows(score(clips, texts, system=name), dataset="dev", domain="in")
    print(table(rows), flush=True)


def write(pupil: Pupil, processor: WhisperProcessor, folder: Path) -> None:
    """Write the Whisper, without the heads of its training, in half precision."""
    pupil.whisper.to(torch.float16).save_pretrained(folder)
    processor.save_pretrained(folder)
    # Stored in half precision; opened in float32 unless another type is asked for.
    config = folder / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"float16"', '"float32"'), encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)


@torch.no_grad()
def transcribe(pupil: Pupil, processor: WhisperProcessor, samples: list, language: str) -> list[str]:
    """Greedy transcripts of clips that fit the window."""
    features = processor.feature_extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
    tokens = pupil.whisper.generate(features, language=language, task="transcribe")
    return processor.batch_decode(tokens, skip_special_tokens=True)


if __name__ == "__main__":
    main()
