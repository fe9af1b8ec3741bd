"""What others made, damaged or made up: refused with the reason, before a model is touched; and what is kept."""

import copy
import json
import os
import pickle
import random
import sys
from pathlib import Path

import pytest
import torch
from expert_files import as_format_1, header, rewrite
from fuzz_expert_files import HASHED, KINDS, run_campaign
from models import with_experts
from safetensors.torch import load_file, save_file

from distil_whisper_hf import DistilWhisperForConditionalGeneration, ExpertFileError
from distil_whisper_hf.checkpoints import expert_shapes, read_expert, write_expert
from distil_whisper_hf.configuration_distil_whisper import MAX_EXPERTS
from distil_whisper_hf.expert_header import HEADER_LIMIT, READERS, header_digest, read_header, tensors_digest

open_model = DistilWhisperForConditionalGeneration.from_pretrained
EXPERT, BASE = "distil_whisper.expert", "distil_whisper.base"


@pytest.fixture(scope="module")
def stored(whisper_folder, tmp_path_factory) -> Path:
    """Experts ca and gl as files, and inside a whole checkpoint in the folder "whole"."""
    folder = tmp_path_factory.mktemp("stored")
    model = with_experts(whisper_folder, "ca", "gl")
    for name in ("ca", "gl"):
        model.save_expert(name, folder)
    model.save_pretrained(folder / "whole")
    return folder


@pytest.fixture
def saved(stored, tmp_path) -> Path:
    """The files of `stored`, to be damaged."""
    for name in ("ca", "gl"):
        path = stored / f"expert.{name}.safetensors"
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture
def whole(stored, tmp_path) -> Path:
    folder = tmp_path / "whole"
    folder.mkdir()
    for path in (stored / "whole").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def bystander(whisper_folder):
    """A model that every test tries to load into, and none may change."""
    return with_experts(whisper_folder, "es")


def everything(model) -> tuple:
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    return state, copy.deepcopy(model.config.to_dict()), model.generation_config.to_dict()


def refused(model, source, name="ca") -> str:
    """The sentence with which loading is refused; the model is as it was."""
    before = everything(model)
    with pytest.raises(ExpertFileError) as caught:
        model.load_expert(name, source)
    after = everything(model)
    assert after[1:] == before[1:] and after[0].keys() == before[0].keys()
    assert all(torch.equal(tensor, before[0][key]) for key, tensor in after[0].items())
    return str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="files of the system are Linux's")
def test_damaged_files_are_refused_or_load_as_they_were():
    """Silent: an expert that is another one than was written. `make fuzz` tries ten thousand."""
    campaign = run_campaign(4 * len(KINDS), seed=7, opened=False)
    assert campaign.faults == []
    assert sum(counts.total() for counts in campaign.counts.values()) > 3.5 * len(KINDS)
    assert len(KINDS) >= 35


@pytest.mark.skipif(sys.platform != "linux", reason="files of the system are Linux's")
def test_the_campaign_sees_what_it_looks_for(monkeypatch):
    """Silent: a campaign that finds nothing because it looks at nothing."""
    monkeypatch.setattr("distil_whisper_hf.checkpoints.tensors_digest", lambda tensors: "0" * 64)
    campaign = run_campaign(len(HASHED), seed=0, only="offsets swapped")
    assert len(campaign.faults) == len(HASHED) and all("WRONG LOAD" in fault for fault in campaign.faults)


