"""The README.md of an exported expert: what it is, what it computes, what was measured, how it is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCardData

from ..languages import hub_language
from ..markdown import one_line, table
from .collapse import MOST

OPEN = {
    "whisper": """from transformers import pipeline

transcribe = pipeline("automatic-speech-recognition", model="FOLDER")
print(transcribe("clip.wav", generate_kwargs={"language": "LANGUAGE"})["text"])""",
    "peft": """from peft import PeftModel
from transformers import WhisperForConditionalGeneration

model = WhisperForConditionalGeneration.from_pretrained("BASE")
model = PeftModel.from_pretrained(model, "FOLDER")  # .merge_and_unload() makes it plain Whisper""",
    "ctranslate2": """import numpy as np
from faster_whisper import WhisperModel, decode_audio

samples = decode_audio("clip.wav")
# Up to a whole window of 30 s with silence, as Whisper was trained: faster-whisper pads spectrograms with zeros.
samples = np.pad(samples, (0, max(0, 480_000 - len(samples))))
segments, _ = WhisperModel("FOLDER").transcribe(samples, language="LANGUAGE")
print("".join(segment.text for segment in segments))""",
    "ggml": """from pywhispercpp.model import Model

model = Model("FOLDER/ggml-model.bin", context_params={"flash_attn": False})
segments = model.transcribe("clip.wav", language="LANGUAGE")
print("".join(segment.text for segment in segments))""",
    "onnx": """import numpy as np
import onnxruntime
import soundfile
from transformers import AutoProcessor, GenerationConfig

processor, settings = AutoProcessor.from_pretrained("FOLDER"), GenerationConfig.from_pretrained("FOLDER")
encoder, decoder = (onnxruntime.InferenceSession(f"FOLDER/{name}_model.onnx") for name in ("encoder", "decoder"))
samples, rate = soundfile.read("clip.wav", dtype="float32")  # of 16 kHz, up to 30 s
features = processor(samples, sampling_rate=rate, return_tensors="np").input_features
heard = encoder.run(None, {"input_features": features.astype(np.float32)})[0]
prompt = ["<|startoftranscript|>", "<|LANGUAGE|>", "<|transcribe|>", "<|notimestamps|>"]
tokens = processor.tokenizer.convert_tokens_to_ids(prompt)
while tokens[-1] != settings.eos_token_id and len(tokens) < settings.max_length:
    given = {"input_ids": np.array([tokens], dtype=np.int64), "encoder_hidden_states": heard}
    logits = decoder.run(None, given)[0][0, -1]
    logits[settings.suppress_tokens or []] = -np.inf
    if len(tokens) == len(prompt):
        logits[settings.begin_suppress_tokens or []] = -np.inf
    tokens.append(int(logits.argmax()))
print(processor.tokenizer.decode(tokens, skip_special_tokens=True))""",
}


@dataclass(frozen=True)
class Report:
    """What is known of an exported expert.

    Attributes:
        name: the expert.
        language: Whisper's code of the language that it is prompted with; None for none.
        base: what it was trained on.
        target: key of `targets.TARGETS`.
        dtype: of the weights.
        exact: whether it computes what the expert does; None where the gates are kept.
        replaced, left: layers, as in `collapse.Collapsed`.
        open_shares: layer -> share of open gates, in [0, 1]; empty where no gate closes.
        rates: error rates on the checked speech, as Markdown; empty if none were measured.
        command: what made it.
        versions: of the libraries that took part.
    """

    name: str
    language: str | None
    base: str
    target: str
    dtype: str
    exact: bool | None
    replaced: tuple[str, ...]
    left: tuple[str, ...]
    open_shares: Mapping[str, float]
    rates: str
    command: str
    versions: str


def card(report: Report, folder: str) -> str:
    """The README.md. `folder` is the name of the output folder."""
    language = report.language or "en"
    example = OPEN[report.target]
    for sign, value in (("FOLDER", folder), ("LANGUAGE", language), ("BASE", report.base)):
        example = example.replace(sign, value)
    parts = [
        _metadata(report),
        f"# {one_line(report.name)}, a language expert of {one_line(Path(report.base).name)}, as {report.target}",
        f"Weights in {report.dtype}. {outcome(report)}",
        f"```python\n{example}\n```",
        gate_table(report.open_shares, report.left),
        report.rates,
        f"Made by `{report.command}` with {report.versions}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def outcome(report: Report) -> str:
    """What becomes of the gates, in a sentence."""
    if report.exact is None:
        return "The gates are in it: every frame and token takes the expert or Whisper's own network."
    if report.exact:
        return "All gates of the expert are always open: it is added to Whisper's weights, which is exact."
    total = len(report.replaced) + len(report.left)
    return (
        f"The expert has gates that close, and this form has none: {len(report.replaced)} of {total} layers, with "
        f"more than {100 * MOST:.0f} % of their gates open, are the expert's, the others Whisper's. That is another "
        "model than the expert: see the error rates."
    )


def gate_table(open_shares: Mapping[str, float], left: Sequence[str]) -> str:
    """Share of open gates by layer in %, and what the layer is; empty where no gate closes."""
    rows = [[key, f"{100 * share:.0f}", "Whisper's" if key in left else "expert"] for key, share in open_shares.items()]
    return table(("layer", "open gates, %", "taken"), rows) if rows else ""


def _metadata(report: Report) -> str:
    known = ModelCardData(
        language=hub_language(report.language) if report.language else None,
        # A folder of this machine is nothing to the Hub.
        base_model=None if os.path.exists(report.base) else report.base,
        pipeline_tag="automatic-speech-recognition",
        tags=["whisper", "distil-whisper-hf"],
    )
    return f"---\n{known.to_yaml()}\n---"
