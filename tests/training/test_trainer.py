"""DistilWhisperTrainer: its loss against the definition, what trains, what is saved."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from models import FRAMES, randomize_expert, save_whisper
from safetensors.torch import load_file
from speech_rows import Rows
from tiny import tiny_feature_extractor, tiny_processor, tiny_tokenizer
from torch.nn.functional import log_softmax
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from distil_whisper_hf import DistilWhisperForConditionalGeneration, ExpertFileError
from distil_whisper_hf.data.clips import Clip
from distil_whisper_hf.data.joining import join_clips
from distil_whisper_hf.data.labels import LabelBuilder
from distil_whisper_hf.data.screening import Screen
from distil_whisper_hf.evaluation.scores.trainer_metrics import PredictionMetrics
from distil_whisper_hf.export.collapse import gated_layers
from distil_whisper_hf.training.arguments import DistilWhisperTrainingArguments, SpeechTrainingArguments
from distil_whisper_hf.training.averaging import average_tensors
from distil_whisper_hf.training.collator import SpeechCollator
from distil_whisper_hf.training.datasets import SpeechDataset, StreamingSpeechDataset
from distil_whisper_hf.training.resuming import CheckpointError
from distil_whisper_hf.training.speech_trainer import SpeechTrainer
from distil_whisper_hf.training.teacher import BaseTeacher, Teacher
from distil_whisper_hf.training.teacher_cache import CachedTeacher
from distil_whisper_hf.training.trainer import DistilWhisperTrainer

# Nothing random, so that two ways of computing the same thing must agree.
CALM = {"expert_dropout": 0.0, "gate_dropout": 0.0, "skip_gate_probability": 0.0}


@pytest.fixture(scope="module")
def processor() -> WhisperProcessor:
    return tiny_processor()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_whisper(tmp_path_factory.mktemp("base"))


def student(base, *names: str, sides: str = "both", **options) -> DistilWhisperForConditionalGeneration:
    model = DistilWhisperForConditionalGeneration.from_pretrained(base, **options)
    for seed, name in enumerate(names):
        model.add_expert(name, language="it" if name == "sc" else None, sides=sides)
        randomize_expert(model, name, seed)
    return model


def arguments(folder, **changes) -> DistilWhisperTrainingArguments:
    values = {
        "output_dir": str(folder),
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "distillation": "none",
        "logging_steps": 1,
        "gate_noise": 0.0,
        "disable_tqdm": True,
    }
    return DistilWhisperTrainingArguments(**{**values, **changes})


@pytest.mark.parametrize("form", [{}, {"rank": 4}, {"rank": 2, "targets": ["q_proj"]}])
def test_gates_that_are_kept_open(base, tmp_path, processor, form):
    """Silent: gates that train and close after all, or half of an expert in training and all of it in evaluation."""
    model = DistilWhisperForConditionalGeneration.from_pretrained(base, expert_dropout=0.0, gate_dropout=0.0)
    model.add_expert("ca", **form)
    before = {key: tensor.clone() for key, tensor in model.expert_file("ca").tensors.items()}
    trainer = trained(model, tmp_path, processor, Rows(2), for_export=True, max_steps=2, learning_rate=1e-2)
    after = model.expert_file("ca").tensors
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    assert changed and not any(".gate_" in key for key in changed)
    assert gated_layers(model, "ca") == ()
    training = model.config.language_experts["ca"]["training"]
    assert (training["gate_budget"], training["gate_noise"]) == (1.0, 0.0)
    # In training as in evaluation, but for dropout, which is off.
    inputs = {name: value for name, value in trainer.data_collator([Rows(2)[0]]).items() if name != "expert"}
    batch = {
        "input_features": inputs["input_features"],
        "decoder_input_ids": torch.tensor([[50258, 50270, 50359, 50363]]),
    }
    with torch.no_grad():
        ours, plain = model.train()(**batch).logits, model.eval()(**batch).logits
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)


def test_gates_that_close_cannot_be_kept_open(base, tmp_path, processor):
    model = student(base, "ca")
    with pytest.raises(ValueError, match=r"'ca' close in encoder\.layers\.0"):
        trained(model, tmp_path, processor, Rows(2), for_export=True)


def trained(
    model, folder, processor, rows, *, teacher=None, train_experts=None, resume=None, **changes
) -> DistilWhisperTrainer:
    trainer = DistilWhisperTrainer(
        model,
        arguments(folder, **changes),
        processing_class=processor,
        teacher=teacher,
        train_experts=train_experts,
        train_dataset=rows,
    )
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer


def experts_of(model) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items() if ".language_experts." in k}


def logged(trainer) -> dict[str, float]:
    return next(entry for entry in trainer.state.log_history if "loss" in entry)


@pytest.mark.parametrize("divergence", ["kl", "js"])
@pytest.mark.parametrize("counts_padding", [True, False])
def test_the_loss_is_its_definition(base, processor, tmp_path, divergence, counts_padding):
    """Silent: a part left out, weighted twice, averaged over padding, or logged under another's name."""
    model = student(base, "ca", **CALM)
    teacher_model = WhisperForConditionalGeneration.from_pretrained(save_whisper(tmp_path / "teacher", 1, d_model=96))
    rows = Rows(3)
    batch = SpeechCollator(LabelBuilder(processor.tokenizer))([rows[i] for i in range(3)])
    labels, mask = batch["labels"], batch["labels"] != -100
    with torch.no_grad():
        model.train()
        out = model(batch["input_features"], labels=labels, output_gate_values=True)
        student_p = log_softmax(out.logits[mask], -1)
        teacher_p = log_softmax(teacher_model(batch["input_features"], labels=labels).logits[mask], -1)
    ce = -(0.9 * student_p.gather(1, labels[mask][:, None]).mean() + 0.1 * student_p.mean())
    if divergence == "kl":
        kd = (teacher_p.exp() * (teacher_p - student_p)).sum(-1).mean()
    else:
        middle = ((teacher_p.exp() + student_p.exp()) / 2).log()
        kd = sum((p.exp() * (p - middle)).sum(-1).mean() / 2 for p in (teacher_p, student_p))
    speech = torch.arange(FRAMES // 2) < batch["num_frames"][:, None]
    encoder, decoder = (torch.stack(gates) for gates in (out.encoder_gate_values, out.decoder_gate_values))
    if counts_padding:
        gates = torch.cat([encoder.flatten(), decoder.flatten()])
    else:
        gates = torch.cat([encoder[:, speech].flatten(), decoder[:, mask].flatten()])
    budget = abs(gates.mean() - 0.4)

    processor_of_teacher = tiny_processor()
    teacher = Teacher(teacher_model, processor_of_teacher, student=model, student_processor=processor)
    trainer = trained(
        model, tmp_path / "out", processor, rows, teacher=teacher, per_device_train_batch_size=3,
        distillation=divergence, distillation_weight=3.0, gate_budget=0.4, gate_budget_weight=0.5,
        gate_budget_counts_padding=counts_padding,
    )  # fmt: skip
    log = logged(trainer)
    assert log["loss_ce"] == pytest.approx(ce.item(), rel=1e-4)
    assert log["loss_kd"] == pytest.approx(kd.item(), rel=1e-3)
    assert log["loss_gate"] == pytest.approx(budget.item(), rel=1e-3)
    assert log["loss"] == pytest.approx((ce + 3.0 * kd + 0.5 * budget).item(), rel=1e-4)
    assert log["gate_encoder_ca"] == pytest.approx(encoder[:, speech].mean().item(), rel=1e-4)
    assert log["gate_decoder_ca"] == pytest.approx(decoder[:, mask].mean().item(), rel=1e-4)


def test_accumulated_batches_are_one_large_batch(base, processor, tmp_path):
    """Silent: the loss of transformers' Whisper, multiplied by the number of accumulated batches (design faults)."""
    outcomes = []
    for size, accumulated in ((6, 1), (2, 3)):
        model = student(base, "ca", **CALM)
        trainer = trained(
            model, tmp_path / str(size), processor, Rows(6), per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated, gate_budget_weight=0.0, optim="sgd", learning_rate=0.1,
            warmup_steps=0,
        )  # fmt: skip
        outcomes.append((experts_of(model), logged(trainer)["loss_ce"]))
    (whole, whole_loss), (parts, parts_loss) = outcomes
    assert parts_loss == pytest.approx(whole_loss, rel=1e-5)
    start = experts_of(student(base, "ca", **CALM))
    moved = max((whole[key] - start[key]).abs().max().item() for key in whole)
    assert moved > 1e-3
    assert max((whole[key] - parts[key]).abs().max().item() for key in whole) < 1e-3 * moved


def test_a_plain_whisper_is_scaled_right_under_accumulation_too(base, processor, tmp_path):
    """Silent: a full fine-tuning baseline that trains with gradients times the number of accumulated batches."""
    logs = []
    for size, accumulated in ((4, 1), (1, 4)):
        model = WhisperForConditionalGeneration.from_pretrained(base)
        args = SpeechTrainingArguments(
            output_dir=str(tmp_path / str(size)), max_steps=1, per_device_train_batch_size=size, use_cpu=True,
            gradient_accumulation_steps=accumulated, save_strategy="no", report_to="none", logging_steps=1,
            disable_tqdm=True,
        )  # fmt: skip
        trainer = SpeechTrainer(model, args, processing_class=processor, train_dataset=Rows(4))
        trainer.train()
        logs.append(logged(trainer))
    assert logs[0]["grad_norm"] == pytest.approx(logs[1]["grad_norm"], rel=1e-3)
    assert logs[0]["loss_ce"] == pytest.approx(logs[1]["loss_ce"], rel=1e-5)


def test_only_the_named_experts_train(base, processor, tmp_path):
    """Silent: a base that drifts, or an expert of another language changed on the way."""
    model = student(base, "ca", "gl")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trained(model, tmp_path, processor, Rows(4, ("ca", "gl")), train_experts=["ca"], learning_rate=1e-2, warmup_steps=0)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(".language_experts.ca." in key for key in changed)


def test_mixed_batches_train_each_row_s_own_expert(base, processor, tmp_path):
    """Silent: rows of one language that train the other's expert. Each expert must come out as if trained alone."""
    rows = Rows(4, ("ca", "gl"))
    together = student(base, "ca", "gl", **CALM)
    settings = {"optim": "sgd", "learning_rate": 0.1, "warmup_steps": 0, "gate_budget_weight": 0.0}
    trained(together, tmp_path / "both", processor, rows, per_device_train_batch_size=4, **settings)
    ours = experts_of(together)
    start = experts_of(student(base, "ca", "gl", **CALM))
    for name in ("ca", "gl"):
        alone = student(base, "ca", "gl", **CALM)
        own = [row for row in rows.rows if row["language"] == name]
        trained(alone, tmp_path / name, processor, own, per_device_train_batch_size=2, **settings)
        for key, value in experts_of(alone).items():
            if f".{name}." in key:
                # The same direction: the loss of both is divided by the tokens of both.
                mine, theirs = ours[key] - start[key], value - start[key]
                if theirs.norm() > 1e-6:
                    cosine = (mine * theirs).sum() / (mine.norm() * theirs.norm())
                    assert cosine > 0.999, key


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_one_side_trains_and_the_other_is_whisper_s(base, processor, tmp_path, side):
    """Silent: a closed side that trains, opens under noise, or is held to the budget."""
    model = student(base, "ca", sides=side, **CALM)
    before = experts_of(model)
    trainer = trained(
        model, tmp_path, processor, Rows(2), learning_rate=1e-2, warmup_steps=0, gate_noise=5.0, max_steps=2,
        save_strategy="steps", save_steps=1,
    )  # fmt: skip
    other = {"encoder": "decoder", "decoder": "encoder"}[side]
    assert all(f".{side}." in key and not torch.equal(value, before[key]) for key, value in experts_of(model).items())
    assert f"gate_{side}_ca" in logged(trainer) and f"gate_{other}_ca" not in logged(trainer)
    batch = SpeechCollator(LabelBuilder(processor.tokenizer))([Rows(2)[0], Rows(2)[1]])
    for training in (True, False):
        model.train(training)
        model.gate_noise = 5.0
        with torch.no_grad():
            out = model(batch["input_features"], labels=batch["labels"], output_gate_values=True)
        assert max(gates.max().item() for gates in getattr(out, f"{other}_gate_values")) < 1e-6
    # Only that side's mean is held to the budget: 0.5 at most, whatever the other says.
    assert logged(trainer)["loss_gate"] <= 0.5
    resumed = student(base, "ca", **CALM)
    with pytest.raises(ExpertFileError, match="Go on with the same sides"):
        trained(resumed, tmp_path, processor, Rows(2), resume=tmp_path / "checkpoint-1", max_steps=2)


def test_an_expert_is_chosen_by_name_where_the_data_says_so(base, processor, tmp_path):
    """Silent: Sardinian rows, prompted as Italian, that train nothing or the Italian expert."""
    model = student(base, "sc", "it")
    before = experts_of(model)
    trained(model, tmp_path, processor, Rows(2, ("it",), expert="sc"), learning_rate=1e-2, warmup_steps=0)
    changed = {key for key, value in experts_of(model).items() if not torch.equal(value, before[key])}
    assert changed and all(".sc." in key for key in changed)


def test_each_expert_is_held_to_the_budget(base, processor, tmp_path):
    """Silent: one mean over all rows, where an expert that is always open hides one that never is."""
    model = student(base, "ca", "gl", **CALM, gate_estimator="straight_through")
    for name, bias in (("ca", 1.0), ("gl", -1.0)):
        for _, layer in model.expert_layers(name):
            gate = layer.language_experts[name]
            with torch.no_grad():
                gate.gate_in.weight.zero_()
                gate.gate_in.bias.fill_(1.0)
                gate.gate_out.weight.fill_(bias)
    trainer = trained(model, tmp_path, processor, Rows(4, ("ca", "gl")), per_device_train_batch_size=4)
    log = logged(trainer)
    assert (log["gate_encoder_ca"], log["gate_encoder_gl"]) == (1.0, 0.0)
    assert log["loss_gate"] == pytest.approx(0.5)


def test_a_batch_without_an_expert_is_refused(base, processor, tmp_path):
    """Silent: steps that train nothing."""
    with pytest.raises(ValueError, match="Expected rows with an expert"):
        trained(student(base, "ca"), tmp_path, processor, Rows(2, ("es",)))


def test_checkpointed_activations_change_nothing(base, processor, tmp_path):
    """Silent: gates cut off from their loss, or another dropout in the second forward pass."""
    outcomes = []
    for checkpointing in (False, True):
        model = student(base, "ca", expert_dropout=0.2)
        torch.manual_seed(0)
        trained(model, tmp_path / str(checkpointing), processor, Rows(2), gradient_checkpointing=checkpointing)
        outcomes.append(experts_of(model))
    for key, value in outcomes[0].items():
        torch.testing.assert_close(outcomes[1][key], value, rtol=1e-4, atol=1e-6)


def test_mixed_precision_trains(base, processor, tmp_path):
    """Silent: a loss in bfloat16, or one that is nan."""
    model = student(base, "ca", "gl")
    before = experts_of(model)
    trainer = trained(
        model, tmp_path, processor, Rows(4, ("ca", "gl")), bf16=True, max_steps=2, teacher=BaseTeacher(model),
        distillation="js", gate_noise=5.0,
    )  # fmt: skip
    after = experts_of(model)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in after.values())
    assert any(not torch.equal(after[key], before[key]) for key in after)
    assert all(entry["loss"] > 0 for entry in trainer.state.log_history if "loss" in entry)


