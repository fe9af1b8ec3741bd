"""onnxruntime computes what the expert does, its gates included, for any batch and number of tokens."""

import json

import pytest
import torch
from models import features, randomize_expert, save_whisper
from programs import short_processor

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.export.collapse import collapse, gated_layers, plain_whisper
from distil_whisper_hf.export.onnx_folder import DECODER, ENCODER, write_onnx

for library in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(library)
# Tracing and optimising a graph takes half a minute, of however small a model.
pytestmark = pytest.mark.slow


def logits(folder, inputs, tokens):
    import onnxruntime

    encoder, decoder = (onnxruntime.InferenceSession(folder / name) for name in (ENCODER, DECODER))
    heard = encoder.run(None, {"input_features": inputs.numpy()})[0]
    given = {"input_ids": tokens.numpy(), "encoder_hidden_states": heard}
    return torch.from_numpy(decoder.run(None, given)[0])


def text(batch, length):
    tokens = torch.randint(0, 50_000, (batch, length), generator=torch.Generator().manual_seed(length))
    tokens[:, :3] = torch.tensor([50258, 50270, 50359])
    return tokens


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = save_whisper(tmp_path_factory.mktemp("onnx"), encoder_layers=1, decoder_layers=2, max_source_positions=100)
    return DistilWhisperForConditionalGeneration.from_pretrained(folder).eval()


@pytest.mark.parametrize("form", [{"rank": 4, "bias": True}, {}])
def test_gates_are_in_the_graph(base, tmp_path, form):
    """Silent: the gates of the clip that was traced taken for all, or a batch or text of that one's size alone."""
    name = "ca" if form else "gl"
    base.add_expert(name, **form)
    randomize_expert(base, name, 3)
    assert gated_layers(base, name)
    before = base.config._attn_implementation
    write_onnx(base, short_processor(), tmp_path, expert=name)
    assert base.config._attn_implementation == before
    for batch, length in ((1, 3), (3, 9)):
        inputs, tokens = features(batch, seed=7, frames=200), text(batch, length)
        with torch.no_grad():
            ids = torch.full((batch,), base.expert_index(name))
            ours = base(inputs, decoder_input_ids=tokens, expert_ids=ids).logits
            plain = base(inputs, decoder_input_ids=tokens, expert_ids=-torch.ones_like(ids)).logits
        torch.testing.assert_close(logits(tmp_path, inputs, tokens), ours, atol=1e-4, rtol=1e-4)
        assert (plain - ours).abs().max() > 0.05
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "whisper"
    names = {path.name for path in tmp_path.iterdir()}
    assert {ENCODER, DECODER, "config.json", "generation_config.json", "tokenizer.json", "vocab.json"} <= names


def test_a_collapsed_expert_is_a_smaller_graph(base, tmp_path):
    """Silent: both paths computed where all gates are open."""
    import onnx

    base.add_expert("el", rank=4)
    randomize_expert(base, "el", 5)
    with torch.no_grad():
        for _, layer in base.expert_layers("el"):
            layer.language_experts["el"].gate_out.weight.zero_()
    collapsed = collapse(base, "el").model
    write_onnx(collapsed, short_processor(), tmp_path, expert=None)
    inputs, tokens = features(2, frames=200), text(2, 5)
    with torch.no_grad():
        ours = collapsed(inputs, decoder_input_ids=tokens).logits
        plain = plain_whisper(base)(inputs, decoder_input_ids=tokens).logits
    torch.testing.assert_close(logits(tmp_path, inputs, tokens), ours, atol=1e-4, rtol=1e-4)
    assert (plain - ours).abs().max() > 0.05
    kinds = {node.op_type for node in onnx.load(tmp_path / DECODER, load_external_data=False).graph.node}
    assert not kinds & {"If", "Loop", "Scan"}
