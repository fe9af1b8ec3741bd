"""Import paths of 0.1: each leads to what it was, or is named here with what took its place."""

import json
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pytest

import distil_whisper_hf
from distil_whisper_hf.moved import MODULES, RENAMED

# Every public name of every module of 0.1.
NAMES = json.loads((Path(__file__).parent / "public_names_0_1.json").read_text(encoding="utf-8"))
# What is gone, and why nobody needs it.
GONE = {
    "cards.HUB_LANGUAGES": "languages.hub_language",
    "checkpoints.ORIGINAL_KEYS": "the original's key names are parsed, see original_release.expert_key",
    "configuration_distil_whisper.MULTILINGUAL_VOCABULARY_SIZES": "DistilWhisperConfig.special_token_ids",
    "evaluation.metrics.Untranscribed": "clips without a hypothesis always count as deleted",
    "listing.ORIGINAL_FILE": "original_release.original_language",
    "results.CHOICES": "the dataclasses of publishing.measured_results say what a field may be",
    "results.FIELDS": "the same",
    "training.speech_trainer.target_mask": "a property of training.collator.SpeechBatch",
}


def found(module, name):
    """A name of 0.1 by its old path, and the warnings that it gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DeprecationWarning)
        value = getattr(import_module(f"distil_whisper_hf.{module}"), name)
    return value, [str(one.message) for one in caught if one.category is DeprecationWarning]


@pytest.mark.parametrize("module", NAMES)
def test_every_public_name_of_0_1_is_found(module):
    """Silent: a program written for 0.1 that fails at its first line."""
    missing = []
    for name in NAMES[module]:
        if f"{module}.{name}" in GONE:
            continue
        try:
            found(module, name)
        except (ImportError, AttributeError) as error:
            missing.append(f"{name}: {error}")
    assert missing == []


@pytest.mark.parametrize(
    ("module", "name", "place"),
    [
        ("training.clips", "Clip", "data.clips"),
        ("training.clips", "select_subset", "data.sampling"),
        ("evaluation", "get_normalizer", "evaluation.scores.normalization"),
        ("evaluation.systems", "open_system", "evaluation.systems.opening"),
        ("publishing", "complete_release", "publishing.release"),
        ("hub", "push_folder", "publishing.push"),
        ("language_experts", "route_by_prompt", "routing"),
    ],
)
def test_the_warning_names_the_new_path(module, name, place):
    """Silent: an old path that works for ever, or a warning that does not say what to write."""
    value, messages = found(module, name)
    assert value is getattr(import_module(f"distil_whisper_hf.{place}"), name)
    assert messages == [f"distil_whisper_hf.{module}.{name} has moved: import {name} from distil_whisper_hf.{place}."]


def test_a_renamed_name_is_the_new_one():
    """Silent: a record of evaluation that is another class than the one that is read now."""
    value, messages = found("evaluation.utterances", "Utterance")
    assert value is import_module("distil_whisper_hf.data.clips").Clip and "import Clip from" in messages[0]


def test_what_never_was_is_an_attribute_error():
    """Silent: a misspelt name that is None."""
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        found("training.clips", "nonsense")
    with pytest.raises(ImportError):
        import_module("distil_whisper_hf.training.nonsense")


def test_importing_the_package_warns_of_nothing(tmp_path):
    """Silent: our own code on old paths, whose warnings users would see."""
    code = (
        "import distil_whisper_hf, pkgutil, importlib\n"
        "for found in pkgutil.walk_packages(distil_whisper_hf.__path__, 'distil_whisper_hf.'):\n"
        "    importlib.import_module(found.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error:distil_whisper_hf:DeprecationWarning", "-c", code],
        capture_output=True, text=True, check=False, cwd=Path(distil_whisper_hf.__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0 and "has moved" not in done.stderr, done.stderr[-2000:]


def test_the_tables_lead_somewhere():
    """Silent: a new path that has moved again."""
    for places in MODULES.values():
        for place in places:
            import_module(f"distil_whisper_hf.{place}")
    for path in RENAMED.values():
        module, _, name = path.rpartition(".")
        assert hasattr(import_module(f"distil_whisper_hf.{module}"), name), path