def test_every_change_of_a_file_is_found(saved, bystander):
    """Silent: numbers, names, types or what is said of an expert changed on the way, and nobody told."""
    path = saved / "expert.ca.safetensors"
    tensors, said = load_file(path), header(path)
    one, other = "encoder.layers.0.fc1.bias", "encoder.layers.1.fc1.bias"
    about = json.loads(said[EXPERT])
    half = {key: tensor.half() for key, tensor in tensors.items()}
    changes = {
        "a number": ({one: tensors[one] + 1e-3}, {}),
        "swapped": ({one: tensors[other], other: tensors[one]}, {}),
        "types": (half, {}),
        "bits taken for others": ({key: tensor.view(torch.bfloat16) for key, tensor in half.items()}, {}),
        "language": ({}, {EXPERT: json.dumps({**about, "language": "gl"})}),
        "training": ({}, {EXPERT: json.dumps({**about, "training": {"steps": 1}})}),
        "base": ({}, {BASE: said[BASE].replace("model", "m0del")}),
        "something new": ({}, {"distil_whisper.note": "x"}),
        "an older format": ({}, {"distil_whisper.format": "1"}),
    }
    whole = path.read_bytes()
    for changed, metadata in changes.values():
        path.write_bytes(whole)
        rewrite(path, tensors=changed, metadata=metadata, signed=False)
        assert "hash that stands in" in refused(bystander, saved)
    path.write_bytes(whole)
    rewrite(path, signed=False)
    assert read_expert("ca", saved, bystander.config).tensors.keys() == tensors.keys()


MADE_UP = {
    "a language that is none": ("got 'klingon'", {"expert": {"language": "klingon"}}),
    "no language's name": ("got ''", {"expert": {"language": ""}}),
    "an empty fingerprint": ("the fingerprint of the base", {"base": {"fingerprint": {}}}),
    "a fingerprint that is none": ("the fingerprint of the base", {"base": {"fingerprint": {"float32/all": "x"}}}),
    "another base": ("made on other weights", {"base": {"fingerprint": {"float32/all": "0" * 64}}}),
    "no training record": ("entries of other types", {"expert": {"training": None}}),
    "deep JSON": ("brackets in brackets", {"expert": {"training": "[" * 100_000}}),
    "a missing size": ("gate_dim: the model has 64, the expert None", {"geometry": {"gate_dim": None}}),
}


@pytest.mark.parametrize("case", MADE_UP)
def test_what_cannot_be_is_refused_whatever_its_hash(saved, bystander, case):
    """Silent: a hash taken for a proof that a file makes sense."""
    message, changes = MADE_UP[case]
    path = saved / "expert.ca.safetensors"
    ((entry, fields),) = changes.items()
    text = json.dumps({**json.loads(header(path)[f"distil_whisper.{entry}"]), **fields})
    if case == "deep JSON":
        text = text.replace('"[', "[")
    rewrite(path, metadata={f"distil_whisper.{entry}": text})
    assert message in refused(bystander, saved)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.full((96,), float("nan")), "finite numbers, encoder.layers.0.fc1.bias holds NaN"),
        (torch.full((96,), float("inf")), "finite numbers"),
        (torch.ones(96).double(), "16 or 32 bits, got F64"),
        (torch.ones(96).half(), "tensors of one type"),
    ],
)
def test_numbers_that_cannot_be_are_refused(saved, bystander, tensor, message):
    """Silent: an expert that turns every transcript into nothing; one that is half of another precision."""
    rewrite(saved / "expert.ca.safetensors", tensors={"encoder.layers.0.fc1.bias": tensor})
    assert message in refused(bystander, saved)


@pytest.mark.parametrize(
    ("reader", "remedy"), [("0.9.1", "Install version 0.9.1 or newer"), ("run me", "Install a newer version")]
)
def test_a_format_of_later_names_the_version_that_reads_it(saved, bystander, reader, remedy):
    """Silent: a new kind of file taken for a damaged one, or read as far as it is understood."""
    path = saved / "expert.ca.safetensors"
    rewrite(path, metadata={"distil_whisper.format": "3", "distil_whisper.reader": reader})
    message = refused(bystander, saved)
    assert "format 1 or 2, got '3'" in message and f"{remedy} of distil_whisper_hf" in message


