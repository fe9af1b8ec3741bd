"""Unmodified scripts train experts: through the launcher, and through remote code without the package."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hub_server import Hub
from models import save_whisper, with_experts
from safetensors.torch import load_file
from tiny import tiny_processor, tiny_tokenizer
from transformers import AutoFeatureExtractor, AutoTokenizer, WhisperFeatureExtractor, WhisperProcessor

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.expert_verbs import is_expert_key
from distil_whisper_hf.tokenization_distil_whisper import DistilWhisperTokenizer
from distil_whisper_hf.training.features import encoder_frames, sounding_frames
from distil_whisper_hf.training.stock_script import ScriptArguments, TeachersFeatureExtractor

HERE = Path(__file__).parent
TEXTS = ["<|ca|> w300 w301", "<|gl|> w302 w303 w304", "<|en|> w305", "<|ca|> w306 w307", "<|gl|> w308", "<|ca|> w309"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data set of two languages and a Catalan one, a plain model, one with two experts, a teacher of 128 mel bins."""
    root = tmp_path_factory.mktemp("script")
    rng = np.random.default_rng(0)
    for name, texts in (("data", TEXTS), ("catalan", [text.partition("> ")[2] for text in TEXTS])):
        (root / name).mkdir()
        with open(root / name / "metadata.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file_name", "text"])
            for index, text in enumerate(texts):
                samples = 0.1 * rng.standard_normal(16000 + 2000 * index)
                soundfile.write(root / name / f"{index}.wav", samples, 16000)
                writer.writerow([f"{index}.wav", text])
    layers = {"max_source_positions": 1500, "encoder_layers": 1, "decoder_layers": 2}
    whisper = save_whisper(root / "whisper", **layers)
    tiny_processor().save_pretrained(whisper)
    save_whisper(root / "teacher", seed=1, num_mel_bins=128, **layers)
    tiny_processor(128).save_pretrained(root / "teacher")
    model = DistilWhisperForConditionalGeneration.from_pretrained(whisper)
    model.add_expert("ca")
    model.add_expert("gl")
    model.generation_config.max_length = 20
    model.save_pretrained(root / "model")
    tiny_processor().save_pretrained(root / "model")
    return root


def run(
    arguments: list[str], folder: Path, *, package: bool, status: int = 0, hub: Hub | None = None
) -> subprocess.CompletedProcess:
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {"HF_HUB_OFFLINE": "1"} if hub is None else hub.client_environment(folder / "home")
    env |= {"PYTHONPATH": str(HERE.parent) if package else ""}
    env |= {"PYTHONSAFEPATH": "1", "HF_MODULES_CACHE": str(folder / "modules")}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=env, cwd=folder, check=False
    )
    assert done.returncode == status, done.stderr[-4000:]
    return done


def script_arguments(folder: Path, output: str, **extra) -> list[str]:
    options = {
        "model_name_or_path": folder / "model", "dataset_dir": folder / "data", "output_dir": folder / output,
        "max_steps": 4, "per_device_train_batch_size": 3, "learning_rate": 1e-2, "use_cpu": True, "save_steps": 2,
        "logging_steps": 1, "predict_with_generate": True, "per_device_eval_batch_size": 3, "do_train": True,
        "do_eval": True, "generation_max_length": 20, **extra,
    }  # fmt: skip
    return [
        str(HERE / "stock_script.py"),
        *(part for key, value in options.items() for part in (f"--{key}", str(value))),
    ]


def changed(before: Path, after: Path) -> set[str]:
    """Which parts of the model differ: "base", or an expert's name."""
    old, new = (DistilWhisperForConditionalGeneration.from_pretrained(path).state_dict() for path in (before, after))
    assert old.keys() == new.keys()
    differing = [key for key in old if not torch.equal(old[key], new[key])]
    return {key.split(".language_experts.")[1].split(".")[0] if is_expert_key(key) else "base" for key in differing}


