"""Every name of transformers that is overridden or relied on beyond its public interface, on the installed version."""

import inspect

import pytest
import transformers
from transformers import GenerationMixin, Seq2SeqTrainer, Trainer, trainer
from transformers.models.whisper.modeling_whisper import WhisperDecoderLayer, WhisperEncoderLayer

from distil_whisper_hf import (
    DistilWhisperASRPipeline,
    DistilWhisperConfig,
    DistilWhisperForConditionalGeneration,
    DistilWhisperModel,
    transformers_contract,
)
from distil_whisper_hf.layers_distil_whisper import DistilWhisperDecoderLayer, DistilWhisperEncoderLayer
from distil_whisper_hf.modeling_distil_whisper import DistilWhisperDecoder, DistilWhisperEncoder
from distil_whisper_hf.tokenization_distil_whisper import DistilWhisperTokenizer
from distil_whisper_hf.training.trainer import DistilWhisperTrainer

# The trainer's, which is no part of what every model needs.
TRAINER_NAMES = {
    Trainer: (
        "_get_eval_sampler",
        "_get_output_dir",
        "_get_train_sampler",
        "_load_best_model",
        "_load_from_checkpoint",
        "_load_rng_state",
        "_push_from_checkpoint",
        "_save",
        "_save_checkpoint",
        "_save_rng_state",
        "compute_loss",
        "compute_loss_context_manager",
        "create_model_card",
        "get_batch_samples",
        "init_hf_repo",
        "log",
        "push_to_hub",
    ),
    Seq2SeqTrainer: ("prediction_step",),
    trainer: ("DEFAULT_CALLBACKS", "TRAINER_STATE_NAME", "TRAINING_ARGS_NAME"),
}
# Class attributes that transformers reads from a model class.
DECLARED = {"_can_record_outputs", "_keys_to_ignore_on_load_unexpected", "_no_split_modules"}
OURS = (
    DistilWhisperASRPipeline,
    DistilWhisperConfig,
    DistilWhisperDecoder,
    DistilWhisperDecoderLayer,
    DistilWhisperEncoder,
    DistilWhisperEncoderLayer,
    DistilWhisperForConditionalGeneration,
    DistilWhisperModel,
    DistilWhisperTokenizer,
    DistilWhisperTrainer,
)


def overridden(cls) -> set[str]:
    """Private names that a class of ours, or a mixin of it, defines over one of transformers."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith("distil_whisper_hf")]
    theirs = [base for base in cls.__mro__ if base.__module__.startswith("transformers")]
    private = {name for base in ours for name in vars(base) if name.startswith("_") and not name.startswith("__")}
    return {name for name in private if any(name in vars(base) for base in theirs)}


@pytest.mark.parametrize("cls", OURS)
def test_what_is_overridden_is_listed(cls):
    """Silent: a private method that we override and transformers drops, so that ours is never called again."""
    listed = {name for _, names in transformers_contract.NAMES for name in names} | DECLARED
    listed |= {name for names in TRAINER_NAMES.values() for name in names}
    # Python's own, and what transformers notes on a class as it goes.
    noted = {"_abc_impl", "_auto_class"} | {name for name in overridden(cls) if name.endswith("_cached_value")}
    assert overridden(cls) - noted <= listed


@pytest.mark.parametrize(("owner", "names"), TRAINER_NAMES.items())
def test_the_trainer_has_what_is_overridden(owner, names):
    """Silent: the same, for the trainer."""
    assert [name for name in names if not hasattr(owner, name)] == []


def test_the_installed_version_has_every_name():
    """Silent: a name that is listed and was never there."""
    transformers_contract.check_transformers()


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (GenerationMixin._prepare_model_inputs, ["self", "inputs", "bos_token_id", "model_kwargs"]),
        (
            GenerationMixin._prepare_decoder_input_ids_for_generation,
            ["self", "batch_size", "model_input_name", "model_kwargs", "decoder_start_token_id", "device"],
        ),
        (WhisperEncoderLayer.forward, ["self", "hidden_states", "attention_mask"]),
        (
            WhisperDecoderLayer.forward,
            ["self", "hidden_states", "attention_mask", "encoder_hidden_states", "encoder_attention_mask",
             transformers_contract.CACHE_NAME, "use_cache"],
        ),
        (Trainer._save_checkpoint, ["self", "model", "trial"]),
        (Trainer.compute_loss, ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]),
    ],
)  # fmt: skip
def test_overridden_methods_take_what_ours_take(function, parameters):
    """Silent: an argument that transformers passes on and ours swallows, or one that it no longer passes."""
    found = [name for name, one in inspect.signature(function).parameters.items() if one.kind is not one.VAR_KEYWORD]
    assert found == parameters


def test_whisper_calls_the_hook_before_its_encoder():
    """Silent: experts chosen by name that are read from the prompt after the encoder has run."""
    source = inspect.getsource(GenerationMixin.generate)
    encoder = max(source.find(name) for name in ("_maybe_prepare_encoder_kwargs", "_prepare_encoder_decoder_kwargs"))
    assert 0 < source.index("self._prepare_model_inputs(") < encoder


@pytest.mark.parametrize("version", ["5.16.1", "6.0.0"])
def test_another_version_is_named_at_import(monkeypatch, version):
    """Silent: a version that nobody tried, and an error out of the middle of a run."""
    monkeypatch.setattr(transformers, "__version__", version)
    parts = tuple(int(part) for part in version.split(".")[:2])
    monkeypatch.setattr(transformers_contract, "TRANSFORMERS_VERSION", parts)
    with pytest.raises(ImportError, match=rf"Expected transformers>=5.17,<6 .* found {version}.*pip install"):
        transformers_contract.check_transformers()


def test_a_missing_name_is_named_at_import(monkeypatch):
    """Silent: a method that is gone, and with it the experts of every row."""
    monkeypatch.setattr(transformers_contract, "NAMES", ((GenerationMixin, ("_prepare_model_inputs", "_gone")),))
    message = rf"Expected GenerationMixin._gone in transformers, {transformers.__version__} has none"
    with pytest.raises(ImportError, match=message):
        transformers_contract.check_transformers()
