"""The trainer over the test Hub: experts pushed while training and at its end."""

from __future__ import annotations

import pytest
from hub_client import Client
from hub_server import Hub
from models import save_whisper
from tiny import tiny_processor

TRAIN = """
from speech_rows import Rows
from transformers import AutoProcessor
from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.training.arguments import DistilWhisperTrainingArguments
from distil_whisper_hf.training.trainer import DistilWhisperTrainer
model = DistilWhisperForConditionalGeneration.from_pretrained('openai/tiny')
model.add_expert('ca')
model.add_expert('gl')
arguments = DistilWhisperTrainingArguments(
    'runs', max_steps=2, per_device_train_batch_size=2, use_cpu=True, report_to='none', disable_tqdm=True,
    distillation='none', save_strategy='steps', save_steps=1, push_to_hub=True, hub_model_id='user/tiny-ca',
    hub_private_repo=True,
)
trainer = DistilWhisperTrainer(
    model, arguments, processing_class=AutoProcessor.from_pretrained('openai/tiny'), train_experts=['ca'],
    train_dataset=Rows(4, ('ca',)),
)
trainer.train()
trainer.push_to_hub()
from distil_whisper_hf.listing import list_experts
again = DistilWhisperForConditionalGeneration.from_pretrained('user/tiny-ca')
ours, theirs = model.state_dict(), again.state_dict()
result = [list(again.expert_names), all(bool((ours[key] == value).all()) for key, value in theirs.items())]
"""


@pytest.mark.parametrize("strategy", ["every_save", "end"])
def test_experts_are_pushed_while_training_and_at_its_end(tmp_path, strategy):
    """Silent: the base sent with every save, experts of other languages sent along, or an old expert left there."""
    with Hub(tmp_path / "hub") as hub:
        base = save_whisper(tmp_path / "tiny")
        tiny_processor().save_pretrained(base)
        hub.publish_folder("openai/tiny", base)
        with Client(hub, tmp_path / "home") as run:
            names, equal = run(TRAIN.replace("push_to_hub=True", f"push_to_hub=True, hub_strategy={strategy!r}"))
        assert names == ["ca"] and equal
        messages = list(hub.repos["user/tiny-ca"].messages.values())
        # The last save is the end: the final push finds nothing to change, and makes no empty commit.
        every_save = ["Training in progress, step 1", "Training in progress, step 2"]
        assert messages == ["initial commit", *(every_save if strategy == "every_save" else ["End of training"])]
        files = hub.files("user/tiny-ca")
        assert [name for name in files if name.endswith(".safetensors")] == ["expert.ca.safetensors"]
        assert "README.md" in files and hub.repos["user/tiny-ca"].private
