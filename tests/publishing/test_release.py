"""The commands around the Hub: release, push, convert."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from expert_files import rewrite
from models import features, prompts, save_whisper, with_experts
from safetensors.torch import load_file, save_file
from tiny import tiny_processor

from distil_whisper_hf import DistilWhisperForConditionalGeneration, ExpertFileError, cli
from distil_whisper_hf.commands import convert, release
from distil_whisper_hf.publishing.push import code_files, folder_files

NAMES = {"ca": "catalan", "gl": "galician"}


@pytest.fixture
def base(tmp_path) -> Path:
    folder = save_whisper(tmp_path / "base")
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def trained(base, tmp_path) -> list[Path]:
    """What training leaves: a folder per expert, one with results, one with files that nobody should publish."""
    model = with_experts(base, "ca", "gl")
    model.config.language_experts["ca"]["training"] = {"steps": 3}
    folders = [model.save_expert(name, tmp_path / "runs" / name).parent for name in ("ca", "gl")]
    (folders[0] / "results.json").write_text(json.dumps({"license": "cc-by-4.0", "limits": ["Few words."]}))
    (folders[1] / "training_args.bin").write_bytes(b"pickle")
    return folders


def make(trained, base, output, **options) -> None:
    words = {"base": base, "base-model": "openai/whisper-base", "repo": "user/whisper", "output": output, **options}
    assert cli.main(["release", *map(str, trained), *(str(w) for k, v in words.items() for w in (f"--{k}", v))]) == 0


def test_a_release_is_the_folder_that_is_pushed(trained, base, tmp_path, capsys):
    """Silent: a release that does not open, that names this machine's folders, or that holds files of training."""
    output, kept = tmp_path / "release", tmp_path / "cards" / "pl"
    make(trained, base, output, record=kept)
    names = {path.name for path in output.iterdir()}
    code = {path.name for path in code_files()}
    assert names - code == {
        "README.md", "SHA256SUMS", "config.json", "expert.ca.safetensors", "expert.gl.safetensors",
        "generation_config.json", "processor_config.json", "results.ca.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert set(folder_files(output)) == names - {"SHA256SUMS"}
    assert all(str(tmp_path).encode() not in path.read_bytes() for path in output.iterdir())
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "license: cc-by-4.0" in card and "Few words." in card and "| steps | 3 |" in card
    again = DistilWhisperForConditionalGeneration.from_pretrained(output, base_model_name_or_path=str(base))
    expected = with_experts(base, "ca", "gl")
    for name in ("ca", "gl"):
        with torch.no_grad():
            both = [one(features(1), decoder_input_ids=prompts(name)).logits for one in (again, expected)]
        assert torch.equal(*both)
    assert {path.name for path in kept.iterdir()} == {
        "README.md", "config.json", "results.ca.json", "SHA256SUMS", "expert.ca.safetensors", "expert.gl.safetensors",
    }  # fmt: skip
    assert (kept / "expert.ca.safetensors").read_bytes() == (output / "expert.ca.safetensors").read_bytes()
    assert release.hashes(output) == (output / "SHA256SUMS").read_text() == (kept / "SHA256SUMS").read_text()
    assert (output / "SHA256SUMS").read_text() in capsys.readouterr().out


def test_only_small_experts_are_kept_in_git(trained, base, tmp_path, monkeypatch):
    """Silent: a repository that grows by a hundred megabytes with every release."""
    monkeypatch.setattr(release, "RECORDED_BYTES", 1000)
    make(trained, base, tmp_path / "release", record=tmp_path / "cards")
    assert not list((tmp_path / "cards").glob("*.safetensors")) and (tmp_path / "cards/README.md").exists()


def test_what_cannot_be_released_leaves_nothing_behind(trained, base, tmp_path):
    """Silent: a release with an expert of another base, or half a folder after an error."""
    output = tmp_path / "out" / "release"
    options = {"base_model": "openai/whisper-base"}
    with pytest.raises(ValueError, match="that others can open"):
        release.make_release(trained, str(base), "user/x", output)
    other = save_whisper(tmp_path / "other", seed=1)
    with pytest.raises(ExpertFileError, match="made on other weights"):
        release.make_release(trained, str(other), "user/x", output, **options)
    with pytest.raises(FileNotFoundError, match="found none"):
        release.make_release([tmp_path], str(base), "user/x", output, **options)
    with pytest.raises(ValueError, match="each expert once"):
        release.make_release([trained[0], trained[0]], str(base), "user/x", output, **options)
    (trained[0] / "results.json").write_text('{"rows": [{"value": 1}]}')
    with pytest.raises(ValueError, match="missing"):
        release.make_release(trained, str(base), "user/x", output, **options)
    assert not output.exists() and not list(output.parent.glob("*")) and not list(output.parent.glob(".*"))
    output.mkdir(parents=True)
    with pytest.raises(FileExistsError, match="there already"):
        release.make_release(trained, str(base), "user/x", output, **options)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["release", "{there}x", "--model", "{there}", "--repo", "user/x", "--output_dir", "{new}"], "is it"),
        (["release", "{there}", "--model", "./no", "--repo", "user/x", "--output", "{new}"], "'no' does not exist"),
        (["release", "{there}", "--model", "{there}", "--repo", "x", "--output", "{new}"], "as user/name"),
        (["release", "{there}", "--model", "{there}", "--repo", "user/x"], "Expected --output_dir, got none"),
        (["push", "user/name", "{there}"], "Expected a folder to push"),
        (["push", "{there}", "a b/c"], "as user/name"),
        (["push", "{there}", "user/x", "--create-rp"], "is it --create_pr?"),
        (["convert", "{there}x", "{new}"], "is it"),
        (["convert", "{there}"], "Expected the folder to make once"),
        (["convert", "{there}", "{there}"], "there already"),
        (["convert", "{there}", "{new}"], "Expected an original checkpoint"),
    ],
)
def test_mistakes_end_at_once_in_a_sentence(words, said, tmp_path, capsys):
    """Silent: a request to the Hub, or half a folder, for a command that cannot be meant."""
    (tmp_path / "there").mkdir()
    words = [word.format(there=tmp_path / "there", new=tmp_path / "new") for word in words]
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not (tmp_path / "new").exists()


