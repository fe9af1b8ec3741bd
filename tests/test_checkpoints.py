"""Expert files and checkpoints: what is written, what is read back, and what is refused."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from expert_files import header, rewrite
from models import LANGUAGE, features, prompts, randomize_expert, save_whisper, with_experts
from safetensors.torch import load_file
from transformers import GenerationConfig, WhisperForConditionalGeneration

from distil_whisper_hf import DistilWhisperForConditionalGeneration, ExpertFileError, base_fingerprint
from distil_whisper_hf.base_fingerprint import BaseSample
from distil_whisper_hf.checkpoints import expert_shapes, fingerprint_base
from distil_whisper_hf.expert_verbs import is_expert_key
from distil_whisper_hf.untrusted_files import check_finite

open_model = DistilWhisperForConditionalGeneration.from_pretrained


def logits(model, *languages, **arguments):
    with torch.no_grad():
        return model(features(len(languages)), decoder_input_ids=prompts(*languages), **arguments).logits


@pytest.fixture
def saved(model, tmp_path) -> Path:
    model.save_expert("ca", tmp_path / "experts")
    return tmp_path / "experts"


def test_an_expert_is_one_described_file(model, saved):
    """Silent: an expert that does not say what it is or what it fits."""
    path = saved / "expert.ca.safetensors"
    assert [p.name for p in saved.iterdir()] == [path.name]
    assert {k: tuple(v.shape) for k, v in load_file(path).items()} == expert_shapes(model.config)
    metadata = header(path)
    assert json.loads(metadata["distil_whisper.expert"]) == {"name": "ca", "language": "ca", "training": {}}
    base = json.loads(metadata["distil_whisper.base"])
    assert base == {"model": model.config.base_model_name_or_path, "fingerprint": model.base_fingerprint()}


def test_an_expert_comes_back_bit_for_bit(model, saved, whisper_folder):
    """Silent: tensors of one layer, side or expert loaded into another."""
    fresh = open_model(whisper_folder)
    fresh.load_expert("ca", saved)
    assert fresh.expert_names == ("ca",) and not fresh.training
    assert torch.equal(logits(fresh, "ca", "en", "ca"), logits(model, "ca", "en", "ca"))
    by_file = open_model(whisper_folder)
    by_file.load_expert("ca", saved / "expert.ca.safetensors")
    assert torch.equal(logits(by_file, "ca"), logits(model, "ca"))


def test_experts_come_and_go_beside_others(model, saved, whisper_folder):
    """Silent: removing one expert shifting the others' routes."""
    expected = logits(model, "gl", "en", "ca")
    model.remove_expert("ca")
    assert model.expert_names == ("gl", "sc", "ca-medical")
    torch.testing.assert_close(logits(model, "gl", "en", "es")[:2], expected[:2], atol=2e-5, rtol=1e-4)
    assert torch.equal(logits(model, "ca"), logits(open_model(whisper_folder), "ca"))
    model.load_expert("ca", saved)
    assert torch.equal(logits(model, "gl", "en", "ca"), expected)
    with pytest.raises(KeyError, match="'uk'"):
        model.remove_expert("uk")


def test_several_experts_load_at_once(model, whisper_folder, tmp_path):
    """Silent: a list of names of which only the first is loaded."""
    for name in ("ca", "gl"):
        model.save_expert(name, tmp_path)
    fresh = open_model(whisper_folder)
    fresh.load_expert(["gl", "ca"], tmp_path)
    assert torch.equal(logits(fresh, "ca", "gl"), logits(model, "ca", "gl"))


