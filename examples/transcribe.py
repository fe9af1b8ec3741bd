"""Transcribe speech with a Whisper, plain and with language experts, through transformers' ordinary pipeline.

    python examples/transcribe.py                                      clips of this repository, its own experts
    python examples/transcribe.py --language ru my.ogg                 any audio file
    python examples/transcribe.py --experts runs/ca --expert ca my.ogg with an expert of yours
    python examples/transcribe.py --model openai/whisper-tiny --new es with a new one, which changes no word

Seconds per clip on a CPU. The first run downloads the model, unless --model is a folder. The experts of this repository
are for whisper-base (model_cards/whisper-base-el-pl-ru); those of another Whisper are its own.
"""

import argparse
import csv
import sys
from pathlib import Path

from transformers import AutoProcessor, pipeline

from distil_whisper_hf import DistilWhisperForConditionalGeneration

CLIPS = Path(__file__).parent / "audio"
EXPERTS = Path(__file__).parents[1] / "model_cards/whisper-base-el-pl-ru"


def main(arguments: list[str] | None = None) -> list[dict[str, str]]:
    """Run the program; returns what it printed: per clip its file, language, and text without and with the expert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", nargs="*", type=Path, help="audio files; none: the clips in examples/audio")
    parser.add_argument("--model", default="openai/whisper-base", help="a Whisper: Hub name or folder")
    parser.add_argument("--language", help="language of all files, by Whisper's code; none: detected for each")
    parser.add_argument("--experts", default=str(EXPERTS), help="folder or repository that holds the experts")
    parser.add_argument("--expert", nargs="+", default=["ru"], help="which of them: languages' codes, or other names")
    parser.add_argument("--new", metavar="NAME", help="in their place a new expert: the way, without a trained one")
    args = parser.parse_args(arguments)

    files, languages = args.audio, [args.language] * len(args.audio)
    if not files:
        with open(CLIPS / "metadata.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        files, languages = [CLIPS / row["file_name"] for row in rows], [row["language"] for row in rows]

    model = DistilWhisperForConditionalGeneration.from_pretrained(args.model)
    processor = AutoProcessor.from_pretrained(args.model)
    transcribe = pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
    )

    def run() -> list[str]:
        # One batch: every clip in its own language, each row on its own path.
        options = {"language": languages, "batch_size": len(files), "generate_kwargs": {"num_beams": 1}}
        return [output["text"].strip() for output in transcribe([str(path) for path in files], **options)]

    plain = run()
    if args.new:
        model.add_expert(args.new)
    else:
        model.load_expert(args.expert, args.experts)
    expert = run()

    results = []
    for path, language, before, after in zip(files, languages, plain, expert, strict=True):
        routed = f"expert {language}" if language in model.expert_names else "shared path"
        if language is None:
            routed = "with experts"
        sys.stdout.write(f"{path.name} [{language or 'detected'}]\n  plain Whisper: {before}\n  {routed}: {after}\n")
        results.append({"file": path.name, "language": language or "", "plain": before, "expert": after})
    return results


if __name__ == "__main__":
    main()
