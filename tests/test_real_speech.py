"""Real whisper-base on real speech: what random weights cannot show."""

import csv
import os
from pathlib import Path

import pytest
import soundfile
import torch
from models import randomize_expert
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, WhisperForConditionalGeneration, pipeline

from distil_whisper_hf import DistilWhisperForConditionalGeneration

BASE, SPEECH = (os.environ.get(f"DISTIL_WHISPER_REAL_{name}", "") for name in ("BASE", "SPEECH"))
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not BASE or not SPEECH, reason="DISTIL_WHISPER_REAL_BASE or _SPEECH is not set"),
]
SETS = {"ca": "gcompris-ca", "en": "asterisk-en", "pl": "artikulate-pl"}


def clips(language: str, count: int) -> list:
    folder = Path(SPEECH) / SETS[language]
    with open(folder / "metadata.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["suspect"] == "0" and float(row["duration"]) > 2]
    paths = [path for row in rows[:count] for path in (folder / row["file_name"], folder / "audio" / row["file_name"])]
    return [soundfile.read(path, dtype="float32")[0] for path in paths if path.exists()]


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(BASE)


@pytest.fixture(scope="module")
def whisper():
    return WhisperForConditionalGeneration.from_pretrained(BASE).eval()


@pytest.fixture(scope="module")
def model():
    """A Catalan expert that is far from the shared path, so that a leak would show."""
    model = DistilWhisperForConditionalGeneration.from_pretrained(BASE).eval()
    model.add_expert("ca")
    randomize_expert(model, "ca", 0)
    return model


@pytest.fixture(scope="module")
def batch(processor):
    languages = ["ca", "en", "pl", "en", "ca", "pl", "en"]
    supply = {language: iter(clips(language, 3)) for language in SETS}
    audio = [next(supply[language]) for language in languages]
    return languages, processor(audio, sampling_rate=16000, return_tensors="pt").input_features


def test_a_mixed_batch_leaves_other_languages_alone(whisper, model, batch):
    """Silent: a Catalan expert changing English or Polish clips in the same call."""
    languages, inputs = batch
    ours = model.generate(inputs, language=languages, max_new_tokens=40)
    plain = whisper.generate(inputs, language=languages, max_new_tokens=40)
    length = min(ours.shape[1], plain.shape[1])
    for row, language in enumerate(languages):
        same = torch.equal(ours[row, :length], plain[row, :length])
        assert same == (language != "ca"), (row, language)


def test_logits_are_whispers_bit_for_bit(whisper, model, batch):
    """Silent: a difference of rounding that short greedy decoding does not show."""
    _, inputs = batch
    prompt = torch.tensor([[50258, 50259, 50359, 50363, 440, 441]] * len(inputs))
    translate = torch.tensor([[50258, 50270, 50358, 50363, 440, 441]] * len(inputs))
    with torch.no_grad():
        for tokens in (prompt, translate):
            assert torch.equal(
                model(inputs, decoder_input_ids=tokens).logits, whisper(inputs, decoder_input_ids=tokens).logits
            )


def test_rows_without_an_expert_are_whispers_in_a_mixed_batch(whisper, batch):
    """Silent: kernels that round differently beside a full or a compact expert."""
    languages, inputs = batch
    mixed = DistilWhisperForConditionalGeneration.from_pretrained(BASE)
    mixed.add_expert("ca", rank=16, targets="all")
    mixed.add_expert("pl")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in ("ca", "pl"):
            for _, layer in mixed.expert_layers(name):
                for parameter in layer.language_experts[name].parameters():
                    parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    tokens = torch.tensor(
        [[50258, whisper.generation_config.lang_to_id[f"<|{one}|>"], 50359, 50363] for one in languages]
    )
    with torch.no_grad():
        ours, plain = (one(inputs, decoder_input_ids=tokens).logits for one in (mixed.eval(), whisper))
    for row, language in enumerate(languages):
        assert torch.equal(ours[row], plain[row]) == (language == "en"), (row, language)


def test_a_fresh_expert_transcribes_as_whisper(whisper, batch):
    """Silent: experts that do not start from the shared path in every layer of a real model."""
    languages, inputs = batch
    fresh = DistilWhisperForConditionalGeneration.from_pretrained(BASE)
    for language in SETS:
        fresh.add_expert(language)
    ours = fresh.generate(inputs[:3], language=languages[:3], max_new_tokens=30)
    assert torch.equal(ours, whisper.generate(inputs[:3], language=languages[:3], max_new_tokens=30))


def test_an_expert_only_folder_opens_by_the_pipeline(model, processor, tmp_path):
    """Silent: a published expert that others cannot open by its name alone."""
    model.save_pretrained(tmp_path, experts_only=True)
    processor.save_pretrained(tmp_path)
    assert (
        sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
        < 0.4 * (Path(BASE) / "model.safetensors").stat().st_size
    )
    again = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path)
    assert type(again) is DistilWhisperForConditionalGeneration and again.expert_names == ("ca",)
    transcribe = pipeline("automatic-speech-recognition", model=str(tmp_path))
    audio = clips("en", 2)
    texts = [out["text"] for out in transcribe(audio, language="en", batch_size=2, generate_kwargs={"num_beams": 1})]
    assert all(len(text.split()) > 2 for text in texts)
    timed = transcribe(audio[0], language="en", return_timestamps=True, generate_kwargs={"num_beams": 1})
    assert timed["chunks"][0]["timestamp"][1] > 0