BROKEN = {
    "format": ("expert file of format 1 or 2, got '7'", {"metadata": {"distil_whisper.format": "7"}}),
    "not ours": ("got a file without a format", {"metadata": {"distil_whisper.format": ""}}),
    "another name": (
        "the file holds 'gl'",
        {"metadata": {"distil_whisper.expert": json.dumps({"name": "gl", "language": "gl", "training": {}})}},
    ),
    "missing tensor": ("missing: ['decoder.layers.2.fc2.bias']", {"tensors": {"decoder.layers.2.fc2.bias": None}}),
    "stray tensor": (
        "not of an expert: ['decoder.layers.9.fc1.bias']",
        {"tensors": {"decoder.layers.9.fc1.bias": torch.zeros(3)}},
    ),
    "wrong shape": (
        "expected encoder.layers.0.fc1.bias as",
        {"tensors": {"encoder.layers.0.fc1.bias": torch.zeros(97)}},
    ),
    "damaged header": (
        "describes an expert, got a damaged one",
        {"metadata": {"distil_whisper.expert": json.dumps({"name": "../ca", "language": "ca", "training": {}})}},
    ),
    "header without a base": ("got a damaged one", {"metadata": {"distil_whisper.base": "{}"}}),
    "language that is a list": (
        "entries of other types",
        {"metadata": {"distil_whisper.expert": json.dumps({"name": "ca", "language": ["ca"], "training": {}})}},
    ),
    "integers": ("got I64", {"tensors": {"encoder.layers.0.fc1.bias": torch.zeros(96, dtype=torch.int64)}}),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_and_leaves_the_model_alone(saved, whisper_folder, case):
    """Silent: a half-loaded expert, or one that is something else than it is called."""
    message, changes = BROKEN[case]
    rewrite(saved / "expert.ca.safetensors", **changes)
    refused(saved, whisper_folder, message)


def refused(saved, whisper_folder, message, error=ExpertFileError, name="ca"):
    model = with_experts(whisper_folder, "gl")
    before, keys = logits(model, "gl", "ca"), set(model.state_dict())
    with pytest.raises(error) as caught:
        model.load_expert(name, saved)
    assert message in str(caught.value)
    assert model.expert_names == ("gl",) and set(model.state_dict()) == keys
    assert torch.equal(logits(model, "gl", "ca"), before)


@pytest.mark.parametrize("length", [0, 5, 300, 100_000])
def test_a_truncated_file_is_refused(saved, whisper_folder, length):
    """Silent: the end of a file that a broken copy cut off read as zeros."""
    path = saved / "expert.ca.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    refused(saved, whisper_folder, "got a damaged one")


def test_an_expert_of_other_base_weights_is_refused(saved, tmp_path):
    """Silent: an expert on a base of the same size but other weights: fluent nonsense."""
    other = save_whisper(tmp_path / "other", seed=1)
    refused(saved, other, "made on other weights")


def test_an_expert_of_another_geometry_is_refused(saved, tmp_path):
    """Silent: an expert of whisper-small on whisper-base."""
    other = save_whisper(tmp_path / "other", decoder_layers=4, encoder_ffn_dim=112)
    refused(
        saved,
        other,
        "decoder_layers: the model has 4, the expert 3; encoder_ffn_dim: the model has 112, the expert 96",
    )


@pytest.mark.parametrize("name", ["../ca", "a/b", "", ".ca", "ca.b", "shared", "to", "ca\n", "x" * 65])
def test_names_that_are_paths_or_taken_are_refused(saved, whisper_folder, name, tmp_path):
    """Silent: a file written or read outside its folder; a module that torch's own attributes hide."""
    refused(saved, whisper_folder, "Expected an expert name", ValueError, name)
    model = open_model(whisper_folder)
    with pytest.raises(ValueError, match="Expected an expert name"):
        model.add_expert(name)


def test_missing_and_doubled_experts_are_named(saved, whisper_folder):
    """Silent: a missing file taken for an untrained expert; a trained one overwritten by loading."""
    refused(saved, whisper_folder, "found neither (experts there: ca)", FileNotFoundError, "uk")
    model = with_experts(whisper_folder, "ca")
    with pytest.raises(ValueError, match="loaded already"):
        model.load_expert("ca", saved)
    with pytest.raises(ValueError, match="loaded already"):
        model.add_expert("ca")
    with pytest.raises(ValueError, match=r"add_expert\('ca'\)"):
        open_model(whisper_folder).add_expert("catalan")
    with pytest.raises(ValueError, match="has a token for"):
        model.add_expert("sc", language="sardinian")


def test_the_same_expert_is_the_same_file(model, saved, tmp_path):
    """Silent: hashes that differ from save to save, so that what is on the Hub already is sent again."""
    first = (saved / "expert.ca.safetensors").read_bytes()
    for index in range(5):
        path = model.save_expert("ca", tmp_path / str(index))
        assert path.read_bytes() == first


def test_an_index_names_files_beside_it_only(model, tmp_path, whisper_folder):
    """Silent: a file from somewhere else on the disk read because a downloaded index names it."""
    model.save_pretrained(tmp_path / "shards", max_shard_size="5MB")
    path = tmp_path / "shards/model.safetensors.index.json"
    for name in ("../outside.safetensors", str(tmp_path / "outside.safetensors"), ".hidden.safetensors", "x.bin"):
        index = json.loads(path.read_text())
        index["weight_map"]["model.encoder.conv1.bias"] = name
        path.write_text(json.dumps(index))
        with pytest.raises(ExpertFileError, match="names of weight files beside it"):
            open_model(whisper_folder).load_expert("gl", tmp_path / "shards")


def test_writing_leaves_the_old_file_until_the_new_one_is_whole(model, saved, monkeypatch):
    """Silent: a crash while saving that leaves half an expert where a whole one was."""
    before = (saved / "expert.ca.safetensors").read_bytes()
    randomize_expert(model, "ca", 77)

    def crash(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("distil_whisper_hf.checkpoints.save_file", crash)
    with pytest.raises(OSError, match="disk full"):
        model.save_expert("ca", saved)
    assert (saved / "expert.ca.safetensors").read_bytes() == before
    assert os.listdir(saved) == ["expert.ca.safetensors"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_base_is_recognised_in_half_precision(saved, whisper_folder, tmp_path, dtype):
    """Silent: an expert refused (or a wrong one accepted) because the base was opened in another type."""
    half = open_model(whisper_folder, dtype=dtype)
    half.load_expert("ca", saved)
    assert half.model.encoder.layers[0].language_experts["ca"].fc1.weight.dtype == dtype
    half.save_expert("ca", tmp_path / "half")
    full = open_model(whisper_folder)
    full.load_expert("ca", tmp_path / "half")
    other = open_model(save_whisper(tmp_path / "other", seed=1), dtype=dtype)
    with pytest.raises(ExpertFileError, match="made on other weights"):
        other.load_expert("ca", saved)


def test_an_expert_may_be_read_by_whom_other_files_may(model, tmp_path):
    """Silent: an expert in a group's folder that its owner alone can open."""
    (tmp_path / "other").touch()
    assert model.save_expert("ca", tmp_path).stat().st_mode == (tmp_path / "other").stat().st_mode


def test_the_same_base_is_told_by_one_digest(whisper):
    """Silent: another base that passes because too little was compared."""
    mine = BaseSample(whisper.model.named_parameters())
    assert mine.comparable(mine.fingerprint) == {"float32/all": mine.fingerprint["float32/all"]}
    half = {key: mine.fingerprint[key] for key in mine.keys if key.startswith("float16")}
    assert [*mine.comparable(half)] == ["float16/all"]
    assert mine.comparable({"int3/all": "0"}) == mine.comparable({}) == mine.fingerprint
    quantised = {"float32/unquantized": mine.fingerprint["float32/unquantized"]}
    assert mine.comparable(quantised) == quantised


@pytest.mark.parametrize("change", ["in place", "past autograd", "another tensor", "assigned data", "another place"])
def test_a_base_that_changed_is_looked_at_again(saved, whisper_folder, monkeypatch, change):
    """Silent: an expert taken for that of a base that was trained, merged or replaced since the last look."""
    model = open_model(whisper_folder)
    model.load_expert("ca", saved)
    looks, sha256 = [], hashlib.sha256
    monkeypatch.setattr(base_fingerprint.hashlib, "sha256", lambda *data: looks.append(1) or sha256(*data))
    assert model._base_sample().comparable(model.base_fingerprint())
    before, seen = model.base_fingerprint(), len(looks)
    assert model.base_fingerprint() == before and len(looks) == seen
    monkeypatch.undo()
    layer = model.model.encoder.layers[1].fc1
    with torch.no_grad():
        if change == "in place":
            layer.weight.add_(0.01)
        elif change == "past autograd":
            # As PEFT merges an adapter.
            layer.weight.data += 0.01
        elif change == "another tensor":
            layer.weight = torch.nn.Parameter(layer.weight + 0.01)
        elif change == "assigned data":
            layer.weight.data = layer.weight.data.clone().add_(0.01)
        else:
            layer.weight.data = layer.weight.data.clone()
    if change == "another place":
        assert model.base_fingerprint() == before
        return
    assert model.base_fingerprint() == open_fingerprint(model) != before
    model.remove_expert("ca")
    with pytest.raises(ExpertFileError, match="on other weights"):
        model.load_expert("ca", saved)


def open_fingerprint(model) -> dict[str, str]:
    """By the definition, of all that is not an expert's."""
    return fingerprint_base(named for named in model.model.named_parameters() if not is_expert_key(named[0]))


def test_finite_numbers_may_have_a_sum_that_is_not():
    """Silent: numbers that are refused for their size, or NaN and infinities that cancel out."""
    check_finite("file", {"large": torch.full((4,), 3e38), "half": torch.full((64,), 65504.0, dtype=torch.float16)})
    for wrong in ([1.0, float("nan")], [float("inf"), float("-inf")], [float("inf")]):
        with pytest.raises(ExpertFileError, match="finite numbers, b holds"):
            check_finite("file", {"a": torch.ones(2), "b": torch.tensor(wrong)})


def test_the_fingerprint_sees_every_tensor(whisper):
    """Silent: a base with one changed layer taken for the one that the expert was trained on."""
    named = dict(whisper.model.named_parameters())
    before = fingerprint_base(named.items())
    for key, tensor in named.items():
        changed = fingerprint_base((named | {key: tensor.detach() + 1.0}).items())
        assert changed["float32/all"] != before["float32/all"], key
        assert changed["bfloat16/all"] != before["bfloat16/all"], key


def test_a_whole_checkpoint_opens_in_stock_whisper_too(model, tmp_path, whisper):
    """Silent: stock classes not finding the base, or experts stored twice."""
    model.save_pretrained(tmp_path)
    assert set(os.listdir(tmp_path)) == {"config.json", "generation_config.json", "model.safetensors"}
    held = set(load_file(tmp_path / "model.safetensors"))
    assert held == set(model.state_dict()) - {"proj_out.weight"}
    stock, info = WhisperForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and all(is_expert_key(key) for key in info["unexpected_keys"])
    assert torch.equal(logits(stock, "ca"), logits(whisper, "ca"))
    again = open_model(tmp_path)
    assert torch.equal(logits(again, "ca", "gl", "en"), logits(model, "ca", "gl", "en"))
    again = open_model(tmp_path, experts=["gl"])
    assert again.expert_names == ("gl",)
    assert torch.equal(logits(again, "gl"), logits(model, "gl"))
    assert open_model(tmp_path, experts=[]).expert_names == ()


def test_an_expert_only_checkpoint_finds_its_base(model, tmp_path, whisper_folder):
    """Silent: the base copied with every language, or looked up at the wrong place."""
    model.save_pretrained(tmp_path / "experts", experts_only=True)
    assert "model.safetensors" not in os.listdir(tmp_path / "experts")
    again = open_model(tmp_path / "experts")
    assert torch.equal(logits(again, "ca", "gl", "en"), logits(model, "ca", "gl", "en"))
    assert again.generation_config.lang_to_id == model.generation_config.lang_to_id
    moved = save_whisper(tmp_path / "moved")
    config = json.loads((tmp_path / "experts/config.json").read_text())
    config["base_model_name_or_path"] = "gone/whisper"
    (tmp_path / "experts/config.json").write_text(json.dumps(config))
    found = open_model(tmp_path / "experts", base_model_name_or_path=str(moved))
    assert torch.equal(logits(found, "ca"), logits(model, "ca"))
    with pytest.raises(OSError, match="gone/whisper"):
        open_model(tmp_path / "experts")


def test_expert_only_needs_a_base_and_a_folder_without_one(model, tmp_path):
    """Silent: a folder that opens on another base than the one its experts were trained on."""
    model.save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="without base weights"):
        model.save_pretrained(tmp_path / "whole", experts_only=True)
    with pytest.raises(ValueError, match="got both"):
        model.save_pretrained(tmp_path / "new", experts_only=True, state_dict=model.state_dict())
    model.config.base_model_name_or_path = None
    with pytest.raises(ValueError, match="Expected a known base"):
        model.save_pretrained(tmp_path / "new", experts_only=True)
    assert not (tmp_path / "new").exists()


def test_an_expert_loads_out_of_a_whole_checkpoint(model, tmp_path, whisper_folder):
    """Silent: what a Trainer saved being of no use to anybody who has the base already; its base not compared."""
    model.save_pretrained(tmp_path / "single")
    model.save_pretrained(tmp_path / "shards", max_shard_size="5MB")
    for folder in ("single", "shards"):
        fresh = open_model(whisper_folder)
        fresh.load_expert(["gl", "ca-medical"], tmp_path / folder)
        assert torch.equal(logits(fresh, "gl"), logits(model, "gl"))
        entry = {"language": "ca", "language_token_id": LANGUAGE["ca"], "training": {}}
        assert fresh.config.language_experts["ca-medical"] == entry
        other = open_model(save_whisper(tmp_path / f"other {folder}", seed=1))
        with pytest.raises(ExpertFileError, match="made on other weights"):
            other.load_expert("gl", tmp_path / folder)
    with pytest.raises(FileNotFoundError, match="experts there: ca, ca-medical, gl, sc"):
        open_model(whisper_folder).load_expert("uk", tmp_path / "single")


def test_a_file_beside_a_whole_checkpoint_adds_an_expert_or_replaces_one(model, tmp_path, whisper_folder):
    """Silent: an expert file added to a repository that nobody reads; an older file winning over a newer save."""
    model.save_pretrained(tmp_path)
    newer = with_experts(whisper_folder, "ca", "es")
    randomize_expert(newer, "ca", 5)
    for name in ("ca", "es"):
        newer.save_expert(name, tmp_path)
    again = open_model(tmp_path, experts=["ca", "gl", "es"])
    assert torch.equal(logits(again, "ca", "es", "en"), logits(newer, "ca", "es", "en"))
    torch.testing.assert_close(logits(again, "gl"), logits(model, "gl"), atol=0, rtol=0)
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.glob("expert.*")} == {"expert.es.safetensors"}
    assert torch.equal(logits(open_model(tmp_path), "ca"), logits(model, "ca"))


def test_a_listed_expert_that_is_nowhere_is_an_error(model, tmp_path):
    """Silent: a random expert in place of a file that was not copied."""
    model.save_pretrained(tmp_path, experts_only=True)
    (tmp_path / "expert.gl.safetensors").unlink()
    with pytest.raises(ExpertFileError, match=r"expert\.gl\.safetensors, found neither"):
        open_model(tmp_path)
    with pytest.raises(ExpertFileError, match=r"found no file expert\.uk\.safetensors"):
        open_model(tmp_path, experts=["uk"])


def test_saved_checkpoints_carry_the_task(model, tmp_path):
    """Silent: generation without a language leaving the task token out, which makes Whisper loop."""
    del model.generation_config.task
    model.save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path).task == "transcribe"


