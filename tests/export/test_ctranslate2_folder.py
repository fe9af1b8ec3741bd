"""CTranslate2 and faster-whisper open what is exported, without the Hub, and compute the same."""

import numpy as np
import pytest
import torch
from models import LANGUAGE, NO_TIMESTAMPS, START, TRANSCRIBE, features, save_whisper
from speech_files import tone
from tiny import tiny_processor
from tokenizers import Tokenizer

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.export.collapse import collapse, plain_whisper
from distil_whisper_hf.export.ctranslate2_folder import write_ctranslate2

ctranslate2 = pytest.importorskip("ctranslate2")
PROMPT = [START, LANGUAGE["ca"], TRANSCRIBE, NO_TIMESTAMPS]


def first_logits(folder, inputs, **options):
    model = ctranslate2.models.Whisper(str(folder), device="cpu", **options)
    given = ctranslate2.StorageView.from_array(inputs.numpy())
    results = model.generate(
        given, [PROMPT], beam_size=1, max_length=len(PROMPT) + 1, return_logits_vocab=True,
        suppress_tokens=[], suppress_blank=False,
    )  # fmt: skip
    return torch.from_numpy(np.array(results[0].logits[0][0])).float()


@pytest.fixture(scope="module")
def inputs():
    return features(1, frames=200)


def expected(model, inputs):
    with torch.no_grad():
        return model(inputs, decoder_input_ids=torch.tensor([PROMPT])).logits[0, -1].log_softmax(-1)


class Only:
    """A tokenizer class that opens files, and does not ask the Hub."""

    from_file = staticmethod(Tokenizer.from_file)

    def __init__(self, from_pretrained):
        self.from_pretrained = from_pretrained


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-3), ("float16", 0.02), ("int8", 0.2)])
def test_it_computes_what_the_expert_does(make, processor, inputs, tmp_path, dtype, most):
    """Silent: the base converted in the expert's place, or a type that is asked for and not stored."""
    model = make("biases")
    collapsed = collapse(model, "ca").model
    write_ctranslate2(collapsed, processor, tmp_path / "out", dtype=dtype)
    computed = {"float16": {"compute_type": "float32"}}.get(dtype, {})
    found = first_logits(tmp_path / "out", inputs, **computed).log_softmax(-1)
    ours, plain = expected(model, inputs), expected(plain_whisper(model), inputs)
    assert (found - ours).abs().mean() < most < (plain - ours).abs().mean()
    size = (tmp_path / "out" / "model.bin").stat().st_size
    assert size / sum(p.numel() for p in collapsed.parameters()) < {"float32": 4.2, "float16": 2.2, "int8": 2}[dtype]


def test_faster_whisper_needs_no_hub(tmp_path, monkeypatch):
    """Silent: a folder without tokenizer.json, for which faster-whisper takes another one from the Hub, or without
    preprocessor_config.json, in whose place it takes 80 mel bins."""
    faster_whisper = pytest.importorskip("faster_whisper")
    base = save_whisper(tmp_path / "base", num_mel_bins=128, max_source_positions=1500, encoder_layers=1)
    model = DistilWhisperForConditionalGeneration.from_pretrained(base)
    model.add_expert("ca")
    write_ctranslate2(collapse(model, "ca").model, tiny_processor(128), tmp_path / "out", dtype="float32")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "model.bin", "preprocessor_config.json", "tokenizer.json", "vocabulary.json"}

    def refuse(*_, **__):
        raise AssertionError("asked the Hub")

    # Its class is not Python's: the name that faster-whisper calls it by is replaced.
    monkeypatch.setattr(faster_whisper.transcribe.tokenizers, "Tokenizer", Only(refuse))
    opened = faster_whisper.WhisperModel(str(tmp_path / "out"), device="cpu", compute_type="float32")
    assert opened.feature_extractor.mel_filters.shape == (128, 201)
    segments, _ = opened.transcribe(
        tone(1.0), language="en", beam_size=1, temperature=0, max_new_tokens=5, no_speech_threshold=None
    )
    assert [segment.tokens for segment in segments]
