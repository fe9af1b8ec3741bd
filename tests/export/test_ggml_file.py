"""whisper.cpp opens what is exported, and computes the same."""

import struct

import numpy as np
import pytest
import torch
from models import LANGUAGE, NO_TIMESTAMPS, START, TRANSCRIBE, features
from transformers import WhisperFeatureExtractor

from distil_whisper_hf.export.collapse import collapse, plain_whisper
from distil_whisper_hf.export.ggml_file import (
    FILE,
    check_model,
    mel_filters,
    signs_of_bytes,
    tensors,
    text_tokens,
    write_ggml,
)

PROMPT = [START, LANGUAGE["ca"], TRANSCRIBE, NO_TIMESTAMPS]


@pytest.fixture(scope="module")
def whisper_cpp():
    pytest.importorskip("pywhispercpp")
    return pytest.importorskip("_pywhispercpp")


def read(path):
    """What a file holds, by its description: sizes, filters, tokens, and tensors by name with type and shape."""
    data, at = path.read_bytes(), 0

    def take(form):
        nonlocal at
        values = struct.unpack_from(f"<{form}", data, at)
        at += struct.calcsize(f"<{form}")
        return values

    magic, *sizes = take("12i")
    assert magic == 0x67676D6C
    bins, width = take("2i")
    filters = np.array(take(f"{bins * width}f"), dtype=np.float32).reshape(bins, width)
    tokens = [take(f"{take('i')[0]}s")[0] for _ in range(take("i")[0])]
    found = {}
    while at < len(data):
        dimensions, length, kind = take("3i")
        shape = take(f"{dimensions}i")[::-1]
        name = take(f"{length}s")[0].decode()
        count = int(np.prod(shape))
        values = np.frombuffer(data, "<f2" if kind else "<f4", count, at).reshape(shape)
        at += values.nbytes
        found[name] = values
    return sizes, filters, tokens, found


def test_the_file_has_everything(make, processor, tmp_path):
    """Silent: a tensor under another name, in another type or the wrong way round; tokens that are not bytes."""
    collapsed = collapse(make("compact"), "ca").model
    write_ggml(collapsed, processor, tmp_path, dtype="float16")
    sizes, filters, tokens, found = read(tmp_path / FILE)
    assert sizes == [51865, 100, 64, 4, 4, 448, 64, 4, 3, 80, 1]
    assert np.array_equal(filters, processor.feature_extractor.mel_filters.T.astype(np.float32))
    assert len(tokens) == 50257 and tokens[300] == b" w300" and sorted(tokens[:256]) == [bytes([n]) for n in range(256)]
    weight = collapsed.model.decoder.layers[2].encoder_attn.k_proj.weight.detach().numpy()
    assert np.array_equal(found["decoder.blocks.2.cross_attn.key.weight"], weight.astype(np.float16))
    norm = collapsed.model.encoder.layers[1].final_layer_norm.weight.detach().numpy()
    assert np.array_equal(found["encoder.blocks.1.mlp_ln.weight"], norm)
    assert found["encoder.conv1.bias"].shape == (64, 1) and found["encoder.conv1.bias"].dtype == np.float32
    assert found["encoder.positional_embedding"].dtype == np.float32
    halves = {name for name, values in found.items() if values.dtype == np.float16}
    assert halves == {name for name in found if name.endswith(".weight") and "ln" not in name}
    assert len(found) == len([name for name in collapsed.state_dict() if name != "proj_out.weight"])


def test_whisper_cpp_computes_what_the_expert_does(make, processor, tmp_path, whisper_cpp):
    """Silent: a tensor that whisper.cpp takes for another one: it loads, and transcribes nonsense."""
    model = make("biases")
    write_ggml(collapse(model, "ca").model, processor, tmp_path, dtype="float16")
    parameters = whisper_cpp.whisper_context_default_params()
    parameters.flash_attn = parameters.use_gpu = False
    context = whisper_cpp.whisper_init_from_file_with_params(str(tmp_path / FILE), parameters)
    assert whisper_cpp.whisper_model_type_readable(context) == "tiny"
    assert whisper_cpp.whisper_token_to_bytes(context, 300) == b" w300"
    assert whisper_cpp.whisper_token_lang(context, whisper_cpp.whisper_lang_id("ca")) == LANGUAGE["ca"]
    inputs = features(1, frames=200)
    mel = np.ascontiguousarray(inputs[0].numpy())
    assert whisper_cpp.whisper_set_mel(context, mel.flatten(), mel.shape[1], mel.shape[0]) == 0
    assert whisper_cpp.whisper_encode(context, 0, 1) == 0
    # The binding hands out the first logit alone, that of token 0: after each of these.
    text, found = [*PROMPT, *range(300, 320)], []
    for place, token in enumerate(text):
        assert whisper_cpp.whisper_decode(context, token, 1, place, 1) == 0
        found.append(whisper_cpp.whisper_get_logits(context))
    with torch.no_grad():
        ours, plain = (
            one(inputs, decoder_input_ids=torch.tensor([text])).logits[0, :, 0] for one in (model, plain_whisper(model))
        )
    assert (torch.tensor(found) - ours).abs().max() < 0.05 * (plain - ours).abs().max()


def test_what_whisper_cpp_would_misread_is_refused(make, processor):
    """Silent: languages that are counted from a vocabulary of another size."""
    config = collapse(make("compact"), "ca").model.config
    check_model(config, processor)
    config.vocab_size = 51900
    with pytest.raises(ValueError, match="51864, 51865, 51866"):
        check_model(config, processor)
    config.vocab_size, config.activation_function = 51865, "relu"
    with pytest.raises(ValueError, match="activation"):
        check_model(config, processor)


def test_weights_beyond_float16_are_refused(make, processor, tmp_path):
    collapsed = collapse(make("compact"), "ca").model
    with torch.no_grad():
        collapsed.model.decoder.layers[0].fc1.weight[0] = 1e6
    with pytest.raises(ValueError, match="finite in float16"):
        list(tensors(collapsed))


def test_bytes_and_bins(processor):
    """Silent: signs of GPT-2's alphabet that stand for other bytes, or the filters of 80 bins for 128."""
    signs = signs_of_bytes()
    assert signs[32] == "Ġ" and signs[10] == "Ċ" and signs[ord("a")] == "a" and len(set(signs.values())) == 256
    assert mel_filters(WhisperFeatureExtractor(feature_size=128)).shape == (128, 201)
    assert text_tokens(processor.tokenizer)[256] == b" w256"