def test_the_outcome_holds_experts_and_opens(base, processor, tmp_path):
    """Silent: a copy of the base with every checkpoint, or an outcome that from_pretrained cannot open."""
    model = student(base, "ca", "gl")
    rows = Rows(4, ("ca", "gl"))
    trainer = trained(model, tmp_path, processor, rows, max_steps=2, save_strategy="steps", save_steps=1)
    trainer.save_model()
    for folder in (tmp_path, tmp_path / "checkpoint-1", tmp_path / "checkpoint-2"):
        weights = sorted(path.name for path in folder.glob("*.safetensors"))
        assert weights == ["expert.ca.safetensors", "expert.gl.safetensors"]
    state = torch.load(tmp_path / "checkpoint-2" / "optimizer.pt", weights_only=True)["state"]
    held = sum(entry["exp_avg"].numel() for entry in state.values())
    assert held <= sum(value.numel() for value in experts_of(model).values())
    assert not list(tmp_path.glob(".part-*"))
    again = DistilWhisperForConditionalGeneration.from_pretrained(tmp_path)
    for key, value in experts_of(model).items():
        assert torch.equal(again.state_dict()[key], value)
    training = again.config.language_experts["ca"]["training"]
    assert (training["distillation"], training["teacher"]) == ("none", None)
    assert json.dumps(training)
    assert load_file(tmp_path / "expert.ca.safetensors").keys()


