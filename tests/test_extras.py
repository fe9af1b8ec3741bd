"""Every extra by itself: what it promises imports and starts, with nothing else installed beside it.

An environment for each extra would take minutes. Here a process refuses every library that is neither required by the
package nor, over all steps, by the extra.
"""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGE = "distil_whisper_hf"
# Extra -> what it promises to import, and the programs that must start.
PROMISES = {
    "": (
        ["distil_whisper_hf", "distil_whisper_hf.publishing.release"],
        ["release", "push", "convert", "export", "transcribe"],
    ),
    "train": (
        ["distil_whisper_hf.training.trainer", "distil_whisper_hf.commands.train", "peft"],
        ["train", "baseline", "compare"],
    ),
    "eval": (
        ["distil_whisper_hf.evaluation.report.page", "matplotlib", "sacrebleu", "num2words"],
        ["evaluate", "gates"],
    ),
    "quant": (["bitsandbytes", "torchao"], []),
    "export": (["peft", "ctranslate2", "onnx", "onnxruntime", "onnxscript"], []),
    "vad": (["silero_vad", "distil_whisper_hf.transcription.speech_only"], ["transcribe"]),
    "serve": (["fastapi", "distil_whisper_hf.transcription.server", "uvicorn", "multipart"], ["serve"]),
    "demo": (["gradio"], []),
    "ray": (["ray"], []),
}

BLOCKED = """
import json, sys
from importlib.machinery import PathFinder
hidden = set(json.loads(sys.argv[1]))
class Others(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        # As if it were not installed.
        return None if path is None and name in hidden else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Others
for module in json.loads(sys.argv[2]):
    __import__(module)
from distil_whisper_hf.cli import main
for program in json.loads(sys.argv[3]):
    if main([program, "--help"]) != 0:
        sys.exit(f"{program} did not start")
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required(extra: str) -> set[str]:
    """Names of all distributions that the package needs with an extra, over all steps."""
    found: set[str] = set()
    todo = [(PACKAGE, extra)]
    while todo:
        name, extras = todo.pop()
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            # For another system, or a part of an extra that is not installed: whoever imports it will say so.
            continue
        for line in lines:
            one = Requirement(line)
            if one.marker is None or any(one.marker.evaluate({"extra": each}) for each in {extras, ""}):
                key = normal(one.name)
                if key not in found:
                    found.add(key)
                    todo += [(one.name, each) for each in one.extras or {""}]
    return found


def hidden_modules(extra: str) -> str:
    """Top names of all installed distributions that neither the package nor the extra needs, as JSON."""
    allowed = required(extra) | {normal(PACKAGE), "setuptools"}
    owners = metadata.packages_distributions().items()
    return json.dumps(sorted(name for name, those in owners if not {normal(one) for one in those} & allowed))


@pytest.mark.slow
@pytest.mark.parametrize("extra", PROMISES)
def test_an_extra_brings_what_it_promises(extra, tmp_path):
    """Silent: an extra whose program stops at the first library that another extra would have brought."""
    imports, programs = PROMISES[extra]
    missing = [
        name for name in imports if not name.startswith(PACKAGE) and not metadata.packages_distributions().get(name)
    ]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    arguments = [hidden_modules(extra), json.dumps(imports), json.dumps(programs)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, env=env, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]


def test_a_library_of_another_extra_is_missed(tmp_path):
    """Silent: a check that lets everything through."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, hidden_modules(""), json.dumps(["jiwer"]), "[]"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode != 0 and "No module named 'jiwer'" in done.stderr
