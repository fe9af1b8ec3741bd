"""CTranslate2 and faster-whisper open what is exported, without the Hub, and compute the same."""

import numpy as np
import pytest
import torch
from models import LANGUAGE, NO_TIMESTAMPS, START, TRANSCRIBE, features
from speech_files import tone

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


def test_faster_whisper_needs_no_hub(make, processor, tmp_path, monkeypatch):
    """Silent: a folder without tokenizer.json, for which faster-whisper takes another one from the Hub, or without
    preprocessor_config.json, in whose place it takes 80 mel bins and windows of 30 s."""
    faster_whisper = pytest.importorskip("faster_whisper")
    write_ctranslate2(collapse(make("full"), "ca").model, processor, tmp_path / "out", dtype="float32")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "model.bin", "preprocessor_config.json", "tokenizer.json", "vocabulary.json"}

    def refuse(*_, **__):
        raise AssertionError("asked the Hub")

    monkeypatch.setattr("tokenizers.Tokenizer.from_pretrained", refuse)
    model = faster_whisper.WhisperModel(str(tmp_path / "out"), device="cpu", compute_type="float32")
    assert model.feature_extractor.nb_max_frames == 200
    assert model.hf_tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    # Its own way to text takes windows of 30 s for granted.
    encoded = model.encode(model.feature_extractor(tone(1.9))[:, :200])
    made = model.model.generate(
        encoded, [[START, LANGUAGE["ca"], TRANSCRIBE, NO_TIMESTAMPS]], beam_size=1, max_length=9
    )
    assert made[0].sequences_ids[0]