def test_a_run_stopped_between_checkpoints_ends_the_same(base, processor, tmp_path):
    """Silent: a resumed run with other data, noise, dropout or optimiser state than an uninterrupted one."""
    settings = {
        "max_steps": 6, "save_strategy": "steps", "save_steps": 2, "gate_noise": 5.0, "gradient_accumulation_steps": 2,
    }  # fmt: skip
    rows = Rows(10, ("ca", "gl"))
    torch.manual_seed(3)
    whole = student(base, "ca", "gl")
    trained(whole, tmp_path / "whole", processor, rows, **settings).save_model()
    torch.manual_seed(4)
    again = student(base, "ca", "gl")
    trainer = DistilWhisperTrainer(
        again, arguments(tmp_path / "again", **settings), processing_class=processor, train_dataset=rows
    )
    trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    trainer.save_model()
    for name in ("expert.ca.safetensors", "expert.gl.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("strategy", ["group_by_length", "batch_rebalance"])
def test_rows_are_grouped_by_the_length_of_their_texts(base, processor, tmp_path, strategy):
    """Silent: rows that are never trained on, and another order after a run was resumed. It ended with an AudioError
    or never, after it had opened every file."""
    made = []

    def make_row(clip: Clip) -> dict:
        made.append(clip.id)
        generator = torch.Generator().manual_seed(int(clip.id))
        features = torch.randn(80, FRAMES, generator=generator).numpy()
        return {"input_features": features, "num_frames": 20, "labels": clip.labels, "expert": None}

    labels = LabelBuilder(processor.tokenizer)
    texts = ["x" * (1 + 7 * n % 10) for n in range(40)]
    clips = [Clip(str(n), "gone.wav", text, "ca", labels=tuple(labels(text, language="ca")), seconds=1.0, digest=str(n))
             for n, text in enumerate(texts)]  # fmt: skip
    rows = SpeechDataset(join_clips(clips, labels=labels, max_seconds=0.5), make_row)
    settings = {
        "max_steps": 24, "per_device_train_batch_size": 2, "train_sampling_strategy": strategy,
        "save_strategy": "steps", "save_steps": 22, "eval_strategy": "no",
    }  # fmt: skip
    whole = student(base, "ca", **CALM)
    trainer = trained(whole, tmp_path / "whole", processor, rows, **settings)
    assert sorted(made[:40]) == sorted(clip.id for clip in clips)
    pairs = [made[place : place + 2] for place in range(0, 40, 2)]
    lengths = {clip.id: len(clip.text) for clip in clips}
    assert sum(abs(lengths[one] - lengths[two]) for one, two in pairs) <= 40 or strategy == "batch_rebalance"
    assert trainer.evaluate(rows)["eval_loss"] > 0
    again = student(base, "ca", **CALM)
    trained(again, tmp_path / "again", processor, rows, resume=tmp_path / "whole" / "checkpoint-22", **settings)
    for key, value in experts_of(whole).items():
        assert torch.equal(experts_of(again)[key], value)


def test_a_stream_is_not_grouped_by_length(base, processor, tmp_path):
    """Silent: the stream in its own order, under a flag that says otherwise."""
    stream = StreamingSpeechDataset([], Screen(LabelBuilder(processor.tokenizer)), None)
    with pytest.raises(ValueError, match="group_by_length, got a stream"):
        trained(student(base, "ca"), tmp_path, processor, stream, train_sampling_strategy="group_by_length")


def test_a_run_ends_with_the_interpolation_of_what_it_trained(base, processor, tmp_path):
    """Silent: interpolated twice by a resumed run, not at all, or in the checkpoints that a run goes on from."""
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-2, "gate_noise": 5.0}
    rows = Rows(6, ("ca",))

    def run(name: str, **more) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        trainer = DistilWhisperTrainer(
            student(base, "ca"), arguments(tmp_path / name, **settings, **more), processing_class=processor,
            train_dataset=rows,
        )  # fmt: skip
        there = tmp_path / name / "checkpoint-2"
        trainer.train(resume_from_checkpoint=str(there) if there.exists() else None)
        trainer.save_model()
        return load_file(tmp_path / name / "expert.ca.safetensors")

    whole = run("whole")
    part = run("part", expert_interpolation=0.25)
    shared = {key: value.clone() for key, value in student(base, "ca").model.state_dict().items()}
    moved = 0
    for key, value in part.items():
        expected = whole[key]
        if ".fc" in key:
            moved += not torch.equal(expected, shared[key])
            expected = shared[key] + 0.25 * (expected - shared[key])
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6, msg=key)
    assert moved == len([key for key in part if ".fc" in key])
    for name in ("checkpoint-2", "checkpoint-4"):
        kept = [(tmp_path / run / name / "expert.ca.safetensors").read_bytes() for run in ("whole", "part")]
        assert kept[0] == kept[1]
    resumed = run("part", expert_interpolation=0.25)
    assert all(torch.equal(value, part[key]) for key, value in resumed.items())
    config = json.loads((tmp_path / "part" / "config.json").read_text())
    assert config["language_experts"]["ca"]["training"]["interpolation"] == 0.25