def test_large_bases_are_saved_in_shards(model, tmp_path):
    """Silent: shards of an earlier save left beside a new single file, and read first."""
    model.save_pretrained(tmp_path, max_shard_size="5MB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert torch.equal(logits(open_model(tmp_path), "ca"), logits(model, "ca"))
    model.save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.glob("model*")] == ["model.safetensors"]
    assert torch.equal(logits(open_model(tmp_path), "ca"), logits(model, "ca"))


def test_configurations_of_old_checkpoints_open_and_save(whisper_folder, tmp_path):
    """Silent: generation parameters in config.json, as hub checkpoints have, that raise in generate and in save."""
    folder = tmp_path / "old"
    folder.mkdir()
    for path in whisper_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"max_length": 448, "num_beams": 1, "forced_decoder_ids": None})
    )
    model = with_experts(folder, "ca")
    model.generate(features(1), language="ca", max_new_tokens=3)
    model.save_pretrained(tmp_path / "new")
    assert open_model(tmp_path / "new").expert_names == ("ca",)


def test_a_checkpoint_without_generation_config_gets_whispers(whisper_folder, tmp_path):
    """Silent: `language` and timestamps unusable on checkpoints that store none."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((whisper_folder / name).read_bytes())
    model, expected = with_experts(tmp_path, "ca"), with_experts(whisper_folder, "ca")
    for name in ("lang_to_id", "task_to_id", "no_timestamps_token_id", "prev_sot_token_id", "max_length"):
        assert getattr(model.generation_config, name) == getattr(expected.generation_config, name)
    model.save_pretrained(tmp_path / "saved")
    assert open_model(tmp_path / "saved").generation_config.lang_to_id == expected.generation_config.lang_to_id