def test_the_launcher_trains_each_languages_expert_and_nothing_else(folder):
    """Silent: a base that trains along, one language's rows training another's expert, a base saved with every run."""
    run(["-m", "distil_whisper_hf.launch", *script_arguments(folder, "out")], folder, package=True)
    assert changed(folder / "model", folder / "out") == {"ca", "gl"}
    assert changed(folder / "out/checkpoint-2", folder / "out") == {"ca", "gl"}
    scores = json.loads((folder / "out/eval_results.json").read_text())
    assert scores.keys() >= {"eval_loss", "eval_wer"}
    assert {path.name for path in (folder / "out").glob("*.safetensors")} == {
        "expert.ca.safetensors", "expert.gl.safetensors",
    }  # fmt: skip


def test_a_script_resumes_to_the_same_bits(folder):
    """Silent: experts, or the noise on their gates, left at their start when a script goes on from a checkpoint."""
    shutil.copytree(folder / "out/checkpoint-2", folder / "again/checkpoint-2")
    arguments = script_arguments(folder, "again", resume_from_checkpoint=folder / "again/checkpoint-2")
    run(["-m", "distil_whisper_hf.launch", *arguments], folder, package=True)
    for name in ("expert.ca.safetensors", "expert.gl.safetensors"):
        assert (folder / "again" / name).read_bytes() == (folder / "out" / name).read_bytes()


