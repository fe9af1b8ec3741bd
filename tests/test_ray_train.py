"""`examples/ray_train.py`: two workers on disks of their own, one of which is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from models import save_whisper
from programs import TINY, short_processor, speech_folder

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {
    **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "examples")]), "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "300",
    "RAY_worker_niceness": "0",
}  # fmt: skip

KILLED = """
import os, signal, sys
from pathlib import Path
import ray.train, ray_train

FLAG = Path(sys.argv.pop(1))

def on_step_end(self, args, state, control, **kwargs):
    if state.global_step == 3 and os.environ["RANK"] == "1" and not FLAG.exists():
        # What was reported is known to Ray when it has asked for it.
        assert ray.train.get_all_reported_checkpoints()
        FLAG.touch()
        os.kill(os.getpid(), signal.SIGKILL)

plain = ray_train.work

def work(config):
    # Where the third step has been taken once, it is not taken from the beginning.
    assert FLAG.exists() == (ray.train.get_checkpoint() is not None)
    ray_train.Reporter.on_step_end = on_step_end
    plain(config)

ray_train.work = work
sys.exit(ray_train.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_worker_is_killed_and_the_run_ends_as_it_would_have(tmp_path):
    """Silent: a restart from the first step, an outcome that lies on the disk of a worker, scores of half of the clips,
    or another expert than torchrun's."""
    pytest.importorskip("ray")
    base = save_whisper(tmp_path / "base", max_source_positions=100)
    short_processor().save_pretrained(base)
    speech_folder(tmp_path / "catalan", "ca")
    (tmp_path / "killed.py").write_text(KILLED)
    words = ["--model", "base", "--distillation", "none", "--data", "catalan", "--where", "suspect=0", *TINY,
             "--max_steps", "4", "--per_device_train_batch_size", "1", "--save_strategy", "steps", "--save_steps", "2",
             "--test", "trained"]  # fmt: skip
    own = ["--workers", "2", "--storage_path", f"local://{tmp_path}/storage", "--name", f"test-{os.getpid()}",
           "--max_failures", "1"]  # fmt: skip
    command = [sys.executable, "killed.py", str(tmp_path / "flag"), *own, *words, "--output_dir", "out"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "flag").exists()
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "distil_whisper_hf.cli"]
    subprocess.run(
        [sys.executable, *torchrun, "train", *words, "--output_dir", "plain"],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, check=True,
    )  # fmt: skip
    ours, plain = tmp_path / "out", tmp_path / "plain"
    names = [{path.name for path in folder.iterdir() if path.is_file()} for folder in (ours, plain)]
    assert names[0] == names[1] and {"expert.ca.safetensors", "scores.json", "run.json", "training.json"} <= names[0]
    assert (ours / "expert.ca.safetensors").read_bytes() == (plain / "expert.ca.safetensors").read_bytes()
    scores = [json.loads((folder / "scores.json").read_text()) for folder in (ours, plain)]
    assert scores[0]["rows"] == scores[1]["rows"] and scores[0]["transcripts"] == scores[1]["transcripts"]
    assert (scores[0]["steps"], scores[0]["command"].partition(" --")[0]) == (4, "distil-whisper train")
    again = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert again.returncode == 2 and "Expected an --output_dir without a run" in again.stderr