@pytest.fixture
def original(base, tmp_path) -> Path:
    """A checkpoint as the original release lays it out, with two experts; made from its description, in its names."""
    model, folder = with_experts(base, "ca", "gl"), tmp_path / "original"
    folder.mkdir()
    state = {f"model.{key}": tensor for key, tensor in model.model.state_dict().items()}
    for name, language in NAMES.items():
        mark, pickled = f"language_experts.{name}.", {}
        for key in [key for key in state if mark in key]:
            layer, _, parameter = key.partition(mark)
            kind, end = parameter.split(".")
            path = f"proj.{language}.{kind}" if kind.startswith("fc") else f"{kind}.{language}"
            pickled[f"{layer}ffn_clsr.{path}.{end}"] = state.pop(key)
        torch.save(pickled, folder / f"expert.{language}.bin")
    for key in [key for key in state if ".layers." in key and (".fc1." in key or ".fc2." in key)]:
        layer, _, rest = key.rpartition(".fc")
        state[f"{layer}.ffn_clsr.proj.shared.fc{rest}"] = state.pop(key)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    config |= {"model_type": "distilwhisper", "clsr_langs": ["shared"], "clsr_gate_dim": 64, "skip_gate_prob": 0.2}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def same_as(folder, base, **arguments) -> bool:
    found = DistilWhisperForConditionalGeneration.from_pretrained(folder, **arguments)
    expected = with_experts(base, *NAMES)
    with torch.no_grad():
        tokens = prompts(*found.expert_names)
        both = [one(features(len(tokens)), decoder_input_ids=tokens).logits for one in (found, expected)]
    return torch.equal(*both)


def test_an_original_checkpoint_is_converted_whole(original, base, tmp_path, capsys):
    """Silent: tensors under the wrong name, layer or path, which give fluent nonsense."""
    assert cli.main(["convert", str(original), str(tmp_path / "new")]) == 0
    names = {path.name for path in (tmp_path / "new").iterdir()}
    experts = {f"expert.{name}.safetensors" for name in NAMES}
    assert names == {"config.json", "generation_config.json", "model.safetensors", *experts}
    assert same_as(tmp_path / "new", base)
    assert not any("clsr" in key for key in load_file(tmp_path / "new/model.safetensors"))
    printed = capsys.readouterr().out
    assert printed.count("equal bit for bit") == 2