@pytest.mark.parametrize("rank", [None, 4])
def test_a_run_ends_with_the_mean_of_its_last_checkpoints(base, processor, tmp_path, caplog, rank):
    """Silent: the mean of all checkpoints or of the first, factors that are averaged one by one, a run that goes on and
    ends with another mean, or a last state that is written over what was averaged."""

    def run(folder, **changes):
        model = DistilWhisperForConditionalGeneration.from_pretrained(base)
        torch.manual_seed(1)
        model.add_expert("ca", rank=rank)
        return trained(
            model, folder, processor, Rows(4), max_steps=8, save_strategy="steps", save_steps=2, learning_rate=1e-2,
            average_last=3, **changes,
        )  # fmt: skip

    trainer = run(tmp_path / "out")
    trainer.save_model()
    last = [load_file(tmp_path / "out" / f"checkpoint-{step}" / "expert.ca.safetensors") for step in (8, 6, 4)]
    wanted = average_tensors(last)
    found = load_file(tmp_path / "out" / "expert.ca.safetensors")
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor)
    assert any(not torch.equal(found[name], last[0][name]) for name in found)
    shutil.copytree(tmp_path / "out" / "checkpoint-4", tmp_path / "again" / "checkpoint-4")
    again = run(tmp_path / "again", resume=tmp_path / "again" / "checkpoint-4")
    for name, tensor in experts_of(trainer.model).items():
        assert torch.equal(tensor, experts_of(again.model)[name])
    caplog.clear()
    run(tmp_path / "few", save_total_limit=3, logging_steps=1)
    assert not caplog.records
    for wrong in ({"average_last": 1}, {"save_strategy": "no"}, {"save_total_limit": 2}):
        with pytest.raises(ValueError, match="at least 2 checkpoints, all of them saved and kept"):
            arguments(tmp_path, **{"average_last": 3, "save_strategy": "steps", **wrong})