def place(kind: str, folder: Path) -> Path | str:
    """Something that is no expert's file, where one should be."""
    path = folder / "expert.uk.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "link to nothing":
        path.symlink_to(folder / "nothing")
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "empty":
        path.touch()
    elif kind == "huge":
        with open(path, "wb") as file:
            file.truncate(1 << 40)
    return path


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "link to nothing", "link to itself", "empty", "huge"])
def test_what_is_no_file_is_said_at_once(saved, bystander, kind):
    """Silent: a program that waits in a pipe forever, or reads a device until memory is full."""
    path = place(kind, saved)
    for source in (saved, path):
        message = refused(bystander, source, "uk")
        assert "Repo id" not in message and "expected" in message.lower()


@pytest.mark.parametrize(
    "source", ["/no/such/folder", "./x", "../x", "~/x", "a/b/c", "x.safetensors", "", "a\0b", "x" * 5000]
)
def test_a_path_that_is_not_there_is_never_asked_of_the_hub(bystander, whisper_folder, monkeypatch, source):
    """Silent: a slip in a path answered by a rule for repositories' names, or by somebody else's repository."""

    def asked(*arguments, **keywords):
        raise RuntimeError("the Hub was asked")

    monkeypatch.setattr("distil_whisper_hf.untrusted_files.cached_file", asked)
    for call in (bystander.load_expert, lambda name, place: open_model(place)):
        with pytest.raises(FileNotFoundError) as caught:
            call("ca", source)
        assert isinstance(caught.value, ExpertFileError) and "Repo id" not in str(caught.value)


def test_several_experts_are_all_loaded_or_none(saved, bystander):
    """Silent: the first of two experts left in a model by a call that failed."""
    path = saved / "expert.gl.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    assert "expert.gl.safetensors" in refused(bystander, saved, ["ca", "gl"])
    with pytest.raises(ValueError, match="each expert once"):
        bystander.load_expert(["ca", "ca"], saved)
    assert bystander.expert_names == ("es",)


def test_fields_of_a_later_version_are_kept(saved, whisper_folder, tmp_path):
    """Silent: what a newer version wrote about an expert lost by loading and saving it with this one."""
    path = saved / "expert.ca.safetensors"
    said = header(path)
    more = {
        part: json.dumps({**json.loads(said[f"distil_whisper.{part}"]), "later": [1, {"x": 2.5}]}, sort_keys=True)
        for part in ("expert", "geometry", "base")
    }
    rewrite(path, metadata={f"distil_whisper.{part}": text for part, text in more.items()} | {"license": "MIT"})
    model = open_model(whisper_folder)
    model.load_expert("ca", saved)
    assert header(model.save_expert("ca", tmp_path / "again")) == header(path)
    model.save_pretrained(tmp_path / "whole")
    again = open_model(tmp_path / "whole")
    assert header(again.save_expert("ca", tmp_path / "third"))["license"] == "MIT"
    rewrite(path, tensors={"encoder.layers.0.fc1.lora_A": torch.ones(3)})
    assert "It has fields of a newer version: base.later, geometry.later, header.license, later" in refused(
        model_of(model), saved
    )


def model_of(model):
    """The same model without its expert."""
    model.remove_expert("ca")
    return model


def test_format_1_loads_and_says_how_to_rewrite_it(saved, whisper_folder, caplog, tmp_path):
    """Silent: experts of 0.1 that nobody can load; or whose lack of a hash nobody hears of."""
    expected = read_expert("ca", saved, open_model(whisper_folder).config)
    path = saved / "expert.ca.safetensors"
    as_format_1(path)
    model = open_model(whisper_folder)
    model.load_expert("ca", saved)
    assert [record.levelname for record in caplog.records if "model.save_expert('ca'" in record.message] == ["WARNING"]
    found = model.expert_file("ca")
    assert found.entry == expected.entry and tensors_digest(found.tensors) == tensors_digest(expected.tensors)
    assert header(model.save_expert("ca", tmp_path / "new"))["distil_whisper.format"] == "2"