def test_a_known_base_is_not_written_again(original, base, tmp_path):
    """Silent: a base that only looks like the one that the experts need."""
    assert cli.main(["convert", str(original), str(tmp_path / "new"), "--base", str(base), "--experts", "gl"]) == 0
    assert not (tmp_path / "new/model.safetensors").exists() and same_as(tmp_path / "new", base)
    words = ["convert", str(original), "--output-dir", str(tmp_path / "again"), "--model", str(base), "--language"]
    assert cli.main([*words, "gl"]) == 0
    once, again = ((tmp_path / name / "expert.gl.safetensors").read_bytes() for name in ("new", "again"))
    assert once == again
    other = save_whisper(tmp_path / "other", seed=1)
    assert cli.main(["convert", str(original), str(tmp_path / "no"), "--base", str(other)]) == 1
    assert not (tmp_path / "no").exists()


def test_a_full_disk_is_seen_before_the_work(original, trained, base, tmp_path, monkeypatch):
    """Silent: a minute per expert, and then half a file."""
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    monkeypatch.setattr(DistilWhisperForConditionalGeneration, "from_pretrained", None)
    with pytest.raises(ValueError, match="GB free for the converted checkpoint"):
        convert.convert(original, tmp_path / "new")
    with pytest.raises(ValueError, match="GB free for the release"):
        release.make_release(trained, str(base), "user/x", tmp_path / "new", base_model="openai/whisper-base")


@pytest.mark.parametrize("fault", ["tensor", "gate", "language", "side"])
def test_a_conversion_that_went_wrong_writes_nothing(original, tmp_path, monkeypatch, fault):
    """Silent: a mistake of the conversion itself that its own check repeats."""
    if fault == "language":
        with pytest.raises(ValueError, match="found ca, gl") as caught:
            convert.convert(original, tmp_path / "new", experts=["uk"])
        assert not isinstance(caught.value, convert.ConversionError)
        return
    write = convert.compare

    def damaged(source, converted, name, base):
        path = converted / f"expert.{name}.safetensors"
        tensors = load_file(path)
        if fault == "tensor":
            tensors["encoder.layers.1.fc2.bias"][3] += 1e-3
        elif fault == "gate":
            tensors["decoder.layers.0.gate_out.weight"] *= -1
        else:
            one, other = "encoder.layers.0.gate_in.bias", "decoder.layers.0.gate_in.bias"
            tensors[one], tensors[other] = tensors[other], tensors[one]
        rewrite(path, tensors=tensors)
        return write(source, converted, name, base)

    monkeypatch.setattr(convert, "compare", damaged)
    with pytest.raises(convert.ConversionError, match="differs"):
        convert.convert(original, tmp_path / "new")
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".convert-*"))


def test_the_logits_check_sees_what_names_do_not(original, tmp_path):
    """Silent: a comparison of logits that passes whatever the experts are."""
    convert.convert(original, tmp_path / "new", experts=["ca"])
    model = DistilWhisperForConditionalGeneration.from_pretrained(tmp_path / "new")
    inputs, prompt = convert.sample_inputs(model, "ca")
    _, own = convert.original_tensors(original, "ca")
    turned = {key: -value if "gate_out" in key else value for key, value in own.items()}
    with torch.no_grad():
        found = model(inputs, decoder_input_ids=prompt).logits
        right, wrong = (
            convert.original_logits(tmp_path / "new", tensors, "ca", inputs, prompt) for tensors in (own, turned)
        )
    assert (found - right).abs().max() <= convert.TOLERANCE < (found - wrong).abs().max()


def test_pickles_with_more_than_tensors_are_refused(original, tmp_path):
    """Silent: code that runs because somebody put it into an expert's pickle."""

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"x": Trap()}, original / "expert.catalan.bin")
    with pytest.raises(ExpertFileError, match="read safely"):
        convert.convert(original, tmp_path / "new")
    torch.save(["x"], original / "expert.catalan.bin")
    with pytest.raises(ExpertFileError, match="tensors by name"):
        convert.convert(original, tmp_path / "new")
    assert not (tmp_path / "sprung").exists() and not (tmp_path / "new").exists()