def test_the_best_checkpoint_comes_back(base, processor, tmp_path):
    """Silent: a best checkpoint remembered under the name of the folder that it was written in."""
    model = student(base, "ca")
    trainer = DistilWhisperTrainer(
        model,
        arguments(
            tmp_path, max_steps=3, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1,
            load_best_model_at_end=True, metric_for_best_model="loss", learning_rate=1e-2, save_total_limit=1,
        ),
        processing_class=processor, train_dataset=Rows(4), eval_dataset=Rows(2),
    )  # fmt: skip
    trainer.train()
    losses = {e["step"]: e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e}
    best = min(losses, key=losses.__getitem__)
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[best], rel=1e-5)
    kept = {path.name for path in tmp_path.glob("checkpoint-*")}
    assert f"checkpoint-{best}" in kept and len(kept) <= 2


def test_a_run_that_was_moved_says_what_it_misses(base, processor, tmp_path):
    """Silent: a whole checkpoint said to be damaged, or a run that forgets its best one, because of a folder's name."""

    def run(folder, steps, resume=None):
        trainer = DistilWhisperTrainer(
            student(base, "ca"),
            arguments(
                folder, max_steps=steps, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1,
                load_best_model_at_end=True, metric_for_best_model="eval_score", learning_rate=1e-2,
            ),
            processing_class=processor, train_dataset=Rows(4), eval_dataset=Rows(2),
        )  # fmt: skip
        # The first checkpoint stays the best.
        scores = iter([1.0, 0.5, 0.2])
        evaluate = trainer.evaluate
        trainer.evaluate = lambda *words, **more: {**evaluate(*words, **more), "eval_score": next(scores)}
        trainer.train(resume_from_checkpoint=resume)

    run(tmp_path / "one", 2)
    shutil.move(tmp_path / "one", tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"best checkpoint so far in .*one.checkpoint-1.*has been moved"):
        run(tmp_path / "other", 3, resume=str(tmp_path / "other" / "checkpoint-2"))


def test_each_row_is_generated_in_its_own_language(base, processor, tmp_path, monkeypatch):
    """Silent: one language for a mixed batch, and error rates of the wrong language."""
    model = student(base, "ca", "gl", "sc")
    given = []
    generate = type(model).generate

    def spy(self, *args, **kwargs):
        given.append((kwargs["language"], kwargs["task"], kwargs.get("expert")))
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "generate", spy)
    rows = [*Rows(3, ("ca", "gl", "es")).rows, *Rows(1, ("it",), expert="sc").rows]
    trainer = DistilWhisperTrainer(
        model,
        arguments(tmp_path, predict_with_generate=True, generation_max_length=8),
        processing_class=processor,
        eval_dataset=rows,
        compute_metrics=PredictionMetrics(processor.tokenizer),
    )
    metrics = trainer.evaluate()
    assert given == [(["ca", "gl", "es", "it"], "transcribe", [None, None, None, "sc"])]
    assert {"eval_wer", "eval_wer_ca", "eval_cer_gl", "eval_wer_es", "eval_wer_it"} <= metrics.keys()


