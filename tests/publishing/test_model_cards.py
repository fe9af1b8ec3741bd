"""The releases in model_cards: cards, figures and hashes that belong to their experts, and experts that open."""

import csv
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import soundfile
import torch
from hub_client import Client
from hub_server import Hub
from safetensors import safe_open

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.evaluation.scores.normalization import get_normalizer
from distil_whisper_hf.expert_header import read_header
from distil_whisper_hf.publishing.card import model_card
from distil_whisper_hf.publishing.measured_results import read_results
from distil_whisper_hf.publishing.release import complete_release

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in (ROOT / "model_cards").glob("*/config.json"))
AUDIO = ROOT / "examples/audio"
BASE = os.environ.get("DISTIL_WHISPER_REAL_BASE", "")
NAME = "user/released"
# What each process asks of what it opened as `model`: the Russian clip and an English one, in one batch.
TRANSCRIBE = f"""
import soundfile
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained({NAME!r})
audio = [soundfile.read({str(AUDIO)!r} + '/' + name, dtype='float32')[0] for name in ('ru.ogg', 'en.ogg')]
inputs = processor(audio, sampling_rate=16000, return_tensors='pt').input_features
tokens = model.generate(inputs, language=['ru', 'en'], max_new_tokens=60)
result = [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]
"""


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request) -> Path:
    return request.param


def test_there_are_releases():
    """Silent: tests of releases that find none."""
    assert FOLDERS


def test_a_card_is_what_its_results_say(folder):
    """Silent: a card whose figures, or whose text around them, are no longer those it would be made with."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    measured = {name: read_results(folder / f"results.{name}.json") for name in config["language_experts"]}
    sizes = {name: (folder / f"expert.{name}.safetensors").stat().st_size for name in measured}
    made = model_card(config, measured, repo_id=f"user/{folder.name}", sizes=sizes)
    assert made == (folder / "README.md").read_text(encoding="utf-8")


def test_the_hashes_are_those_of_the_files(folder):
    """Silent: an expert, card or figure that was changed after its release."""
    lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    stated = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    there = {path.name for path in folder.iterdir()} - {"SHA256SUMS"}
    assert there <= stated.keys()
    for name in there:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == stated[name], name


def test_the_experts_are_compact_and_say_where_they_are_from(folder):
    """Silent: weights of speech that may not be shared, files as large as a base, or figures of other files."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    files = sorted(path.name for path in folder.glob("expert.*.safetensors"))
    assert files == [f"expert.{name}.safetensors" for name in sorted(config["language_experts"])]
    for name, entry in config["language_experts"].items():
        path = folder / f"expert.{name}.safetensors"
        assert path.stat().st_size < 3_000_000
        header, results = read_header(path), read_results(folder / f"results.{name}.json")
        assert header.form.rank == entry["rank"] == 16 and header.base_model == config["base_model_name_or_path"]
        assert header.training["steps"] > 0 and header.training["compressed"] == 16
        with safe_open(path, framework="pt") as file:
            assert {file.get_slice(key).get_dtype() for key in list(file.keys())} == {"F16"}
        trained = [one for one in results.data if one.role == "training"]
        assert trained and all(one.license.startswith("cc-by") for one in trained)
        rates = {row.system: row.value for row in results.rows if row.domain == "in" and row.metric == "WER"}
        assert rates["expert"] < rates["base"]
        english = [row for row in results.rows if row.language == "en" and row.metric == "WER"]
        assert len({row.value for row in english}) == 1 and {row.system for row in english} >= {"base", "expert"}


def plain(text: str, language: str) -> str:
    """A text as it is scored."""
    return get_normalizer("unicode", language)(text)


def expected() -> list[str]:
    """What the clips say, as it is scored."""
    with open(AUDIO / "metadata.csv", encoding="utf-8", newline="") as file:
        texts = {row["file_name"]: row["text"] for row in csv.DictReader(file)}
    return [plain(texts[f"{language}.ogg"], language) for language in ("ru", "en")]


@pytest.fixture(scope="module")
def released() -> Path:
    (found,) = [folder for folder in FOLDERS if (folder / "expert.ru.safetensors").exists()]
    return found


@pytest.mark.real
@pytest.mark.skipif(not BASE, reason="DISTIL_WHISPER_REAL_BASE is not set")
class TestOpening:
    """The release with Russian on the real base: from its folder, by name, and without the package."""

    def test_from_the_folder(self, released):
        """Silent: weights that open and change nothing, or something else."""
        from transformers import AutoProcessor

        model = DistilWhisperForConditionalGeneration.from_pretrained(released, base_model_name_or_path=BASE)
        processor = AutoProcessor.from_pretrained(BASE)
        audio = [soundfile.read(AUDIO / name, dtype="float32")[0] for name in ("ru.ogg", "en.ogg")]
        inputs = processor(audio, sampling_rate=16000, return_tensors="pt").input_features.to(model.dtype)
        said = {}
        for expert in (None, "shared"):
            with torch.no_grad():
                tokens = model.generate(inputs, language=["ru", "en"], expert=expert, max_new_tokens=60)
            texts = processor.batch_decode(tokens, skip_special_tokens=True)
            said[expert] = [plain(text, language) for text, language in zip(texts, ("ru", "en"), strict=True)]
        russian, english = expected()
        assert said[None] == [russian, english]
        assert said["shared"][0] != russian and said["shared"][1] == english

    def test_by_name_and_by_remote_code(self, released, tmp_path):
        """Silent: a release that only this machine can open."""
        with Hub(tmp_path / "hub") as hub:
            hub.publish_folder("openai/whisper-base", Path(BASE))
            shutil.copytree(released, tmp_path / "release")
            config = tmp_path / "release/config.json"
            named = config.read_text(encoding="utf-8")
            # Completed from the base on this machine; then it names the base on the Hub again.
            config.write_text(json.dumps({**json.loads(named), "base_model_name_or_path": BASE}), encoding="utf-8")
            complete_release(tmp_path / "release", NAME)
            code = json.loads(config.read_text(encoding="utf-8"))["auto_map"]
            config.write_text(json.dumps({**json.loads(named), "auto_map": code}), encoding="utf-8")
            release = str(tmp_path / "release")
            with Client(hub, tmp_path / "writer") as run:
                run(f"from distil_whisper_hf import cli\nassert cli.main(['push', {release!r}, {NAME!r}]) == 0")
            ours = "from distil_whisper_hf import DistilWhisperForConditionalGeneration as Model\nmore = {}\n"
            stock = "from transformers import AutoModelForSpeechSeq2Seq as Model\nmore = {'trust_remote_code': True}\n"
            for package, opening in ((True, ours), (False, stock)):
                with Client(hub, tmp_path / f"reader-{package}", package=package) as run:
                    said = run(f"{opening}model = Model.from_pretrained({NAME!r}, **more)\n{TRANSCRIBE}")
                assert [plain(text, one) for text, one in zip(said, ("ru", "en"), strict=True)] == expected()

    def test_the_example_shows_it(self, released):
        """Silent: the first program that people run showing nothing."""
        from runpy import run_path

        results = run_path(str(ROOT / "examples/transcribe.py"))["main"](["--model", BASE])
        (russian,) = [row for row in results if row["language"] == "ru"]
        assert plain(russian["expert"], "ru") == expected()[0] != plain(russian["plain"], "ru")
        assert all(row["expert"] == row["plain"] for row in results if row["language"] != "ru")
