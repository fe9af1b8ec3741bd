"""Real whisper-base over the Hub: pushed by one, opened by its name and transcribing by another."""

import csv
import os
from pathlib import Path

import pytest
from hub_client import Client
from hub_server import Hub

BASE, SPEECH = (os.environ.get(f"DISTIL_WHISPER_REAL_{name}", "") for name in ("BASE", "SPEECH"))
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not BASE or not SPEECH, reason="DISTIL_WHISPER_REAL_BASE or _SPEECH is not set"),
]
PUSH = f"""
import torch
from distil_whisper_hf import DistilWhisperForConditionalGeneration
model = DistilWhisperForConditionalGeneration.from_pretrained({BASE!r})
model.add_expert('pl')
torch.manual_seed(0)
with torch.no_grad():
    for key, parameter in model.named_parameters():
        if '.language_experts.' in key:
            parameter.add_(1e-3 * torch.randn_like(parameter))
model.push_expert_to_hub('user/whisper-base-pl', 'pl', base_model='openai/whisper-base')
from transformers import AutoProcessor, pipeline
processor = AutoProcessor.from_pretrained({BASE!r})
transcribe = pipeline('automatic-speech-recognition', model=model, tokenizer=processor.tokenizer,
                      feature_extractor=processor.feature_extractor)
"""
OPEN = """
import distil_whisper_hf
from transformers import pipeline
transcribe = pipeline('automatic-speech-recognition', model='user/whisper-base-pl')
"""
TRANSCRIBE = "result = transcribe({!r}, language='pl', generate_kwargs={{'num_beams': 1}})['text']"


def test_an_expert_goes_all_the_way(tmp_path):
    """Silent: what works with tiny models failing with real ones: sizes, tokenizer, generation settings."""
    folder = Path(SPEECH) / "artikulate-pl"
    with open(folder / "metadata.csv", encoding="utf-8", newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["suspect"] == "0" and 3 < float(row["duration"]) < 8)
    clip = next(path for path in (folder / row["file_name"], folder / "audio" / row["file_name"]) if path.exists())
    with Hub(tmp_path / "hub") as hub:
        hub.publish_folder("openai/whisper-base", Path(BASE))
        with Client(hub, tmp_path / "author") as author:
            author(PUSH)
            pushed = hub.counted()
            expected = author(TRANSCRIBE.format(str(clip)))
        size = len(hub.files("user/whisper-base-pl")["expert.pl.safetensors"])
        # 25.6 M parameters in float32; beside them a tokenizer of some megabytes.
        assert 100e6 < size < 105e6 and size < pushed["received"] < size + 12e6
        with Client(hub, tmp_path / "reader") as reader:
            reader(OPEN)
            opened = hub.counted()
            text = reader(TRANSCRIBE.format(str(clip)))
        weights = (Path(BASE) / "model.safetensors").stat().st_size
        assert size + weights < opened["sent"] < size + weights + 20e6
    assert text == expected and len(text.split()) >= 2