def test_hashes_are_what_the_documentation_says(saved):
    """Silent: a hash that only this package could make."""
    import hashlib

    path = saved / "expert.ca.safetensors"
    said, digest = header(path), hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        digest.update(f'["{name}","float32",{json.dumps(list(tensor.shape), separators=(",", ":"))}]'.encode())
        digest.update(tensor.numpy().tobytes())
    assert said["distil_whisper.tensors_sha256"] == digest.hexdigest()
    stated = said.pop("distil_whisper.header_sha256")
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    assert stated == hashlib.sha256(text.encode()).hexdigest() == header_digest(said)
    assert said["distil_whisper.format"] == list(READERS)[-1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_experts_are_stored_in_sixteen_bits_and_computed_in_the_models(stored, whisper_folder, tmp_path, dtype):
    """Silent: a file of half the size that makes the model half as exact everywhere."""
    model = open_model(whisper_folder)
    model.load_expert("ca", stored)
    path = model.save_expert("ca", tmp_path, dtype=dtype)
    assert path.stat().st_size < 0.6 * (stored / path.name).stat().st_size
    again = open_model(whisper_folder)
    again.load_expert("ca", tmp_path)
    for key, tensor in again.expert_file("ca").tensors.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.expert_file("ca").tensors[key].to(getattr(torch, dtype)).float())
    with pytest.raises(ValueError, match="a type of float32, float16, bfloat16, got 'int8'"):
        model.save_expert("ca", tmp_path, dtype="int8")


def test_what_could_not_be_read_again_is_not_written(saved, whisper_folder):
    """Silent: an expert that is lost when it is saved: NaN from a training that diverged, numbers beyond float16."""
    model = open_model(whisper_folder)
    model.load_expert("ca", saved)
    weight = model.model.encoder.layers[0].language_experts["ca"].fc1.weight
    before = (saved / "expert.ca.safetensors").read_bytes()
    with torch.no_grad():
        weight[0, 0] = 1e6
    with pytest.raises(ExpertFileError, match="finite numbers"):
        model.save_expert("ca", saved, dtype="float16")
    with torch.no_grad():
        weight[0, 0] = float("nan")
    with pytest.raises(ExpertFileError, match="finite numbers"):
        model.save_expert("ca", saved)
    with torch.no_grad():
        weight[0, 0] = 0
    model.config.language_experts["ca"]["training"] = {"log": "x" * HEADER_LIMIT}
    with pytest.raises(ValueError, match="out of its `training` record"):
        model.save_expert("ca", saved)
    file = model.expert_file("ca")
    with pytest.raises(ExpertFileError, match="several floating-point types"):
        write_expert(type(file)("ca", "ca", file.tensors), saved, model.config)
    assert (saved / "expert.ca.safetensors").read_bytes() == before


def change_config(folder: Path, change) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def entry(**changes):
    """A change of what a configuration says of expert ca."""
    return lambda config: config["language_experts"]["ca"].update(changes)


def more_experts(number):
    return lambda config: config["language_experts"].update({f"x{index}": {} for index in range(number)})


def field(**changes):
    return lambda config: config.update(changes)


