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
from models import save_whisper, with_experts
from safetensors.torch import load_file
from tiny import tiny_processor, tiny_tokenizer
from transformers import AutoTokenizer

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.expert_verbs import is_expert_key
from distil_whisper_hf.tokenization_distil_whisper import DistilWhisperTokenizer

HERE = Path(__file__).parent
TEXTS = ["<|ca|> w300 w301", "<|gl|> w302 w303 w304", "<|en|> w305", "<|ca|> w306 w307", "<|gl|> w308", "<|ca|> w309"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A mixed-language data set, and a model with two new experts beside its processor."""
    root = tmp_path_factory.mktemp("script")
    (root / "data").mkdir()
    rng = np.random.default_rng(0)
    with open(root / "data/metadata.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text"])
        for index, text in enumerate(TEXTS):
            soundfile.write(root / f"data/{index}.wav", 0.1 * rng.standard_normal(16000), 16000)
            writer.writerow([f"{index}.wav", text])
    whisper = save_whisper(root / "whisper", max_source_positions=1500, encoder_layers=1, decoder_layers=2)
    model = DistilWhisperForConditionalGeneration.from_pretrained(whisper)
    model.add_expert("ca")
    model.add_expert("gl")
    model.generation_config.max_length = 20
    model.save_pretrained(root / "model")
    tiny_processor().save_pretrained(root / "model")
    return root


def run(arguments: list[str], folder: Path, *, package: bool) -> subprocess.CompletedProcess:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(HERE.parent) if package else ""}
    env |= {"PYTHONSAFEPATH": "1", "HF_MODULES_CACHE": str(folder / "modules")}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=env, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def script_arguments(folder: Path, output: str, **extra) -> list[str]:
    options = {
        "model_name_or_path": folder / "model", "dataset_dir": folder / "data", "output_dir": folder / output,
        "max_steps": 4, "per_device_train_batch_size": 3, "learning_rate": 1e-2, "use_cpu": True, "save_steps": 2,
        "logging_steps": 1, "predict_with_generate": True, "per_device_eval_batch_size": 3, **extra,
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
    """Silent: a base that trains along, one language's rows training another's expert, noise that never rises."""
    run(["-m", "distil_whisper_hf.launch", *script_arguments(folder, "out")], folder, package=True)
    assert changed(folder / "model", folder / "out") == {"ca", "gl"}
    assert changed(folder / "out/checkpoint-2", folder / "out") == {"ca", "gl"}
    assert "eval_loss" in json.loads((folder / "out/eval_results.json").read_text())
    held = load_file(folder / "out/model.safetensors")
    assert any(is_expert_key(key) for key in held)


def test_a_script_resumes_with_its_experts(folder):
    """Silent: experts left at their start when stock Trainer resumes from a checkpoint."""
    shutil.copytree(folder / "out/checkpoint-2", folder / "again/checkpoint-2")
    arguments = script_arguments(folder, "again", resume_from_checkpoint=folder / "again/checkpoint-2")
    run(["-m", "distil_whisper_hf.launch", *arguments], folder, package=True)
    once, resumed = load_file(folder / "out/model.safetensors"), load_file(folder / "again/model.safetensors")
    fresh = DistilWhisperForConditionalGeneration.from_pretrained(folder / "model").state_dict()
    key = "model.decoder.layers.0.language_experts.ca.fc1.weight"
    assert (resumed[key] - once[key]).abs().mean() < 0.5 * (once[key] - fresh[key]).abs().mean()
    assert not torch.equal(resumed[key], fresh[key])


def test_remote_code_trains_without_the_package(folder):
    """Silent: a script's process without the package that cannot read languages from texts."""
    code = f"""
from distil_whisper_hf import DistilWhisperConfig, DistilWhisperForConditionalGeneration
from distil_whisper_hf.tokenization_distil_whisper import DistilWhisperTokenizer
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
