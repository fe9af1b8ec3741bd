"""The exported folder: stock Whisper classes open it, and so do tools that read its files."""

import json

import pytest
import torch
from models import features, prompts
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoProcessor, PreTrainedTokenizerFast, WhisperForConditionalGeneration, WhisperTokenizer

from distil_whisper_hf.export.collapse import collapse
from distil_whisper_hf.export.whisper_folder import special_tokens, text_vocabulary, write_processor, write_whisper

FILES = {
    "added_tokens.json", "config.json", "generation_config.json", "merges.txt", "model.safetensors",
    "preprocessor_config.json", "processor_config.json", "special_tokens_map.json", "tokenizer.json",
    "tokenizer_config.json", "vocab.json",
}  # fmt: skip


@pytest.fixture
def written(make, processor, tmp_path):
    model = make("compact")
    write_whisper(collapse(model, "ca").model, processor, tmp_path / "out")
    return model, tmp_path / "out"


def test_stock_classes_open_it(written):
    """Silent: logits of another model, or a generation config of which half was left behind."""
    model, folder = written
    assert {path.name for path in folder.iterdir()} == FILES
    stock = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    inputs = {"input_features": features(2, frames=200), "decoder_input_ids": prompts("ca", "ca")}
    with torch.no_grad():
        torch.testing.assert_close(stock(**inputs).logits, model(**inputs).logits, atol=1e-4, rtol=1e-4)
    assert stock.generation_config.alignment_heads == model.generation_config.alignment_heads
    tokens = stock.generate(features(1, frames=200), language="ca", max_new_tokens=5)
    assert torch.equal(tokens, model.generate(features(1, frames=200), language="ca", max_new_tokens=5))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_said_and_stored(make, processor, tmp_path, dtype):
    """Silent: float32 weights under a config that says float16, or a model left in half precision."""
    collapsed = collapse(make("full"), "ca").model
    write_whisper(collapsed, processor, tmp_path / "out", dtype=dtype)
    stock = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert stock.dtype is getattr(torch, dtype)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype
    weight = collapsed.model.decoder.layers[0].fc1.weight
    assert torch.equal(stock.model.decoder.layers[0].fc1.weight, weight.to(stock.dtype))
    assert weight.dtype is torch.float32
    # The head is the embedding: stored once.
    assert "proj_out.weight" not in load_file(tmp_path / "out" / "model.safetensors")


def test_weights_beyond_half_precision_are_refused(make, processor, tmp_path):
    collapsed = collapse(make("full"), "ca").model
    with torch.no_grad():
        collapsed.model.decoder.layers[0].fc1.bias[0] = 1e6
    with pytest.raises(ValueError, match="finite in float16"):
        write_whisper(collapsed, processor, tmp_path / "out", dtype="float16")


def test_the_tokenizer_is_the_same(written, processor):
    """Silent: special tokens that are text, times that are special, or a prompt that is lost."""
    _, folder = written
    again, ours = AutoProcessor.from_pretrained(folder).tokenizer, processor.tokenizer
    text = "w300 w301 Bon dia, “què” tal? <|ca|> ñ"
    assert again(text).input_ids == ours(text).input_ids
    ids = [50258, 50270, 50359, 50363, 400, 50364, 401, 50257]
    for skip in (True, False):
        assert again.decode(ids, skip_special_tokens=skip) == ours.decode(ids, skip_special_tokens=skip)
    assert set(again.all_special_ids) == set(ours.all_special_ids)
    assert special_tokens(again)[:3] == ["<|endoftext|>", "<|startoftranscript|>", "<|en|>"]


def test_the_older_files_make_the_same_tokenizer(tmp_path, processor):
    """Silent: merges in another order or form, or added tokens under other ids, which only older tools would notice."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("b", "o"), ("bo", "n"), ("Ġ", "d")]
    words = [*alphabet, *("".join(pair) for pair in merges)]
    tokenizer = WhisperTokenizer(
        vocab={word: index for index, word in enumerate(words)},
        merges=merges,
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|endoftext|>", "<|startoftranscript|>"],
    )
    tokenizer.add_tokens(["<|0.00|>"])
    write_processor(processor.__class__(processor.feature_extractor, tokenizer), tmp_path)
    read = models.BPE.from_file(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    plain = Tokenizer(read)
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=plain)
    text = "bon dia, bo"
    assert fast(text).input_ids == tokenizer(text, add_special_tokens=False).input_ids
    assert 256 + 1 in fast(text).input_ids
    added = json.loads((tmp_path / "added_tokens.json").read_text())
    assert added == tokenizer.get_added_vocab() and added["<|0.00|>"] == max(added.values())
    special = json.loads((tmp_path / "special_tokens_map.json").read_text())
    assert special["additional_special_tokens"] == ["<|endoftext|>", "<|startoftranscript|>"]
    assert special["eos_token"] == "<|endoftext|>"
    assert list(text_vocabulary(tokenizer)[0].values()) == list(range(len(words)))