def large_v3_processor() -> WhisperProcessor:
    """128 mel bins, and `<|yue|>` before the task tokens."""
    tokenizer = tiny_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in state["added_tokens"]:
        if token["id"] >= 50358:
            token["id"] += 1
    cantonese = {**state["added_tokens"][0], "id": 50358, "content": "<|yue|>"}
    state["added_tokens"] = sorted([*state["added_tokens"], cantonese], key=lambda token: token["id"])
    from tokenizers import Tokenizer
    from transformers import WhisperTokenizer

    shifted = WhisperTokenizer(tokenizer_object=Tokenizer.from_str(json.dumps(state)), pad_token="<|endoftext|>")
    return WhisperProcessor(tiny_feature_extractor(128), shifted)


def test_a_teacher_of_the_large_v3_kind_hears_and_says_its_own(base, processor, tmp_path):
    """Silent: a teacher asked in the wrong language or task, and its probabilities read one token off."""
    folder = save_whisper(tmp_path / "teacher", 1, vocab_size=51866, num_mel_bins=128)
    large_v3_processor().save_pretrained(folder)
    model = student(base, "ca", **CALM)
    teacher = Teacher.from_pretrained(folder, student=model, student_processor=processor)
    assert teacher.own_features and teacher.name == "teacher"
    rows = Rows(2, teacher_bins=128)
    batch = SpeechCollator(LabelBuilder(processor.tokenizer))([rows[0], rows[1]])
    labels = batch["labels"]
    ours = teacher(batch["teacher_input_features"], labels)
    # By hand: everything from <|translate|> on is one further in the teacher.
    theirs = torch.where(labels >= 50358, labels + 1, labels)
    whole = WhisperForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        logits = whole(batch["teacher_input_features"], labels=theirs).logits
    expected = torch.cat([logits[..., :50358], logits[..., 50359:]], dim=-1)
    torch.testing.assert_close(ours[labels != -100], expected[labels != -100])
    trainer = trained(model, tmp_path / "out", processor, rows, teacher=teacher, distillation="kl")
    assert logged(trainer)["loss_kd"] > 0


EARLIER = (50361, 300, 301, 302)


class RowsWithEarlierText(Rows):
    """As `Rows`; the second has text before its start token."""

    def __init__(self, count: int, **options) -> None:
        super().__init__(count, **options)
        self.rows[1]["previous"] = EARLIER


def test_earlier_text_is_given_and_not_asked_for(base, processor, tmp_path):
    """Silent: a loss on the prompt, labels one off behind it, a row without one that is shifted too, a language token
    behind earlier text that routes nowhere, or a teacher that is not told."""
    folder = save_whisper(tmp_path / "teacher", 1, vocab_size=51866, num_mel_bins=128)
    large_v3_processor().save_pretrained(folder)
    model = student(base, "ca", **CALM)
    rows = RowsWithEarlierText(2, teacher_bins=128)
    labels = LabelBuilder(processor.tokenizer)
    batch = SpeechCollator(labels)([rows[0], rows[1]])
    first, second = (labels(rows[i]["text"], language="ca") for i in (0, 1))
    length = max(len(first), len(EARLIER) + len(second))
    by_hand = torch.full((2, 2, length), -100)
    for row, (given, asked) in enumerate(
        [([50258, *first[:-1]], first), ([*EARLIER, 50258, *second[:-1]], [-100] * len(EARLIER) + second)]
    ):
        by_hand[0, row, : len(given)], by_hand[1, row, : len(asked)] = torch.tensor(given), torch.tensor(asked)
    given, asked = by_hand
    assert torch.equal(batch["decoder_input_ids"], given) and torch.equal(batch["labels"], asked)
    assert "decoder_input_ids" not in SpeechCollator(labels)([rows[0]])

    mask, padded = asked != -100, given.masked_fill(given == -100, 50257)
    whole = WhisperForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        model.train()
        out = model(batch["input_features"], decoder_input_ids=padded, expert_ids=torch.tensor([0, 0]))
        student_p = log_softmax(out.logits[mask], -1)
        # Everything from <|translate|> on is one further in the teacher.
        theirs = torch.where(padded >= 50358, padded + 1, padded)
        teacher_p = whole(batch["teacher_input_features"], decoder_input_ids=theirs).logits
        teacher_p = log_softmax(torch.cat([teacher_p[..., :50358], teacher_p[..., 50359:]], -1)[mask], -1)
    ce = -(0.9 * student_p.gather(1, asked[mask][:, None]).mean() + 0.1 * student_p.mean())
    kd = (teacher_p.exp() * (teacher_p - student_p)).sum(-1).mean()
    for kept in (None, tmp_path / "cache", tmp_path / "cache"):
        again = student(base, "ca", **CALM)
        teacher = Teacher.from_pretrained(folder, student=again, student_processor=processor)
        teacher = teacher if kept is None else CachedTeacher(teacher, kept, k=51865)
        out = tmp_path / f"out-{kept is None}"
        trainer = trained(
            again, out, processor, rows, teacher=teacher, distillation="kl", per_device_train_batch_size=2
        )
        assert logged(trainer)["loss_ce"] == pytest.approx(ce.item(), rel=1e-4)
        assert logged(trainer)["loss_kd"] == pytest.approx(kd.item(), rel=1e-3)
        assert logged(trainer)["gate_decoder_ca"] > 0
    assert (teacher.asked, teacher.found) == (0, 2)
    # What was said before is a part of the question.
    rows.rows[1]["previous"] = (*EARLIER[:-1], 303)
    batch = SpeechCollator(labels)([rows[0], rows[1]])
    trainer.ask_teacher(batch)
    assert (teacher.asked, teacher.found) == (1, 3)