def test_a_plain_whisper_gets_its_expert_and_a_teacher_that_hears_otherwise(folder):
    """Silent: a script that trains with cross-entropy alone; a teacher that is given the student's features."""
    options = {"model_name_or_path": folder / "whisper", "dataset_dir": folder / "catalan", "language": "catalan"}
    options |= {"teacher": folder / "teacher", "distillation": "kl", "gate_budget": 0.25, "expert_rank": 4}
    run(["-m", "distil_whisper_hf.launch", *script_arguments(folder, "taught", **options)], folder, package=True)
    logged = json.loads((folder / "taught/trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in logged if "loss" in entry]
    assert len(steps) == 4
    assert all(entry.keys() >= {"loss_ce", "loss_kd", "loss_gate", "gate_encoder_ca"} for entry in steps)
    assert all(entry["loss_kd"] > 0 for entry in steps)
    model = DistilWhisperForConditionalGeneration.from_pretrained(folder / "taught")
    assert model.expert_names == ("ca",) and model.config.expert_form("ca").rank == 4
    training = model.config.language_experts["ca"]["training"]
    assert (training["teacher"], training["distillation"], training["gate_budget"]) == ("teacher", "kl", 0.25)
    processor = WhisperProcessor.from_pretrained(folder / "taught")
    assert (
        type(processor.feature_extractor) is WhisperFeatureExtractor and processor.feature_extractor.feature_size == 80
    )


@pytest.mark.slow
def test_a_script_pushes_the_expert_alone(folder, tmp_path):
    """Silent: a base, pickles or a card of the script's pushed with every language."""
    with Hub(tmp_path / "hub") as hub:
        hub.publish_folder("openai/tiny", folder / "whisper")
        options = {"model_name_or_path": "openai/tiny", "dataset_dir": folder / "catalan", "language": "ca"}
        options |= {"max_steps": 1, "do_eval": False, "push_to_hub": True, "hub_model_id": "user/script"}
        arguments = ["-m", "distil_whisper_hf.launch", *script_arguments(folder, "pushed", **options)]
        run(arguments, folder, package=True, hub=hub)
        files = hub.files("user/script")
    assert files.keys() >= {"README.md", "config.json", "expert.ca.safetensors", "tokenizer.json"}
    assert not [name for name in files if name == "model.safetensors" or name.endswith(".bin")]
    config = json.loads(files["config.json"])
    assert config["base_model_name_or_path"] == "openai/tiny" and [*config["language_experts"]] == ["ca"]


@pytest.mark.slow
def test_a_frozen_encoder_gets_no_expert(folder):
    """Silent: an encoder that trains although it was frozen; SpecAugment's mask that no longer reaches the model."""
    options = {"model_name_or_path": folder / "whisper", "dataset_dir": folder / "catalan", "language": "ca"}
    options |= {"freeze_encoder": True, "apply_spec_augment": True, "max_steps": 2, "gradient_checkpointing": True}
    run(["-m", "distil_whisper_hf.launch", *script_arguments(folder, "frozen", **options)], folder, package=True)
    assert {key.split(".")[0] for key in load_file(folder / "frozen/expert.ca.safetensors")} == {"decoder"}


@pytest.mark.slow
def test_two_processes_train_one_expert(folder):
    """Silent: processes that train experts of their own, or write over each other's."""
    options = {"model_name_or_path": folder / "whisper", "dataset_dir": folder / "catalan", "language": "ca"}
    options |= {"max_steps": 2, "expert_rank": 2, "do_eval": False}
    launched = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    arguments = script_arguments(folder, "two", **options)
    run([*launched, "-m", "distil_whisper_hf.launch", *arguments], folder, package=True)
    tensors = load_file(folder / "two/expert.ca.safetensors")
    assert any(tensor.abs().sum() > 0 for key, tensor in tensors.items() if key.endswith("lora_B"))
    assert json.loads((folder / "two/trainer_state.json").read_text())["global_step"] == 2


def test_the_scripts_help_has_our_flags(folder):
    """Silent: flags that work and that nobody finds."""
    printed = run(["-m", "distil_whisper_hf.launch", str(HERE / "stock_script.py"), "--help"], folder, package=True)
    for flag in ("--teacher ", "--distillation ", "--gate_budget ", "--expert_rank ", "--compress_to "):
        assert flag in printed.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"distillation": "js"}, "Expected --teacher exactly where"),
        ({"teacher": "base", "distillation": "none"}, "Expected --teacher exactly where"),
        ({"expert_interpolation": "auto"}, "Expected a number in --expert_interpolation"),
    ],
)
def test_a_script_is_told_what_is_missing(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        ScriptArguments(output_dir=str(tmp_path), use_cpu=True, **options)


@pytest.mark.slow
def test_a_script_is_told_that_nothing_can_train(folder):
    """Silent: a plain Whisper that goes through a script unchanged."""
    options = {"model_name_or_path": folder / "whisper", "dataset_dir": folder / "catalan"}
    arguments = ["-m", "distil_whisper_hf.launch", *script_arguments(folder, "none", **options)]
    assert "Expected a language or a model with experts" in run(arguments, folder, package=True, status=1).stderr


def test_features_of_student_and_teacher_travel_in_one_array(tmp_path):
    """Silent: a teacher's features computed otherwise, or saved as the student's."""
    samples, rate = soundfile.read(HERE.parent / "examples/audio/es.ogg", dtype="float32")
    student, teacher = (tiny_processor(bins).feature_extractor for bins in (80, 128))
    both = TeachersFeatureExtractor.of(student, teacher)
    for tensors in (None, "np", "pt"):
        joined = np.stack(both(samples, sampling_rate=rate, return_tensors=tensors).input_features)
        assert joined.shape == (1, 208, 3000)
        for extractor, found in ((student, joined[:, :80]), (teacher, joined[:, 80:])):
            assert np.array_equal(extractor(samples, sampling_rate=rate, return_tensors="np").input_features, found)
    both.save_pretrained(tmp_path)
    again = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(again) is WhisperFeatureExtractor and again.to_dict() == student.to_dict()
    assert type(both.student) is WhisperFeatureExtractor and both.student.feature_size == 80


def test_the_length_of_a_clip_is_seen_in_its_features():
    """Silent: a gate budget that counts the silence after a clip, or a clip without an end."""
    extractor = tiny_processor().feature_extractor
    samples, rate = soundfile.read(HERE.parent / "examples/audio/es.ogg", dtype="float32")
    clips = [samples, samples[: rate // 2], np.zeros(rate, dtype=np.float32)]
    found = sounding_frames(extractor(clips, sampling_rate=rate, return_tensors="pt").input_features)
    for frames, clip in zip(found[:2].tolist(), clips[:2], strict=True):
        assert abs(frames - encoder_frames(len(clip), extractor)) <= 2
    assert found[2] == 1


@pytest.mark.slow
def test_remote_code_trains_without_the_package(folder):
    """Silent: a script's process without the package that cannot read languages from texts."""
    code = f"""
from distil_whisper_hf import DistilWhisperConfig, DistilWhisperForConditionalGeneration
from distil_whisper_hf.tokenization_distil_whisper import DistilWhisperTokenizer
from distil_whisper_hf.training.features import encoder_frames, sounding_frames
from distil_whisper_hf.training.stock_script import ScriptArguments, TeachersFeatureExtractor
DistilWhisperConfig.register_for_auto_class()
DistilWhisperForConditionalGeneration.register_for_auto_class("AutoModelForSpeechSeq2Seq")
DistilWhisperTokenizer.register_for_auto_class("AutoTokenizer")
model = DistilWhisperForConditionalGeneration.from_pretrained({str(folder / "model")!r})
model.save_pretrained({str(folder / "remote")!r})
tokenizer = DistilWhisperTokenizer.from_pretrained({str(folder / "model")!r})
tokenizer.save_pretrained({str(folder / "remote")!r})
"""
    run(["-c", code], folder, package=True)
    shutil.copy(folder / "model/processor_config.json", folder / "remote")
    options = {"model_name_or_path": folder / "remote", "trust_remote_code": True}
    run(script_arguments(folder, "remote_out", **options), folder, package=False)
    assert changed(folder / "model", folder / "remote_out") == {"ca", "gl"}


def test_the_launcher_wants_a_script(folder):
    """Silent: a misspelt script that ends without having run."""
    done = subprocess.run(
        [sys.executable, "-m", "distil_whisper_hf.launch", "nowhere.py"], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)}, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 1 and "got nowhere.py" in done.stderr


@pytest.fixture(scope="module")
def tokenizer() -> DistilWhisperTokenizer:
    tokenizer = tiny_tokenizer()
    tokenizer.__class__ = DistilWhisperTokenizer
    return tokenizer


def tokens(tokenizer, text, **arguments):
    return tokenizer.convert_ids_to_tokens(tokenizer(text, **arguments).input_ids)


def test_a_leading_language_token_makes_the_prompt(tokenizer):
    """Silent: the token left in the text, or behind the task, where Whisper never has it."""
    tokenizer.set_prefix_tokens(task="transcribe")
    text = tokens(tokenizer, " w300", add_special_tokens=False)
    start, end = ["<|startoftranscript|>"], ["<|transcribe|>", "<|notimestamps|>", *text, "<|endoftext|>"]
    assert tokens(tokenizer, "<|ca|> w300") == [*start, "<|ca|>", *end]
    assert tokens(tokenizer, " w300") == [*start, *end]
    tokenizer.set_prefix_tokens(language="en")
    assert tokens(tokenizer, "<|ca|> w300") == [*start, "<|ca|>", *end]
    assert tokens(tokenizer, " w300") == [*start, "<|en|>", *end]
    assert tokens(tokenizer, "<|ca|> w300", add_special_tokens=False) == text
    tokenizer.language = None
    tokenizer.set_prefix_tokens(task="transcribe")


def test_lists_of_texts_encode_as_their_texts(tokenizer):
    """Silent: in a batch, one text's language for all; masks that do not fit the ids."""
    texts = ["<|ca|> w300 w301 w302", " w303", "<|gl|> w304"]
    batch = tokenizer(texts)
    assert batch.input_ids == [tokenizer(text).input_ids for text in texts]
    assert [len(mask) for mask in batch.attention_mask] == [len(ids) for ids in batch.input_ids]
    padded = tokenizer(texts, padding=True, return_tensors="pt")
    assert padded.input_ids.shape == padded.attention_mask.shape == (3, len(batch.input_ids[0]))
    assert padded.attention_mask.sum(1).tolist() == [len(ids) for ids in batch.input_ids]


def test_decoding_is_whispers(tokenizer):
    """Silent: an overridden method that changes what comes back."""
    ids = tokenizer("<|ca|> w300 w301").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == " w300 w301"
    assert tokenizer.decode(ids) == tiny_tokenizer().decode(ids)


def test_auto_tokenizer_stays_stock_without_the_launcher(folder):
    """Silent: importing the package changing everyone's tokenizer."""
    assert type(AutoTokenizer.from_pretrained(folder / "model")).__name__ == "WhisperTokenizer"
    assert with_experts(folder / "whisper").expert_names == ()
