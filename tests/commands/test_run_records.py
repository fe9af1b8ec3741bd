"""What makes a run another one."""

from __future__ import annotations

import pytest

from distil_whisper_hf.commands.run_records import RunRecord, differences, run_record
from distil_whisper_hf.training.arguments import SpeechTrainingArguments


def record(folder, **changes) -> RunRecord:
    given = {"output_dir": str(folder), "use_cpu": True, "report_to": "none", "eval_strategy": "steps", **changes}
    return run_record(models={}, clips={}, arguments={}, training=SpeechTrainingArguments(**given))


@pytest.mark.parametrize(
    ("always", "change", "differing"),
    [
        ({}, {"learning_rate": 3e-4}, ["--learning_rate was 0.0001, is 0.0003"]),
        ({}, {"logging_steps": 3, "dataloader_num_workers": 2, "run_name": "again", "hub_token": "x"}, []),
        ({}, {"eval_steps": 7, "save_steps": 7}, []),
        # Silent: a schedule that follows the scores, and meets other ones behind a checkpoint.
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, {"eval_steps": 7}, ["--eval_steps was 500, is 7"]),
    ],
)
def test_what_changes_the_outcome_is_named_and_nothing_else(tmp_path, always, change, differing):
    before, now = (record(tmp_path, **always, **more) for more in ({}, change))
    assert differences(before.decides, now.decides) == differing
    assert (before.id == now.id) == (not differing)


def test_a_record_holds_no_token(tmp_path):
    token = "hf_" + "a1B2" * 8
    assert token not in str(record(tmp_path, hub_token=token, optim_args=f"key={token}").decides)
