"""What programs that know no experts make of exports: clips whose transcript is the expert's own, and error rates.

    distil-whisper export --model BASE --experts EXPERTS --expert pl --to ggml --output_dir exports/pl-ggml
    python benchmarks/exports.py exports/* --model BASE --experts EXPERTS --expert pl --data speech/artikulate-pl

Everything decodes greedily, without timestamps, on one core, clip by clip; the expert itself by transformers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, GenerationConfig, WhisperForConditionalGeneration, WhisperProcessor

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.data.audio import read_audio
from distil_whisper_hf.evaluation.evaluated_clips import read_evaluated_clips
from distil_whisper_hf.evaluation.recipes import DatasetSpec
from distil_whisper_hf.evaluation.scores.metrics import ErrorCounts, word_counts
from distil_whisper_hf.evaluation.scores.normalization import get_normalizer
from distil_whisper_hf.markdown import table

RATE, WINDOW = 16_000, 30 * 16_000
# Samples `(n,)` at 16 kHz -> text.
Transcriber = Callable[[np.ndarray], str]


def by_transformers(model: Any, processor: WhisperProcessor, language: str, limit: int) -> Transcriber:
    """Any Whisper of transformers' classes, or one that PEFT has around it."""

    def transcribe(samples: np.ndarray) -> str:
        inputs = processor.feature_extractor(samples, sampling_rate=RATE, return_tensors="pt").input_features
        tokens = model.generate(input_features=inputs, language=language, task="transcribe", max_new_tokens=limit)
        return processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()

    return transcribe


def by_peft(folder: Path, base: str, language: str, limit: int) -> Transcriber:
    from peft import PeftModel

    model = WhisperForConditionalGeneration.from_pretrained(base, dtype="float32")
    model = PeftModel.from_pretrained(model, str(folder)).eval()
    return by_transformers(model, AutoProcessor.from_pretrained(base), language, limit)


