"""Configuration of a Whisper with language experts."""

import copy
import os
import re
from dataclasses import field, fields
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import GenerationConfig, WhisperConfig

from .languages import WHISPER_LANGUAGES
from .original_release import our_config

# 99 languages; large-v3 and turbo have <|yue|> as their hundredth, and one token more.
MULTILINGUAL_VOCABULARY_SIZES = {51865: 99, 51866: 100}
# What an expert's entry may say under `sides` -> the stacks whose layers it has a network and gate in.
EXPERT_SIDES = {"both": ("encoder", "decoder"), "encoder": ("encoder",), "decoder": ("decoder",)}
EXPERT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@strict
class DistilWhisperConfig(WhisperConfig):
    """A Whisper configuration plus what rebuilds the experts. Defaults are those of arXiv 2311.01070.

    Attributes:
        language_experts: expert name -> its entry: `language` (Whisper's code, or None), `language_token_id` (or None)
            and, once trained, a `training` summary; `sides` ("encoder" or "decoder") where it is not in both. An expert
            whose name is its language's code is taken by rows whose decoder prompt carries that language's token; any
            other only where it is asked for by name.
        gate_dim: width of the gate's hidden layer.
        gate_dropout: dropout on the gate's input, in [0, 1).
        gate_init_std: standard deviation of the gate's first layer at the start.
        expert_dropout: dropout on the expert's output, in [0, 1).
        skip_gate_probability: probability, per layer call in training, that the shared path alone is used; in [0, 1).
        gate_estimator: the gate in training. "soft" is the paper's σ(G + α·n), which a long run with rising noise makes
            nearly hard; "straight_through" is hard as in evaluation, 1[G + α·n ≥ 0], with the gradient of the soft one,
            so that a short run trains what evaluation uses.
        expert_routing: "gather" computes each path on the tokens that take it; "dense" computes every loaded expert on
            every token and selects by masks: the same numbers, for `torch.compile` and export.
        translate_token_id: id of `<|translate|>`; rows that carry it take the shared path. None: as in the vocabulary.
        base_model_name_or_path: the plain Whisper that the shared path is. A folder or repository without weights of
            its own takes them from there.
    """

    model_type = "distilwhisper"

    language_experts: dict[str, dict[str, Any]] = field(default_factory=dict)
    gate_dim: int = 64
    gate_dropout: float | int = 0.1
    gate_init_std: float = 0.01
    expert_dropout: float | int = 0.3
    skip_gate_probability: float | int = 0.2
    gate_estimator: Literal["soft", "straight_through"] = "soft"
    expert_routing: Literal["gather", "dense"] = "gather"
    translate_token_id: int | None = None
    base_model_name_or_path: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.language_experts = {
            check_expert_name(name): copy.deepcopy(entry) for name, entry in self.language_experts.items()
        }
        for entry in self.language_experts.values():
            check_sides(entry.get("sides", "both"))
        for name in ("gate_dropout", "expert_dropout", "skip_gate_probability"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"Expected `{name}` in [0, 1), got {getattr(self, name)}.")
        if self.gate_dim < 1:
            raise ValueError(f"Expected `gate_dim` of at least 1, got {self.gate_dim}.")
        if self.translate_token_id is None:
            self.translate_token_id = self.task_token_ids.get("translate")
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Also reads plain Whisper configurations and those of the original release."""
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if config_dict.get("model_type") == "whisper":
            config_dict = {
                **config_dict,
                "model_type": cls.model_type,
                "base_model_name_or_path": str(pretrained_model_name_or_path),
            }
        return _without_generation_parameters(cls, our_config(config_dict)), kwargs

    @property
    def language_token_ids(self) -> dict[str, int]:
        """Language code -> token id in a multilingual Whisper vocabulary; empty for any other vocabulary."""
        count = MULTILINGUAL_VOCABULARY_SIZES.get(self.vocab_size, 0)
        return {code: self.decoder_start_token_id + 1 + i for i, code in enumerate(list(WHISPER_LANGUAGES)[:count])}

    @property
    def task_token_ids(self) -> dict[str, int]:
        """Task -> token id in a multilingual Whisper vocabulary; empty for any other vocabulary."""
        count = MULTILINGUAL_VOCABULARY_SIZES.get(self.vocab_size)
        if count is None:
            return {}
        first = self.decoder_start_token_id + 1 + count
        return {"translate": first, "transcribe": first + 1}

    def expert_sides(self, name: str) -> tuple[str, ...]:
        """The stacks that an expert has layers in: "encoder", "decoder" or both."""
        return EXPERT_SIDES[check_sides(self.language_experts[name].get("sides", "both"))]

    @property
    def routed_tokens(self) -> dict[int, int]:
        """Id of a language token -> index of the expert that its rows take."""
        return {
            entry["language_token_id"]: index
            for index, (name, entry) in enumerate(self.language_experts.items())
            if entry.get("language_token_id") is not None and entry.get("language") == name
        }


def check_expert_name(name: str) -> str:
    """Return `name` if it can name an expert: a file, a module and a Hub file are called after it."""
    if not isinstance(name, str) or not EXPERT_NAME.fullmatch(name):
        raise ValueError(
            f"Expected an expert name of 1 to 64 letters, digits, '-' and '_', beginning with a letter or digit, "
            f"got {name!r}. Use the language's code ('ca') or a short domain name ('ca-medical')."
        )
    if name == "shared" or hasattr(nn.ModuleDict(), name):
        raise ValueError(
            f"Expected an expert name that torch does not use itself, got {name!r}. Choose another ({name}-1, say)."
        )
    return name


def check_sides(sides: str) -> str:
    """Return `sides` if it says where an expert's layers can be: a key of `EXPERT_SIDES`."""
    if not isinstance(sides, str) or sides not in EXPERT_SIDES:
        raise ValueError(f"Expected an expert's sides to be one of {', '.join(EXPERT_SIDES)}, got {sides!r}.")
    return sides


def _without_generation_parameters(cls: type, config_dict: dict[str, Any]) -> dict[str, Any]:
    """Old checkpoints keep `max_length` and the like in config.json, where transformers 5 refuses them."""
    kept = {f.name for f in fields(cls)}
    generation = set(GenerationConfig._get_default_generation_params())
    return {key: value for key, value in config_dict.items() if key in kept or key not in generation}
