"""Throughput of `distil-whisper evaluate` against a plain loop over transformers' pipeline, in the same process.

    python benchmarks/evaluation.py --base BASE --speech FOLDER [--clips 24] [--batch-sizes 1 4 8] [--repeats 2]

FOLDER is an audio folder with a language column. Both are given opened models and files on disk, decode the same clips
greedily with the same limit of tokens, and take turns at every batch size; each is then judged at its best. Ours also
writes its store. Some minutes for whisper-base on two cores.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import pipeline

from distil_whisper_hf.data.audio import read_audio
from distil_whisper_hf.evaluation.evaluated_clips import read_evaluated_clips
from distil_whisper_hf.evaluation.recipes import DatasetSpec
from distil_whisper_hf.evaluation.systems.hypotheses import GenerationSettings, HypothesisStore, transcribe
from distil_whisper_hf.evaluation.systems.opening import SystemSpec, open_system


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="any Whisper: folder or Hub name")
    parser.add_argument(
        "--speech", required=True, help="audio folder; rows whose column `suspect` is not 0 are left out"
    )
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-new-tokens", type=int, default=80)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)

    chosen = DatasetSpec(args.speech, limit=args.clips, where={"suspect": "0"})
    clips = read_evaluated_clips(chosen, max_rejected=0.5).clips
    spec = SystemSpec(args.base)
    system = open_system(spec)
    plain = pipeline(
        "automatic-speech-recognition",
        model=system.model,
        tokenizer=system.processor.tokenizer,
        feature_extractor=system.processor.feature_extractor,
    )
    options = {"num_beams": 1, "max_new_tokens": args.max_new_tokens, "language": clips[0].language}

    def loop(batch_size: int) -> list[str]:
        # As the files come, decoded as they are asked for; the pipeline would start the ffmpeg program for each.
        inputs = ({"raw": read_audio(one.audio, sampling_rate=16_000), "sampling_rate": 16_000} for one in clips)
        texts = plain(inputs, batch_size=batch_size, generate_kwargs={**options, "task": "transcribe"})
        return [output["text"].strip() for output in texts]

    def evaluate(batch_size: int) -> list[str]:
        settings = GenerationSettings(max_new_tokens=args.max_new_tokens, batch_size=batch_size)
        with tempfile.TemporaryDirectory() as folder:
            store = HypothesisStore(Path(folder) / "hypotheses.jsonl")
            transcribe(spec, clips, store, settings=settings, open_model=lambda _: system, progress=False)
            return [store[one].text or "" for one in clips]

    loop(args.batch_sizes[0])
    times: dict[tuple[str, int], list[float]] = {}
    texts: dict[str, list[str]] = {}
    for repeat in range(args.repeats):
        for batch_size in args.batch_sizes:
            turns = [("pipeline", loop), ("evaluate", evaluate)]
            for name, run in turns if repeat % 2 == 0 else turns[::-1]:
                started = time.perf_counter()
                texts[name] = run(batch_size)
                times.setdefault((name, batch_size), []).append(time.perf_counter() - started)
    seconds = sum(one.seconds or 0.0 for one in clips)
    sys.stdout.write(f"torch {torch.__version__}, {args.threads} threads, {len(clips)} clips, {seconds:.0f} s\n")
    sys.stdout.write("| batch size | " + " | ".join(map(str, args.batch_sizes)) + " | best |\n")
    sys.stdout.write("|---" * (len(args.batch_sizes) + 2) + "|\n")
    best = {}
    for name in ("pipeline", "evaluate"):
        rates = [len(clips) / statistics.median(times[name, size]) for size in args.batch_sizes]
        best[name] = max(rates)
        cells = " | ".join(f"{rate:.2f}" for rate in [*rates, best[name]])
        sys.stdout.write(f"| {name}, clips/s | {cells} |\n")
    same = sum(a == b for a, b in zip(texts["pipeline"], texts["evaluate"], strict=True))
    sys.stdout.write(f"\nevaluate / pipeline, each at its best: {best['evaluate'] / best['pipeline']:.2f}\n")
    sys.stdout.write(f"equal transcripts: {same} of {len(clips)}\n")


if __name__ == "__main__":
    main()