SIZES = "sizes that the configuration has"
CONFIGS = {
    "20,000 experts": (more_experts(20_000), "at most 1000"),
    "experts that are nowhere": (more_experts(MAX_EXPERTS - 2), "'x0' inside"),
    "a language that is none": (entry(language="klingon", language_token_id=None), "'klingon'"),
    "another language's token": (entry(language_token_id=50262), "50270, got 50262"),
    "no mapping": (field(language_experts=[]), "language_experts"),
    "a trillion layers": (field(encoder_layers=10**12), "from 0 to 1000"),
    "many layers": (field(encoder_layers=1000), SIZES),
    "fewer layers": (field(decoder_layers=2), SIZES),
    "a wider model": (field(d_model=128), SIZES),
    "no such activation": (field(activation_function="oelu"), "got 'oelu'"),
    "no heads": (field(decoder_attention_heads=0), "attention heads that divide"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_that_its_weights_do_not_fit_is_refused_before_a_model_is_made(whole, case):
    """Silent: gigabytes taken for experts or layers that nobody has, or random weights in their place."""
    change, message = CONFIGS[case]
    change_config(whole, change)
    with pytest.raises(ExpertFileError) as caught:
        open_model(whole)
    assert message in str(caught.value)


def test_a_damaged_whole_checkpoint_is_refused(whole, bystander):
    """Silent: random weights where a tensor is gone; an error of a library that says nothing of the file."""
    path = whole / "model.safetensors"
    content = path.read_bytes()
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    expert = "model.encoder.layers.0.language_experts.ca.fc1.bias"
    damages = {
        "complete safetensors file": lambda: path.write_bytes(content[: len(content) // 2]),
        "missing: ['encoder.layers.0.fc1.bias']": lambda: save_file(without(tensors, expert), path),
        "finite numbers": lambda: save_file({**tensors, expert: tensors[expert] * float("nan")}, path),
        "are missing: model.encoder.layer_norm.weight": lambda: save_file(
            without(tensors, "model.encoder.layer_norm.weight"), path
        ),
    }
    for message, damage in damages.items():
        damage()
        with pytest.raises(ExpertFileError) as caught:
            open_model(whole)
        assert message in str(caught.value)
        # Of a damaged base, loading says that it is another one.
        assert refused(bystander, whole)
    (whole / "config.json").write_text("[" * 100_000)
    assert "brackets in brackets" in refused(bystander, whole)
    with pytest.raises(ExpertFileError, match="brackets in brackets"):
        open_model(whole)


def without(tensors: dict, key: str) -> dict:
    return {name: tensor for name, tensor in tensors.items() if name != key}


class Touch:
    """A pickle that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickles_run_nothing_and_take_no_memory(tmp_path, bystander):
    """Silent: code that runs because somebody put it into an expert's pickle; a bomb of a few hundred bytes."""

    class Bomb:
        def __reduce__(self):
            return (bytearray, (1 << 36,))

    layer = "model.encoder.layers.0.ffn_clsr.proj.catalan.fc1.weight"
    path = tmp_path / "expert.catalan.bin"
    for held in ({"x": Touch(tmp_path / "sprung")}, {"x": Bomb()}):
        torch.save(held, path)
        assert "read safely: a call of" in refused(bystander, tmp_path)
        path.write_bytes(pickle.dumps(held))
        assert "read safely" in refused(bystander, tmp_path)
    torch.save({layer: torch.zeros(1).expand(1 << 20, 1 << 20)}, path)
    assert "missing" in refused(bystander, tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_damaged_originals_are_found_by_their_checksums(tmp_path, whisper_folder, bystander, caplog):
    """Silent: a flipped bit in a file of the original release."""
    generator = torch.Generator().manual_seed(0)
    held = {}
    for key, shape in expert_shapes(bystander.config).items():
        layer, part, end = key.rsplit(".", 2)
        where = f"proj.catalan.{part}" if part.startswith("fc") else f"{part}.catalan"
        held[f"model.{layer}.ffn_clsr.{where}.{end}"] = torch.randn(shape, generator=generator)
    path = tmp_path / "expert.catalan.bin"
    torch.save(held, path)
    content = bytearray(path.read_bytes())
    model = open_model(whisper_folder)
    model.load_expert("ca", tmp_path)
    assert "`distil-whisper convert` rewrites them" in caplog.text
    chance = random.Random(0)
    for _ in range(5):
        damaged = bytearray(content)
        damaged[chance.randrange(len(content) // 3, 2 * len(content) // 3)] ^= 4
        path.write_bytes(damaged)
        assert "checksum" in refused(bystander, tmp_path)


def test_the_header_alone_is_checked_too(saved):
    """Silent: a listing or a push that believes a header which somebody changed."""
    path = saved / "expert.ca.safetensors"
    assert read_header(path).language == "ca"
    rewrite(path, metadata={EXPERT: header(path)[EXPERT].replace('"ca"', '"gl"')}, signed=False)
    with pytest.raises(ExpertFileError, match="changed since it was written"):
        read_header(path)
