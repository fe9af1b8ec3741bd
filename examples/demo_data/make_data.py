"""Make the demo's speech: Italian prompts whole and spliced for training, and test prompts of both languages.

    python examples/demo_data/make_data.py --work FOLDER        a minute; FOLDER as in make_models.py

Replaces it/ and es/ in this folder. Test and dev clips are prompts as they were recorded. Training
prompts that are too long for the window are cut into phrases. Beside them there are clips spliced from words of the
training prompts, each at a speed of its own: with prompts alone, an expert learns their sentences by heart.
"""

from __future__ import annotations

import argparse
import csv
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
from corpus import Entry, make_processor, read_corpus, training_clip
from make_models import SEED, WEAK
from prompts import SAMPLING_RATE
from splicing import Clip, draw_words
from vocabulary import WINDOW_S

HERE = Path(__file__).resolve().parent
SPEAKERS = {"es": "Allison Smith", "it": "Carlo Flora"}
SPLICED = 100
SHORTEST_S, SLOWEST, FASTEST = 2.0, 0.9, 1.1
FADE = SAMPLING_RATE // 100
# Samples in a mel frame.
HOP = 160
# libsndfile's scale from 0 (large) to 1 (small); about 17 kbit/s for speech.
# At 12 kbit/s Opus leaves out so much that the error rates of the student rise by a quarter.
OPUS_LEVEL = 0.97
COLUMNS = ("file_name", "text", "language", "speaker", "split", "source")
Row = tuple[str, str, str, str, str, str]


def main() -> None:
    """Write the folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for packages and alignments")
    args = parser.parse_args()
    corpus = read_corpus(args.work)
    processor = make_processor(corpus)
    for language, entries in corpus.items():
        splits = ("train", "dev", "test") if language == WEAK else ("test",)
        folder = HERE / language
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "audio").mkdir(parents=True)
        rows = [
            write_clip(folder, entry.prompt.samples, entry.prompt.text, language, entry.split, entry.prompt.name)
            for entry in entries
            if entry.split in splits
            and entry.prompt.seconds <= WINDOW_S
            # A training prompt that could not be aligned says something else than its text.
            and (entry.split != "train" or entry.places is not None)
        ]
        if language == WEAK:
            held_out = {entry.prompt.text for entry in entries if entry.split in ("dev", "test")}
            aligned = [entry for entry in entries if entry.places is not None]
            clips = [training_clip(entry, processor) for entry in aligned]
            for samples, text, source in cut_and_spliced(aligned, clips):
                if text not in held_out:
                    rows.append(write_clip(folder, samples, text, language, "train", source))
        with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(rows)
        print(f"{language}: {len(rows)} clips")


def cut_and_spliced(entries: list[Entry], clips: list[Clip]) -> Iterator[tuple[np.ndarray, str, str]]:
    """Samples, text and source of the phrases of prompts that are too long, and of spliced clips."""
    for entry, clip in zip(entries, clips, strict=True):
        if entry.prompt.seconds > WINDOW_S:
            words = entry.prompt.text.split()
            for first, last in phrases(clip):
                samples = entry.prompt.samples[clip.cuts[first] * HOP : clip.cuts[last] * HOP]
                yield samples, " ".join(words[first:last]), f"{entry.prompt.name}[{first}:{last}]"
    draw = random.Random(SEED)
    for _ in range(SPLICED):
        yield splice(entries, clips, draw)


def phrases(clip: Clip) -> list[tuple[int, int]]:
    """First word, and the one after the last, of stretches that fit the window, cut where the pause is longest."""
    longest, shortest = int(100 * WINDOW_S) - 2, int(100 * SHORTEST_S)
    starts = [np.flatnonzero(clip.places >= letter)[0] for letter in np.cumsum([0, *map(len, clip.tokens)])[1:-1]]
    pauses = [int((clip.places[clip.cuts[word] : start] < 0).sum()) for word, start in enumerate(starts, start=1)]
    found = [(0, 0)]
    while found[-1][1] < len(clip.tokens):
        first = found[-1][1]
        ends = [end for end in range(first + 1, len(clip.cuts)) if clip.cuts[end] - clip.cuts[first] <= longest]
        if ends[-1] < len(clip.tokens):
            long_enough = [end for end in ends if clip.cuts[end] - clip.cuts[first] >= shortest] or ends
            ends = [max(long_enough, key=lambda end: (pauses[end - 1], end))]
        found.append((first, ends[-1]))
    return found[1:]


def splice(entries: list[Entry], clips: list[Clip], draw: random.Random) -> tuple[np.ndarray, str, str]:
    """Short runs of words from any prompts in a row, as int16 samples, with their text and their sources."""
    speed = draw.uniform(SLOWEST, FASTEST)
    length = draw.uniform(SHORTEST_S, WINDOW_S - 0.02) * speed * SAMPLING_RATE
    samples, words, names = np.zeros(0), [], []
    while True:
        index = draw.randrange(len(entries))
        entry, clip = entries[index], clips[index]
        first, last = draw_words(clip, draw)
        part = entry.prompt.samples[clip.cuts[first] * HOP : clip.cuts[last] * HOP].astype(np.float64)
        if len(part) <= 2 * FADE:
            continue
        if len(samples) + len(part) > length:
            if words:
                break
            continue
        samples = _cross_faded(samples, part)
        words += entry.prompt.text.split()[first:last]
        names.append(f"{entry.prompt.name}[{first}:{last}]")
    changed = soxr.resample(samples, SAMPLING_RATE * speed, SAMPLING_RATE)
    return np.clip(changed, -32768, 32767).astype(np.int16), " ".join(words), "spliced: " + " + ".join(names)


def _cross_faded(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    if len(first) == 0:
        return second
    rising = np.linspace(0, 1, FADE)
    middle = first[-FADE:] * (1 - rising) + second[:FADE] * rising
    return np.concatenate([first[:-FADE], middle, second[FADE:]])


def write_clip(folder: Path, samples: np.ndarray, text: str, language: str, split: str, source: str) -> Row:
    """Write a clip as Ogg Opus and return its row of metadata.csv."""
    number = len(list((folder / "audio").iterdir()))
    prompt = re.split(r"[:\[]", source)[0].replace("/", "_")
    name = f"audio/{number:03d}-{prompt}.ogg"
    soundfile.write(folder / name, samples, SAMPLING_RATE, format="OGG", subtype="OPUS", compression_level=OPUS_LEVEL)
    return name, text, language, SPEAKERS[language], split, source


if __name__ == "__main__":
    main()
