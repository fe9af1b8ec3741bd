"""A corpus that is never on the disk as a whole: clips a second and memory, over many clips that are streamed.

    python benchmarks/streaming.py --clips 100000 --seconds 1 --workers 1

What `distil-whisper train --streaming` does before the model: rows of Parquet files read as a stream, shuffled through
a buffer, screened, decoded, turned into features and joined in batches. One file of `--rows` synthetic clips is written
and stands, under as many names, for all files of the corpus: a reader opens and reads each of them anew. Memory is the
proportional set size of this process and its workers, at even distances; the last tenth is compared with the first.
"""

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from datasets import Audio, Dataset, disable_progress_bars
from torch.utils.data import DataLoader
from transformers import AutoProcessor

from distil_whisper_hf.data.arguments import DataArguments
from distil_whisper_hf.data.corpus import stream_clips
from distil_whisper_hf.data.labels import LabelBuilder
from distil_whisper_hf.data.screening import Screen
from distil_whisper_hf.training.collator import SpeechCollator
from distil_whisper_hf.training.datasets import RowMaker, StreamingSpeechDataset

ROOT = Path(__file__).parents[1]
RATE = 16000


def sound(number: int, seconds: float) -> bytes:
    """A FLAC file of a tone of its own with some noise."""
    random = np.random.default_rng(number)
    times = np.arange(round(seconds * RATE)) / RATE
    samples = 0.3 * np.sin(2 * np.pi * (100 + number % 900) * times) + 0.01 * random.standard_normal(len(times))
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="FLAC")
    return file.getvalue()


def write_corpus(folder: Path, *, clips: int, rows: int, seconds: float) -> int:
    """Parquet files of so many clips in all; returns the bytes that they would take on a disk."""
    sounds = [{"path": f"{number}.flac", "bytes": sound(number, seconds)} for number in range(rows)]
    table = Dataset.from_dict({"audio": sounds, "text": [f"clip {number}" for number in range(rows)]})
    first = folder / "train-00000.parquet"
    table.cast_column("audio", Audio(decode=False)).to_parquet(first)
    files = -(-clips // rows)
    for number in range(1, files):
        os.link(first, folder / f"train-{number:05d}.parquet")
    return files * first.stat().st_size


def memory() -> float:
    """MB that this process and its children hold, pages that they share counted once."""
    children = [word for path in Path("/proc/self/task").glob("*/children") for word in path.read_text().split()]
    total = 0
    for process in ("self", *children):
        try:
            rows = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            # A worker that has just ended.
            continue
        total += sum(int(row.split()[1]) for row in rows if row.startswith("Pss:"))
    return total / 1024


def batches(args: argparse.Namespace, folder: Path) -> Iterator[dict]:
    processor = AutoProcessor.from_pretrained(args.base)
    labels = LabelBuilder(processor.tokenizer)
    stream = StreamingSpeechDataset(
        stream_clips(DataArguments(data=[str(folder)], language=[args.language], streaming=True)),
        Screen(labels, max_seconds=float(processor.feature_extractor.chunk_length)),
        RowMaker(processor.feature_extractor),
    )
    return iter(DataLoader(stream, args.batch, collate_fn=SpeechCollator(labels), num_workers=args.workers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=str(ROOT / "examples/demo_data/student"), help="a Whisper: its processor")
    parser.add_argument("--language", default="it", help="one that the base knows")
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a clip")
    parser.add_argument("--rows", type=int, default=1000, help="clips in a file")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0, help="of the DataLoader")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--reports", type=int, default=20, help="lines to print")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as place:
        size = write_corpus(Path(place), clips=args.clips, rows=args.rows, seconds=args.seconds)
        hours = args.clips * args.seconds / 3600
        print(f"{args.clips} clips of {args.seconds:g} s, {hours:.1f} h, {size / 1e6:.0f} MB as files", flush=True)
        print("| clips | s | clips/s | MB |\n|---|---|---|---|", flush=True)
        seen, rates, held = 0, [], []
        started = last = time.perf_counter()
        step = max(1, args.clips // args.reports)
        before = 0
        for batch in batches(args, Path(place)):
            seen += len(batch["labels"])
            if seen - before >= step or seen >= args.clips:
                now = time.perf_counter()
                rates.append((seen - before) / (now - last))
                held.append(memory())
                print(f"| {seen} | {now - started:.0f} | {rates[-1]:.0f} | {held[-1]:.0f} |", flush=True)
                before, last = seen, time.perf_counter()
        tenth = max(1, len(held) // 10)
        first, end = statistics.mean(held[:tenth]), statistics.mean(held[-tenth:])
        print(f"\n{statistics.median(rates):.0f} clips/s (median); {first:.0f} MB at first, {end:.0f} MB at the end")
        if seen < args.clips:
            sys.exit(f"Expected {args.clips} clips, the stream had {seen}.")


if __name__ == "__main__":
    main()
