"""The noise on the gates over a run of the stock trainer."""

import pytest
import torch
from models import features, prompts, with_experts
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

from distil_whisper_hf.training.schedules import GateNoiseCallback


class Recorder(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.seen.append(model.gate_noise)


def test_noise_rises_from_zero_and_is_gone_after_training(whisper_folder, tmp_path):
    """Silent: full noise at the first step, none at all, or noise left on the model that is used afterwards."""
    model = with_experts(whisper_folder, "ca")
    model.freeze_shared()
    rows = [{"input_features": features(1)[0], "labels": prompts("ca")[0, 1:]} for _ in range(8)]
    recorder = Recorder()
    trainer = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=tmp_path, max_steps=5, per_device_train_batch_size=2, use_cpu=True, save_strategy="no"
        ),
        train_dataset=rows,
        data_collator=lambda items: {key: torch.stack([item[key] for item in items]) for key in items[0]},
        callbacks=[GateNoiseCallback(maximum=5.0), recorder],
    )
    trainer.train()
    assert recorder.seen == pytest.approx([0.0, 1.0, 2.0, 3.0, 4.0])
    assert model.gate_noise == 0.0


def test_a_negative_maximum_is_refused():
    """Silent: noise that falls below zero, which the gates ignore."""
    with pytest.raises(ValueError, match="at least 0, got -1"):
        GateNoiseCallback(maximum=-1.0)
