"""What makes training faster or smaller: bfloat16, gradient checkpointing, compilation. The loss must be the same."""

from __future__ import annotations

import pytest
import torch
from models import randomize_expert, save_whisper
from speech_rows import Rows
from tiny import tiny_processor
from torch._dynamo.utils import counters

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.training.arguments import DistilWhisperTrainingArguments
from distil_whisper_hf.training.teacher import BaseTeacher
from distil_whisper_hf.training.trainer import DistilWhisperTrainer

# Forms of an expert.
FORMS = {"full": {}, "compact": {"rank": 3}, "adapted attention": {"rank": 3, "targets": "all"},
         "encoder alone": {"sides": "encoder"}}  # fmt: skip


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_whisper(tmp_path_factory.mktemp("base"), encoder_layers=1, decoder_layers=2)


def run(base, processor, folder, form: str, *, draws: bool = True, **changes) -> tuple[list[dict], dict]:
    """What three steps log, and how far they took the weights of two experts; dropout, noise and skips on or off."""
    options = {} if draws else {"expert_dropout": 0.0, "gate_dropout": 0.0}
    model = DistilWhisperForConditionalGeneration.from_pretrained(base, **options)
    for seed, name in enumerate(("ca", "gl")):
        model.add_expert(name, **FORMS[form])
        randomize_expert(model, name, seed)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    settings = {
        "output_dir": str(folder), "max_steps": 3, "per_device_train_batch_size": 2, "use_cpu": True,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "distillation": "js", "disable_tqdm": True,
        "optim": "sgd", "learning_rate": 0.1, "warmup_steps": 0,
        "gate_noise": 2.0 if draws else 0.0, "skip_gate_probability": 0.2 if draws else 0.0,
    }  # fmt: skip
    trainer = DistilWhisperTrainer(
        model, DistilWhisperTrainingArguments(**settings | changes), processing_class=processor,
        teacher=BaseTeacher(model), train_dataset=Rows(4, ("ca", "gl")),
    )  # fmt: skip
    torch.manual_seed(5)
    trainer.train()
    moved = {key: value - before[key] for key, value in model.state_dict().items()}
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in moved.values())
    assert not any(value.any() for key, value in moved.items() if ".language_experts." not in key)
    return [entry for entry in trainer.state.log_history if "loss" in entry], moved


def largest(moved: dict) -> float:
    return max(value.abs().max().item() for value in moved.values())


@pytest.mark.parametrize("form", FORMS)
def test_checkpointed_activations_change_nothing(base, processor, tmp_path, form):
    """Silent: other noise, dropout or skips in the second forward pass, or factors of a compact expert cut off."""
    (plain, weights), (lean, lean_weights) = (
        run(base, processor, tmp_path / str(on), form, gradient_checkpointing=on) for on in (False, True)
    )
    for one, other in zip(plain, lean, strict=True):
        assert other == {key: pytest.approx(value, rel=1e-4, abs=1e-6) for key, value in one.items()}
    assert largest(weights) > 1e-4
    for key, value in weights.items():
        torch.testing.assert_close(lean_weights[key], value, rtol=1e-3, atol=1e-6, msg=key)


@pytest.mark.parametrize("form", ["full", "compact", "adapted attention"])
def test_bfloat16_is_near_float32(base, processor, tmp_path, form, monkeypatch):
    """Silent: a loss that is nan or computed in bfloat16, gates that round to another decision at every token."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    calm = {"draws": False, "gradient_checkpointing": True}
    (exact, weights), (rough, rough_weights) = (
        run(base, processor, tmp_path / str(on), form, bf16=on, **calm) for on in (False, True)
    )
    for one, other in zip(exact, rough, strict=True):
        for name in ("loss", "loss_ce", "loss_gate"):
            assert other[name] == pytest.approx(one[name], rel=0.02, abs=0.01), name
    assert largest(weights) > 1e-4
    norm = sum(value.square().sum() for value in weights.values()).sqrt()
    away = sum((rough_weights[key] - value).square().sum() for key, value in weights.items()).sqrt()
    assert 0 < away < 0.2 * norm


@pytest.mark.slow
@pytest.mark.parametrize(("form", "checkpointing"), [("full", False), ("compact", True)])
def test_a_compiled_step_is_the_same_step(base, processor, tmp_path, form, checkpointing):
    """Silent: gates without a gradient, a step computed for the routing of the first batch, a graph for every layer."""
    # A compiled step draws other numbers.
    calm = {"draws": False, "gradient_checkpointing": checkpointing}
    plain, weights = run(base, processor, tmp_path / "eager", form, **calm)
    torch._dynamo.reset()
    counters.clear()
    # Traced and differentiated as on a GPU; what inductor makes of it takes minutes on a CPU.
    compiled, compiled_weights = run(
        base, processor, tmp_path / "compiled", form, torch_compile=True, torch_compile_backend="aot_eager", **calm
    )
    torch._dynamo.reset()
    assert counters["stats"]["unique_graphs"] >= 1
    for one, other in zip(plain, compiled, strict=True):
        assert other == {key: pytest.approx(value, rel=1e-3, abs=1e-5) for key, value in one.items()}
    assert largest(weights) > 1e-4
    for key, value in weights.items():
        torch.testing.assert_close(compiled_weights[key], value, rtol=0.01, atol=1e-5, msg=key)