class RowsWithAnchors(Rows):
    """As `Rows`; the second of each three only holds its expert to Whisper."""

    def __init__(self, count: int, **options) -> None:
        super().__init__(count, **options)
        for row in self.rows[1::3]:
            row["anchor"] = True


def test_anchors_hold_an_expert_to_whisper(base, processor, tmp_path):
    """Silent: what Whisper said of an anchor taken for its transcript, a teacher that is asked about it, a budget that
    counts its gates, a divergence from the expert's own words, or one that is averaged over other rows."""
    folder = save_whisper(tmp_path / "teacher", 1)
    model = student(base, "ca", **CALM)
    rows = RowsWithAnchors(3)
    batch = SpeechCollator(LabelBuilder(processor.tokenizer))([rows[i] for i in range(3)])
    assert batch["anchors"].tolist() == [False, True, False]
    features, labels, own = batch["input_features"], batch["labels"], [0, 2]
    mask = labels != -100
    targets = mask.sum()
    plain = WhisperForConditionalGeneration.from_pretrained(base)
    teacher_model = WhisperForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        model.train()
        out = model(features, labels=labels, output_gate_values=True)
        said = log_softmax(out.logits, -1)
        ce = sum(
            -(0.9 * said[row][mask[row]].gather(1, labels[row][mask[row]][:, None]).sum()
              + 0.1 * said[row][mask[row]].mean(-1).sum())
            for row in own
        ) / targets  # fmt: skip
        taught = log_softmax(teacher_model(features, labels=labels).logits, -1)
        kd = sum((taught[row] - said[row])[mask[row]].mul(taught[row][mask[row]].exp()).sum() for row in own) / targets
        whisper = log_softmax(plain(features, labels=labels).logits, -1)[1][mask[1]]
        held = (whisper.exp() * (whisper - said[1][mask[1]])).sum() / targets
    gates = torch.cat(
        [torch.stack(side)[:, own].flatten() for side in (out.encoder_gate_values, out.decoder_gate_values)]
    )
    budget = abs(gates.mean() - 0.5)
    teacher = Teacher(teacher_model, tiny_processor(), student=model, student_processor=processor)
    asked = []
    teacher_model.register_forward_pre_hook(lambda module, args, kwargs: asked.append(len(args[0])), with_kwargs=True)
    trainer = trained(
        model, tmp_path / "out", processor, rows, teacher=teacher, per_device_train_batch_size=3, distillation="kl",
        distillation_weight=2.0, anchor_weight=3.0,
    )  # fmt: skip
    log = logged(trainer)
    assert log["loss_ce"] == pytest.approx(ce.item(), rel=1e-4)
    assert log["loss_kd"] == pytest.approx(kd.item(), rel=1e-3)
    assert log["loss_anchor"] == pytest.approx(held.item(), rel=1e-3) and held > 1e-4
    assert log["loss_gate"] == pytest.approx(budget.item(), rel=1e-3)
    assert log["loss"] == pytest.approx((ce + 2.0 * kd + 3.0 * held + budget).item(), rel=1e-4)
    assert asked == [2]


def test_a_batch_of_anchors_alone_trains_on(base, processor, tmp_path):
    """Silent: a run that ends in the middle because chance drew a batch without a transcript."""
    model = student(base, "ca", **CALM)
    rows = Rows(2)
    for row in rows.rows:
        row["anchor"] = True
    before = experts_of(model)
    log = logged(trained(model, tmp_path / "out", processor, rows, max_steps=2))
    assert log["loss_ce"] == 0.0 and log["loss_gate"] == 0.0 and log["loss_anchor"] > 0.0
    assert any(not torch.equal(before[name], tensor) for name, tensor in experts_of(model).items())


def test_the_base_teaches_as_a_whisper_of_its_own_would(base, processor):
    """Silent: a teacher that takes the student's experts, or leaves the student in evaluation mode."""
    model = student(base, "ca").train()
    batch = SpeechCollator(LabelBuilder(processor.tokenizer))([Rows(2)[0], Rows(2)[1]])
    logits = BaseTeacher(model)(batch["input_features"], batch["labels"])
    plain = WhisperForConditionalGeneration.from_pretrained(base)
    with torch.no_grad():
        expected = plain(batch["input_features"], labels=batch["labels"]).logits
    torch.testing.assert_close(logits, expected)
    assert model.training and not logits.requires_grad


