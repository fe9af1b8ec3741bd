"""Teach a small Whisper Italian: the whole way, from speech to transcripts, without a download.

    python examples/demo.py                    three to four minutes on two CPU cores
    python examples/demo.py --max_steps 100    any flag of `distil-whisper train`, over those of the recipe

It is `distil-whisper train examples/recipes/demo.json`: for a Whisper, a language and speech of your own, only the
arguments differ. The speech and the two small models, the student and its teacher, are in examples/demo_data.
"""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, pipeline
from transformers.utils import logging

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.commands import train
from distil_whisper_hf.commands import transcribe as subtitles

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "examples" / "demo_data"
RECIPE = ROOT / "examples" / "recipes" / "demo.json"
LANGUAGES = {"it": "Italian", "es": "Spanish"}
# What the training program calls a model whose expert learnt from a teacher by Jensen-Shannon divergence.
TRAINED = "experts-js"
# Test clips for the pipeline: file names begin with their number in the table.
PIPELINE_CLIPS = {"it": "317-vm-invalidpassword", "es": "033-vm-tocallnum"}
INTRODUCTION = """\
The student is a Whisper of 1.4 million parameters that has learnt Spanish telephone prompts, roughly, and hardly any
Italian. It stays frozen; an Italian expert learns beside it, from 20 minutes of speech and from a teacher that knows
Italian better. Then the student is scored without and with it on prompts that no model has heard: new sentences, in
words that occur in training. It knows nothing but such prompts, and writes letter by letter what it hears.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in given or "-h" in given:
        print(__doc__)
        return 0
    output = Path(given[given.index("--output_dir") + 1]) if "--output_dir" in given else ROOT / "runs" / "demo"
    # The recipe's folders start from the root of the repository; wherever the demo is called, these are the same.
    folders = {"model": "student", "teacher": "teacher", "data": "it", "test_data": "es"}
    places = [word for flag, folder in folders.items() for word in (f"--{flag}", str(DATA / folder))]
    print(INTRODUCTION)
    logging.set_verbosity_error()
    started = time.perf_counter()
    # A demo is shown again: what an earlier one left goes, unless it is gone on with.
    again = [] if {"--resume", "--overwrite"} & set(given) else ["--overwrite"]
    words = [*places, "--output_dir", str(output), "--report_to", "none", *again, *given]
    status = train.main([str(RECIPE), *words])
    if status:
        return status
    results = json.loads((output / "scores.json").read_text(encoding="utf-8"))
    print(f"\n{time.perf_counter() - started:.0f} s in all, {results['seconds']:.0f} s of them training.\n")
    show_scores(results)
    show_transcripts(results["transcripts"]["it"])
    transcribe(output)
    return write_subtitles(output)


def show_scores(results: dict[str, Any]) -> None:
    """Error rates before and after, for each language."""
    print(f"{'prompts never heard':22}{'clips':>6}{'WER before':>13}{'after':>9}{'CER before':>13}{'after':>9}")
    for language, name in LANGUAGES.items():
        rows = {row["system"]: row for row in results["rows"] if row["language"] == language}
        before, after = rows["whisper"], rows[TRAINED]
        rates = f"{before['wer']:>11.1f} %{after['wer']:>7.1f} %{before['cer']:>11.1f} %{after['cer']:>7.1f} %"
        print(f"{name:22}{before['clips']:>6}{rates}")
    texts = results["transcripts"]["es"]
    changed = sum(old != new for old, new in zip(texts["whisper"], texts[TRAINED], strict=True))
    print(f"\nSpanish transcripts that the Italian expert has changed: {changed} of {len(texts[TRAINED])}.")


def show_transcripts(texts: dict[str, list[str]], count: int = 8) -> None:
    """Some transcripts of the Italian test clips: every so many of them in their order, whatever came out."""
    print("\nItalian prompts, as spoken, before and after:\n")
    total = len(texts["references"])
    for place in range(0, total, -(-total // count)):
        print(f"  spoken  {texts['references'][place]}")
        print(f"  before  {texts['whisper'][place].strip()}")
        print(f"  after   {texts[TRAINED][place].strip()}\n")


def transcribe(folder: Path) -> None:
    """The trained expert in transformers' own pipeline: one batch with a clip of each language."""
    model = DistilWhisperForConditionalGeneration.from_pretrained(DATA / "student")
    model.load_expert("it", folder)
    processor = AutoProcessor.from_pretrained(DATA / "student")
    speech = pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
    )
    clips = [DATA / language / "audio" / f"{name}.ogg" for language, name in PIPELINE_CLIPS.items()]
    print(f"The pipeline (beam search) with {folder / 'expert.it.safetensors'}, one batch of two languages:")
    outputs = speech([str(path) for path in clips], language=list(PIPELINE_CLIPS), batch_size=len(clips))
    for path, output in zip(clips, outputs, strict=True):
        print(f"  {path.relative_to(DATA)}: {output['text'].strip()}")


def write_subtitles(folder: Path) -> int:
    """The same clips from the shell, as subtitles; returns the program's exit status."""
    clips = [str(DATA / language / "audio" / f"{name}.ogg") for language, name in PIPELINE_CLIPS.items()]
    words = [*clips, "--language", *PIPELINE_CLIPS, "--model", str(DATA / "student"), "--experts", str(folder)]
    words += ["--output_format", "srt", "--output_dir", str(folder / "subtitles"), "--overwrite"]
    print(f"\ndistil-whisper {shlex.join(['transcribe', *words])}\n")
    status = subtitles.main(words)
    for path in sorted((folder / "subtitles").glob("*.srt")):
        print(f"\n{path}:\n{path.read_text(encoding='utf-8').strip()}")
    return status


if __name__ == "__main__":
    sys.exit(main())
