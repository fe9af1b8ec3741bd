"""Long audio before and after training: words, times and loops on test clips joined into recordings.

    python benchmarks/long_form.py runs/pl-plain runs/pl-timed --base BASE --data artikulate-pl --language pl

Test clips of the data that the runs were trained on are joined into recordings of minutes, with pauses of 0.3 to 1.0 s,
and transcribed as Whisper does it: window after window, with timestamps, greedily. Printed for plain Whisper and every
run: error rates of the whole texts, how far segments' begins and ends lie from the nearest begin and end of a clip, how
many segments there are for how many clips, and recordings with a repetition loop.
"""

import argparse
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoProcessor, WhisperForConditionalGeneration, WhisperProcessor

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.commands.final_scores import score, score_rows
from distil_whisper_hf.data.arguments import DataArguments
from distil_whisper_hf.data.audio import Waveform, read_audio
from distil_whisper_hf.data.clips import Clip
from distil_whisper_hf.data.corpus import read_corpus
from distil_whisper_hf.data.labels import LabelBuilder
from distil_whisper_hf.markdown import table

RATE = 16000


@dataclass(frozen=True)
class Recording:
    """Clips spoken one after the other: the whole, and the begin and end of each clip in s."""

    clip: Clip
    times: list[tuple[float, float]]


def recordings(clips: Sequence[Clip], seconds: float, count: int, seed: int = 0) -> list[Recording]:
    """At most `count` recordings of `seconds` or a clip more."""
    generator = random.Random(seed)
    made: list[Recording] = []
    pieces: list[np.ndarray] = []
    times, texts, length = [], [], 0.0
    for number, clip in enumerate(generator.sample(clips, len(clips))):
        samples = read_audio(clip.audio, sampling_rate=RATE)
        times.append((length, length + len(samples) / RATE))
        texts.append(clip.text)
        pause = generator.uniform(0.3, 1.0)
        pieces += [samples, np.zeros(round(pause * RATE), dtype=np.float32)]
        length = sum(map(len, pieces)) / RATE
        if length >= seconds or number == len(clips) - 1:
            audio = Waveform(np.concatenate(pieces), RATE)
            made.append(Recording(Clip(f"r{len(made)}", audio, " ".join(texts), clip.language), times))
            pieces, times, texts, length = [], [], [], 0.0
            if len(made) == count:
                break
    return made


@torch.no_grad()
def transcribe(
    model: WhisperForConditionalGeneration, processor: WhisperProcessor, clip: Clip, *, conditioned: bool
) -> tuple[str, list[tuple[float, float]]]:
    """Text, and the begin and end of every segment in s."""
    inputs = processor(
        clip.audio.samples, sampling_rate=RATE, return_tensors="pt", truncation=False, padding="longest",
        return_attention_mask=True,
    )  # fmt: skip
    made = model.generate(
        inputs.input_features.to(model.device, model.dtype),
        attention_mask=inputs.attention_mask.to(model.device),
        language=clip.language,
        task="transcribe",
        return_timestamps=True,
        return_segments=True,
        condition_on_prev_tokens=conditioned,
    )
    (segments,) = made["segments"]
    text = "".join(processor.tokenizer.decode(segment["tokens"], skip_special_tokens=True) for segment in segments)
    return text, [(float(segment["start"]), float(segment["end"])) for segment in segments]


def distances(found: Sequence[tuple[float, float]], true: Sequence[tuple[float, float]]) -> list[float]:
    """How far each begin and end lies from the nearest true one, in s."""
    return [min(abs(time - other[side]) for other in true) for segment in found for side, time in enumerate(segment)]


def row(
    name: str, model: WhisperForConditionalGeneration, processor: WhisperProcessor, made: Sequence[Recording],
    conditioned: bool,
) -> tuple:  # fmt: skip
    texts, off, segments = [], [], 0
    for one in made:
        text, times = transcribe(model, processor, one.clip, conditioned=conditioned)
        texts.append(text)
        off += distances(times, one.times)
        segments += len(times)
    (scored,) = score_rows(score([one.clip for one in made], texts, system=name), dataset="", domain="")
    late = sum(one > 0.5 for one in off) / max(len(off), 1)
    middle = statistics.median(off) if off else float("nan")
    clips = sum(len(one.times) for one in made)
    shown = (f"{scored.wer:.1f}", f"{scored.cer:.1f}", scored.deletions, scored.insertions, scored.loops)
    return (name, *shown, f"{middle:.2f}", f"{late:.0%}", f"{segments} / {clips}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="output folders of train")
    parser.add_argument("--base", required=True, help="plain Whisper that they started from: folder or Hub name")
    parser.add_argument("--data", required=True, help="folder whose test clips are joined, divided as in training")
    parser.add_argument("--language", required=True, help="Whisper's code")
    parser.add_argument("--where", nargs="*", default=["suspect=0"], help="rows to use, as in training")
    parser.add_argument("--seconds", type=float, default=90.0, help="length of a recording")
    parser.add_argument("--recordings", type=int, default=4)
    parser.add_argument("--condition", action="store_true", help="give each window the text of the one before")
    args = parser.parse_args()
    processor = AutoProcessor.from_pretrained(args.base)
    data = DataArguments(data=[args.data], language=[args.language], where=args.where)
    corpus = read_corpus(data, LabelBuilder(processor.tokenizer), processor.feature_extractor)
    made = recordings(corpus.splits.test, args.seconds, args.recordings)
    minutes = sum(len(one.clip.audio.samples) for one in made) / RATE / 60
    print(f"{len(made)} recordings of {args.language}, {minutes:.1f} minutes, {args.seconds:g} s or a clip more each\n")
    rows = []
    for run in (None, *args.runs):
        model = DistilWhisperForConditionalGeneration.from_pretrained(args.base, experts=[])
        if run is not None:
            model.load_expert(args.language, run)
        name = "Whisper" if run is None else run.name
        rows.append(row(name, model.eval(), processor, made, args.condition))
    header = ("system", "WER %", "CER %", "deletions", "insertions", "loops", "off by s", "over 0.5 s", "segments")
    print(table(header, rows))


if __name__ == "__main__":
    main()
