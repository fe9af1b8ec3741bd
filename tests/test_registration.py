"""What `import distil_whisper_hf` changes, and what it must leave alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from models import features, prompts
from transformers import AutoConfig, AutoModelForSpeechSeq2Seq

from distil_whisper_hf import DistilWhisperForConditionalGeneration

ROOT = Path(__file__).parent.parent


def run(code: str, folder: Path, *, package: bool = True) -> dict:
    """Run `code` in a new process, with or without our package on its path; its last line is JSON."""
    env = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT) if package else "",
        "HF_MODULES_CACHE": str(folder / "modules"),
    }
    env["PYTHONSAFEPATH"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_importing_changes_nothing_else(tmp_path):
    """Silent: another model's class, pipeline or mapping replaced by ours."""
    found = run(
        """
import json, importlib, sys
import transformers
from transformers import WhisperConfig
from transformers.pipelines import PIPELINE_REGISTRY, SUPPORTED_TASKS
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING as heads
def state():
    tasks = [str(SUPPORTED_TASKS), str(sorted(PIPELINE_REGISTRY.get_supported_tasks()))]
    return [sorted(CONFIG_MAPPING.keys()), str(heads[WhisperConfig]), *tasks]
before = state()
import distil_whisper_hf
first = state()
for name in [n for n in sys.modules if n.startswith('distil_whisper_hf')]: del sys.modules[name]
import distil_whisper_hf
importlib.reload(distil_whisper_hf)
new = set(first[0]) - set(before[0])
print(json.dumps({'new': sorted(new), 'same': before[1:] == first[1:] == state()[1:],
                  'current': CONFIG_MAPPING['distilwhisper'] is distil_whisper_hf.DistilWhisperConfig}))
""",
        tmp_path,
    )
    assert found == {"new": ["distilwhisper"], "same": True, "current": True}


def test_the_core_needs_none_of_the_heavy_libraries(tmp_path):
    """Silent: opening a model needing datasets, peft or jiwer."""
    heavy = ("datasets", "jiwer", "langcodes", "peft", "matplotlib")
    code = f"import json, sys, distil_whisper_hf; print(json.dumps([m for m in {heavy!r} if m in sys.modules]))"
    assert run(code, tmp_path) == []


REMOTE = """
import json, sys, torch
from transformers import AutoModelForSpeechSeq2Seq, AutoModel, AutoConfig
model = AutoModelForSpeechSeq2Seq.from_pretrained(sys.argv[1], trust_remote_code=True)
features = torch.load(sys.argv[2])
with torch.no_grad():
    logits = model(features['inputs'], decoder_input_ids=features['tokens']).logits
generated = model.generate(features['inputs'], language=['ca', 'en'], max_new_tokens=5)
print(json.dumps({
    'module': type(model).__module__, 'installed': 'distil_whisper_hf' in sys.modules,
    'experts': list(model.expert_names), 'difference': float((logits - features['logits']).abs().max()),
    'tokens': generated.tolist(),
}))
"""


@pytest.mark.parametrize("experts_only", [False, True])
def test_remote_code_opens_without_the_package(whisper_folder, tmp_path, experts_only):
    """Silent: a file that the model needs left out of the folder, or an import of the installed package in it."""
    code = f"""
import json, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from models import with_experts
from distil_whisper_hf import DistilWhisperConfig, DistilWhisperForConditionalGeneration
DistilWhisperConfig.register_for_auto_class()
DistilWhisperForConditionalGeneration.register_for_auto_class('AutoModelForSpeechSeq2Seq')
model = with_experts({str(whisper_folder)!r}, 'ca')
model.save_pretrained({str(tmp_path / "saved")!r}, experts_only={experts_only})
print(json.dumps({{}}))
"""
    run(code, tmp_path)
    model = DistilWhisperForConditionalGeneration.from_pretrained(tmp_path / "saved")
    inputs, tokens = features(2), prompts("ca", "en")
    with torch.no_grad():
        logits = model(inputs, decoder_input_ids=tokens).logits
    torch.save({"inputs": inputs, "tokens": tokens, "logits": logits}, tmp_path / "features.pt")
    arguments = [str(tmp_path / "saved"), str(tmp_path / "features.pt")]
    found = run(f"import sys; sys.argv[1:] = {arguments!r}\n" + REMOTE, tmp_path, package=False)
    assert found["module"].startswith("transformers_modules.") and not found["installed"]
    assert found["experts"] == ["ca"] and found["difference"] < 1e-5
    assert found["tokens"] == model.generate(inputs, language=["ca", "en"], max_new_tokens=5).tolist()


def test_local_code_wins_over_remote_code(whisper_folder, tmp_path):
    """Silent: everybody who opens a folder with code being asked to trust it although the package is installed."""
    config = json.loads((whisper_folder / "config.json").read_text())
    config |= {"model_type": "distilwhisper", "base_model_name_or_path": str(whisper_folder)}
    config["auto_map"] = {
        "AutoConfig": "configuration_distil_whisper.DistilWhisperConfig",
        "AutoModelForSpeechSeq2Seq": "modeling_distil_whisper.DistilWhisperForConditionalGeneration",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert AutoConfig.from_pretrained(tmp_path).model_type == "distilwhisper"
    model = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path)
    assert type(model) is DistilWhisperForConditionalGeneration