def test_a_teacher_in_lower_precision_leaves_the_student_alone(base, processor, tmp_path, monkeypatch):
    """Silent: a student cast along with its teacher, or a teacher that is not cast."""
    folder = save_whisper(tmp_path / "teacher", 1)
    tiny_processor().save_pretrained(folder)
    model = student(base, "ca")
    options = {"student": model, "student_processor": processor, "precision": "bfloat16"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    assert Teacher.from_pretrained(folder, **options).model.dtype == torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    teacher = Teacher.from_pretrained(folder, **options)
    assert (teacher.model.dtype, model.dtype) == (torch.bfloat16, torch.float32)
    trainer = trained(model, tmp_path / "out", processor, Rows(2), teacher=teacher, distillation="js", bf16=True)
    assert logged(trainer)["loss_kd"] > 0


def test_an_int8_teacher_says_nearly_what_the_whole_one_does(base, processor):
    """Silent: a quantised teacher that answers noise."""
    pytest.importorskip("bitsandbytes")
    model = student(base, "ca")
    batch = SpeechCollator(LabelBuilder(processor.tokenizer))([Rows(2)[0], Rows(2)[1]])
    processor.save_pretrained(base)
    answers = [
        Teacher.from_pretrained(base, student=model, student_processor=processor, precision=precision)(
            batch["input_features"], batch["labels"]
        ).float()
        for precision in ("float32", "int8")
    ]
    spread = answers[0].std()
    assert 0 < (answers[0] - answers[1]).abs().mean() < 0.1 * spread


def test_teachers_that_cannot_teach_are_refused(base, processor, tmp_path):
    """Silent: a run that fails after an hour of loading, or learns from logits of other tokens."""
    model = student(base, "ca")
    wrong = WhisperForConditionalGeneration.from_pretrained(
        save_whisper(tmp_path / "short", 1, max_target_positions=40)
    )
    with pytest.raises(ValueError, match="max_target_positions must be at least the student's 448, got 40"):
        Teacher(wrong, processor, student=model, student_processor=processor)
    wrong = WhisperForConditionalGeneration.from_pretrained(save_whisper(tmp_path / "mel", 1, num_mel_bins=128))
    with pytest.raises(ValueError, match="The teacher hears 128 mel bins and its feature extractor makes 80"):
        Teacher(wrong, processor, student=model, student_processor=processor)
    wrong = WhisperForConditionalGeneration.from_pretrained(save_whisper(tmp_path / "en", 1, vocab_size=51864))
    with pytest.raises(ValueError, match="51864 outputs"):
        Teacher(wrong, processor, student=model, student_processor=processor)
    with pytest.raises(ValueError, match="precision must be one of"):
        Teacher.from_pretrained(base, student=model, student_processor=processor, precision="int4")


def test_a_teacher_that_is_missing_or_unused_is_refused(base, processor, tmp_path):
    """Silent: CLSR fine-tuning that calls itself distillation, or a teacher paid for and ignored."""
    model = student(base, "ca")
    with pytest.raises(ValueError, match="got no teacher with distillation 'js'"):
        DistilWhisperTrainer(model, arguments(tmp_path, distillation="js"), processing_class=processor)
    with pytest.raises(ValueError, match="got the teacher base with distillation 'none'"):
        DistilWhisperTrainer(model, arguments(tmp_path), processing_class=processor, teacher=BaseTeacher(model))
    with pytest.raises(ValueError, match=r"Expected experts of the model \(ca\), got 'gl'"):
        DistilWhisperTrainer(model, arguments(tmp_path), processing_class=processor, train_experts=["gl"])
    with pytest.raises(ValueError, match="processing_class must be the model's WhisperProcessor"):
        DistilWhisperTrainer(model, arguments(tmp_path), processing_class=processor.tokenizer)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"distillation": "l2"}, "distillation must be one of none, kl, js"),
        ({"gate_budget_mode": "both"}, "gate_budget_mode must be one of joint, separate"),
        ({"gate_budget": 1.5}, "gate_budget must be between 0 and 1"),
        ({"expert_interpolation": 1.5}, "expert_interpolation must be between 0 and 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"gate_noise": -1.0}, "gate_noise must be at least 0"),
        ({"skip_gate_probability": 1.0}, "skip_gate_probability must be at least 0 and below 1"),
        ({"label_smoothing_factor": 1.0}, "label_smoothing_factor must be at least 0 and below 1"),
        ({"remove_unused_columns": True}, "remove_unused_columns must be false"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, wrong, message):
    """Silent: a misspelt choice that trains something else."""
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **wrong)


def test_defaults_are_the_paper_s(tmp_path):
    """Silent: a changed default that makes every comparison with the paper false."""
    args = DistilWhisperTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    expected = {
        "learning_rate": 1e-4, "num_train_epochs": 10, "per_device_train_batch_size": 16, "warmup_steps": 0.1,
        "adam_beta2": 0.98, "weight_decay": 0.0, "label_smoothing_factor": 0.1, "distillation": "js",
        "distillation_weight": 2.0, "temperature": 1.0, "gate_budget": 0.5, "gate_budget_mode": "joint",
        "gate_budget_counts_padding": True, "gate_noise": 5.0, "lr_scheduler_type": "linear",
        "expert_interpolation": 1.0,
    }  # fmt: skip
    assert {name: getattr(args, name) for name in expected} == expected


def test_skipping_is_set_for_one_run(base, processor, tmp_path):
    """Silent: a model that keeps skipping layers after another run's setting."""
    model = student(base, "ca")
    trainer = trained(model, tmp_path, processor, Rows(2), skip_gate_probability=0.75)
    assert model.model.encoder.layers[0].language_experts.skip_probability == 0.2
    assert trainer.args.skip_gate_probability == 0.75
