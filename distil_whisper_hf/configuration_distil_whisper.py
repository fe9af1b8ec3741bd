"""Configuration of a Whisper with language experts."""

import copy
import os
import re
from dataclasses import field, fields
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import GenerationConfig, WhisperConfig
from transformers.activations import ACT2FN
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME

from .expert_form import ExpertForm
from .languages import WHISPER_LANGUAGES
from .original_release import our_config
from .untrusted_files import HUB_ARGUMENTS, ExpertFileError, MissingExpertError, read_json, stored_file

# Id of <|startoftranscript|> in Whisper's vocabularies, English-only and multilingual -> how many tokens they have.
ENGLISH_ONLY_START, MULTILINGUAL_START = 50257, 50258
VOCABULARY_SIZES = {ENGLISH_ONLY_START: 51864, MULTILINGUAL_START: 51865}
# Far more than anybody has; each takes memory in every layer.
MAX_EXPERTS = MAX_LAYERS = 1000
EXPERT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# The shared path, and what a layer's container of experts calls its own attributes.
RESERVED_NAMES = {
    "shared",
    "is_replica",
    "layer",
    "layer_name",
    "networks",
    "skip_probability",
    "straight_through",
}


@strict
class DistilWhisperConfig(WhisperConfig):
    """A Whisper configuration plus what rebuilds the experts. Defaults are those of arXiv 2311.01070.

    Attributes:
        language_experts: expert name -> its entry: `language` (Whisper's code, or None), `language_token_id` (or None)
            and, once trained, a `training` summary; what it is made of, where that is not a whole feed-forward network
            in both stacks (see `ExpertForm`). An expert whose name is its language's code is taken by rows whose
            decoder prompt carries that language's token; any other only where it is asked for by name.
        gate_dim: width of the gate's hidden layer.
        gate_dropout: dropout on the gate's input, in [0, 1).
        gate_init_std: standard deviation of the gate's first layer at the start.
        expert_dropout: dropout on the expert's output, in [0, 1).
        skip_gate_probability: probability, per layer call in training, that the shared path alone is used; in [0, 1).
        gate_estimator: the gate in training. "soft" is the paper's σ(G + α·n), which a long run with rising noise makes
            nearly hard; "straight_through" is hard as in evaluation, 1[G + α·n ≥ 0], with the gradient of the soft one,
            so that a short run trains what evaluation uses.
        expert_routing: how full experts are computed. "gather": each path on the tokens that take it; "dense": all
            paths on every token, selected by masks: the same numbers, for `torch.compile` and export; "auto": gathered
            on a CPU and for many tokens, else dense. Compact experts have one form for all.
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
    expert_routing: Literal["auto", "gather", "dense"] = "auto"
    translate_token_id: int | None = None
    base_model_name_or_path: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.language_experts = copy.deepcopy(check_experts(self.language_experts))
        for name in self.language_experts:
            self.expert_form(name)
        for name in ("encoder_layers", "decoder_layers"):
            if not 0 <= getattr(self, name) <= MAX_LAYERS:
                raise ValueError(f"Expected `{name}` from 0 to {MAX_LAYERS}, got {getattr(self, name)}.")
        for name in ("gate_dropout", "expert_dropout", "skip_gate_probability"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"Expected `{name}` in [0, 1), got {getattr(self, name)}.")
        if self.gate_dim < 1:
            raise ValueError(f"Expected `gate_dim` of at least 1, got {self.gate_dim}.")
        if self.activation_function not in ACT2FN:
            raise ValueError(f"Expected an activation function of transformers, got {self.activation_function!r}.")
        for heads in (self.encoder_attention_heads, self.decoder_attention_heads):
            if heads < 1 or self.d_model % heads:
                raise ValueError(f"Expected attention heads that divide `d_model` {self.d_model}, got {heads}.")
        if self.translate_token_id is None:
            self.translate_token_id = self.task_token_ids.get("translate")
        super().__post_init__(**kwargs)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # what is handed on stays in **kwargs
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> Any:
        """As for every configuration of transformers.

        Raises:
            ExpertFileError: no such folder or repository, a damaged file, or values that no configuration can have.
        """
        source = pretrained_model_name_or_path
        hub = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
        for filename in (CONFIG_NAME, GENERATION_CONFIG_NAME):
            path = stored_file(source, filename, **hub)
            if path is not None:
                read_json(path)
            elif filename == CONFIG_NAME and os.path.isdir(source):
                raise MissingExpertError(f"Expected a model in {str(source)!r}, the folder has no {filename}.")
        try:
            return super().from_pretrained(source, **kwargs)
        except OSError as error:
            raise MissingExpertError(f"Expected a configuration in {str(source)!r}: {error}") from error
        except (ArithmeticError, AttributeError, LookupError, StrictDataclassError, TypeError, ValueError) as error:
            raise ExpertFileError(f"{source}: expected a configuration of Whisper, got another: {error}") from error

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
    def special_token_ids(self) -> dict[str, int]:
        """Special token -> id in Whisper's vocabularies, also with tokens added behind; empty for any other vocabulary.

        Times are left out: <|0.00|> to <|30.00|> follow <|notimestamps|>.
        """
        start = self.decoder_start_token_id
        if start not in VOCABULARY_SIZES or self.vocab_size < VOCABULARY_SIZES[start]:
            return {}
        # 99 languages; large-v3 and turbo, which hear more finely, have <|yue|> as their hundredth.
        languages = list(WHISPER_LANGUAGES)
        if self.num_mel_bins != 128 or self.vocab_size == VOCABULARY_SIZES[start]:
            languages.remove("yue")
        tasks = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
        names = ("endoftext", "startoftranscript", *languages, *tasks)
        return {f"<|{name}|>": start - 1 + index for index, name in enumerate(names)}

    @property
    def language_token_ids(self) -> dict[str, int]:
        """Language code -> token id in a multilingual Whisper vocabulary; empty for any other vocabulary."""
        if self.decoder_start_token_id != MULTILINGUAL_START:
            return {}
        ids = self.special_token_ids
        return {code: ids[f"<|{code}|>"] for code in WHISPER_LANGUAGES if f"<|{code}|>" in ids}

    @property
    def task_token_ids(self) -> dict[str, int]:
        """Task -> token id in a multilingual Whisper vocabulary; empty for any other vocabulary."""
        if not self.language_token_ids:
            return {}
        return {task: self.special_token_ids[f"<|{task}|>"] for task in ("translate", "transcribe")}

    def expert_form(self, name: str) -> ExpertForm:
        """What an expert is made of.

        Raises:
            KeyError: no such expert.
            ValueError: an entry that says something else than it may.
        """
        return self.check_form(ExpertForm.from_entry(self.language_experts[name]))

    def check_form(self, form: ExpertForm) -> ExpertForm:
        """Return `form` if an expert of this model can have it: a rank is at most the width of the model."""
        ranks = [form.rank_of(side) for side in form.stacks]
        if any(rank is not None and rank > self.d_model for rank in ranks):
            raise ValueError(f"Expected a rank from 1 to {self.d_model}, the width of the model, got {form.rank!r}.")
        return form

    def expert_sides(self, name: str) -> tuple[str, ...]:
        """The stacks that an expert has layers in: "encoder", "decoder" or both."""
        return self.expert_form(name).stacks


def check_expert_name(name: str) -> str:
    """Return `name` if it can name an expert: a file, a module and a Hub file are called after it."""
    if not isinstance(name, str) or not EXPERT_NAME.fullmatch(name):
        raise ValueError(
            f"Expected an expert name of 1 to 64 letters, digits, '-' and '_', beginning with a letter or digit, "
            f"got {name!r}. Use the language's code ('ca') or a short domain name ('ca-medical')."
        )
    if name in RESERVED_NAMES or hasattr(nn.ModuleDict(), name):
        raise ValueError(
            f"Expected an expert name that the model does not use itself, got {name!r}. Choose another ({name}-1, say)."
        )
    return name


def check_experts(experts: Any) -> dict[str, dict[str, Any]]:
    """Return `experts` if it can be the `language_experts` of a configuration, in number, names and kinds of values."""
    if not isinstance(experts, dict) or not all(isinstance(entry, dict) for entry in experts.values()):
        raise ValueError("Expected `language_experts` as a mapping from names to what is known of each, got another.")
    if len(experts) > MAX_EXPERTS:
        raise ValueError(f"Expected at most {MAX_EXPERTS} experts, got {len(experts)}. List those that are used.")
    for name, entry in experts.items():
        check_expert_name(name)
        ExpertForm.from_entry(entry)
        language, token_id, training = (entry.get(key) for key in ("language", "language_token_id", "training"))
        if token_id is not None and (type(token_id) is not int or token_id < 0):
            raise ValueError(f"Expected the id of a language's token for expert {name!r}, got {token_id!r}.")
        if training is not None and not isinstance(training, dict):
            raise ValueError(f"Expected a mapping as the training record of expert {name!r}, got {training!r}.")
        # Other vocabularies have tokens of their own for other languages.
        known = isinstance(language, str) and (language in WHISPER_LANGUAGES or token_id is not None)
        if language is not None and not known:
            raise ValueError(f"Expected Whisper's code of a language for expert {name!r}, got {language!r}.")
    return experts


def _without_generation_parameters(cls: type, config_dict: dict[str, Any]) -> dict[str, Any]:
    """Old checkpoints keep `max_length` and the like in config.json, where transformers 5 refuses them."""
    kept = {f.name for f in fields(cls)}
    generation = set(GenerationConfig._get_default_generation_params())
    return {key: value for key, value in config_dict.items() if key in kept or key not in generation}