def by_faster_whisper(folder: Path, language: str, limit: int, *, padded: bool) -> Transcriber:
    """`padded`: given whole windows, for it pads spectrograms with zeros where Whisper pads sound with silence."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(folder), device="cpu", cpu_threads=1)

    def transcribe(samples: np.ndarray) -> str:
        if padded:
            samples = np.pad(samples, (0, max(0, WINDOW - len(samples))))
        segments, _ = model.transcribe(
            samples,
            language=language,
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            max_new_tokens=limit,
            no_speech_threshold=None,
        )
        return "".join(segment.text for segment in segments).strip()

    return transcribe


def by_whisper_cpp(folder: Path, language: str, limit: int) -> Transcriber:
    from pywhispercpp.model import Model

    model = Model(
        str(folder / "ggml-model.bin"),
        redirect_whispercpp_logs_to=None,
        context_params={"flash_attn": False, "use_gpu": False},
        n_threads=1,
        language=language,
        no_timestamps=True,
        single_segment=True,
        temperature_inc=0.0,
        max_tokens=limit,
        print_progress=False,
    )
    return lambda samples: "".join(segment.text for segment in model.transcribe(samples)).strip()


def by_onnx(folder: Path, language: str, limit: int) -> Transcriber:
    """Greedy, the whole text again for every token: the graph has no cache."""
    import onnxruntime

    processor, settings = AutoProcessor.from_pretrained(folder), GenerationConfig.from_pretrained(folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    encoder, decoder = (
        onnxruntime.InferenceSession(folder / f"{name}_model.onnx", options) for name in ("encoder", "decoder")
    )
    prompt = processor.tokenizer.convert_tokens_to_ids(
        ["<|startoftranscript|>", f"<|{language}|>", "<|transcribe|>", "<|notimestamps|>"]
    )

    def transcribe(samples: np.ndarray) -> str:
        features = processor.feature_extractor(samples, sampling_rate=RATE, return_tensors="np").input_features
        heard = encoder.run(None, {"input_features": features.astype(np.float32)})[0]
        tokens = list(prompt)
        while tokens[-1] != settings.eos_token_id and len(tokens) < len(prompt) + limit:
            given = {"input_ids": np.array([tokens], dtype=np.int64), "encoder_hidden_states": heard}
            logits = decoder.run(None, given)[0][0, -1]
            logits[settings.suppress_tokens or []] = -np.inf
            if len(tokens) == len(prompt):
                logits[settings.begin_suppress_tokens or []] = -np.inf
            tokens.append(int(logits.argmax()))
        return processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    return transcribe


def transcribers(folder: Path, base: str, language: str, limit: int) -> dict[str, Transcriber]:
    """What opens an export, by its files."""
    if (folder / "adapter_config.json").exists():
        return {"peft": by_peft(folder, base, language, limit)}
    if (folder / "decoder_model.onnx").exists():
        return {"onnxruntime": by_onnx(folder, language, limit)}
    if (folder / "ggml-model.bin").exists():
        return {"whisper.cpp": by_whisper_cpp(folder, language, limit)}
    if (folder / "model.bin").exists():
        return {
            "faster-whisper": by_faster_whisper(folder, language, limit, padded=False),
            "faster-whisper, padded": by_faster_whisper(folder, language, limit, padded=True),
        }
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype="float32").eval()
    return {"transformers": by_transformers(model, AutoProcessor.from_pretrained(folder), language, limit)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exports", nargs="*", type=Path, help="folders that export made of this expert")
    parser.add_argument("--model", required=True, help="the base")
    parser.add_argument("--experts", required=True, help="folder with the expert")
    parser.add_argument("--expert", required=True)
    parser.add_argument("--data", required=True, help="audio folder or manifest")
    parser.add_argument("--clips", type=int, default=30)
    parser.add_argument("--max_new_tokens", type=int, default=200)
    parser.add_argument("--show", action="store_true", help="show the transcripts that differ")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = DistilWhisperForConditionalGeneration.from_pretrained(args.model, experts=[], dtype="float32").eval()
    model.load_expert(args.expert, args.experts)
    language, limit = model.config.language_experts[args.expert]["language"], args.max_new_tokens
    clips = read_evaluated_clips(DatasetSpec(args.data, limit=args.clips), max_rejected=0.5).clips
    audio = [read_audio(clip.audio, sampling_rate=RATE) for clip in clips]
    references = [clip.text for clip in clips]
    own = by_transformers(model, AutoProcessor.from_pretrained(args.model), language, limit)
    expected, rows = [], []
    for name, folder in [("the expert", None), *((str(path), path) for path in args.exports)]:
        opened = {"distil_whisper_hf": own} if folder is None else transcribers(folder, args.model, language, limit)
        for program, transcribe in opened.items():
            started = time.perf_counter()
            texts = [transcribe(samples) for samples in audio]
            seconds = (time.perf_counter() - started) / len(audio)
            expected = expected or texts
            equal = sum(text == own for text, own in zip(texts, expected, strict=True))
            rate = error_rate(references, texts, language)
            changed = error_rate(expected, texts, language)
            rows.append((name, program, f"{equal} of {len(texts)}", f"{changed:.1f}", f"{rate:.1f}", f"{seconds:.2f}"))
            print(" | ".join(rows[-1]), flush=True)
            for text, mine in zip(texts, expected, strict=True):
                if args.show and text != mine:
                    print(f"   {mine!r}\n   {text!r}")
    print(table(("export", "program", "equal transcripts", "words changed, %", "WER, %", "s / clip"), rows))


def error_rate(references: list[str], hypotheses: list[str], language: str) -> float:
    """Words inserted, deleted and replaced, in % of those of the references."""
    normalizer = get_normalizer("unicode", language)
    pairs = zip(references, hypotheses, strict=True)
    return sum((word_counts(normalizer(one), normalizer(other)) for one, other in pairs), ErrorCounts()).rate


if __name__ == "__main__":
    main()
