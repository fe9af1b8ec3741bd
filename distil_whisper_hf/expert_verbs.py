"""What one does with experts: add, load, save, interpolate, remove, push, and let them train."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import CommitInfo

from .checkpoints import ExpertFile, check_base, fingerprint_base, read_expert, write_expert
from .configuration_distil_whisper import EXPERT_SIDES, check_expert_name, check_sides
from .languages import WHISPER_LANGUAGES, language_code, token_language

if TYPE_CHECKING:
    from transformers.models.whisper.modeling_whisper import WhisperPreTrainedModel as _Model

    from .configuration_distil_whisper import DistilWhisperConfig
    from .language_experts import LanguageExpert
    from .layers_distil_whisper import ExpertLayer
else:
    _Model = object

# What stands for plain Whisper where an expert is named.
SHARED = "shared"


def is_expert_key(key: str) -> bool:
    """Whether a state-dict key belongs to an expert (the others are plain Whisper's)."""
    return ".language_experts." in key


def _pushing() -> tuple[Any, Any, Any]:
    """What pushes experts, what pushes models, and their options."""
    # By its absolute name and in a `try`: remote code is copied with what it imports relatively, and what publishes is
    # no part of it.
    try:
        from distil_whisper_hf.publishing.push import PushOptions
        from distil_whisper_hf.publishing.release import push_experts, push_model
    except ImportError as error:
        raise ImportError(
            "Expected the package distil_whisper_hf, to push to the Hub: the code in a repository only opens models. "
            "Install the package."
        ) from error
    return push_experts, push_model, PushOptions


class ExpertVerbsMixin(_Model):
    """The verbs for experts, for every model class that holds a whole encoder and decoder."""

    if TYPE_CHECKING:
        config: DistilWhisperConfig

    @property
    def expert_names(self) -> tuple[str, ...]:
        """Names of the loaded experts; `expert_ids` are indices into it."""
        return tuple(self.config.language_experts)

    def expert_index(self, name: str) -> int:
        """Index of a loaded expert, as `expert_ids` have it; -1 for "shared", the shared path.

        Raises:
            KeyError: an expert that is not loaded.
        """
        if name == SHARED:
            return -1
        if name not in self.expert_names:
            raise KeyError(
                f"Expected a loaded expert, got {name!r}. Loaded: {', '.join(self.expert_names) or 'none'}. "
                f"Call model.load_expert({name!r}, ...) first."
            )
        return self.expert_names.index(name)

    def add_expert(self, name: str, language: str | None = None, *, sides: str = "both") -> None:
        """Add a new expert: a copy of the shared path in every layer, its gates at their start.

        Args:
            name: "ca" for the expert that all Catalan takes; another name ("ca-medical", "sc") for one that is taken
                only where `generate(expert=...)` or `expert_ids` ask for it.
            language: language whose token the expert is prompted with, by code or English name (see
                `languages.language_code`). Default: `name`, if it is Whisper's code of a language. For a language
                without a token, name a close one: its proxy.
            sides: "both", or "encoder" or "decoder" for an expert in the layers of that one alone, at about half the
                size; the other stays Whisper's.

        Raises:
            ValueError: a name that cannot be used, is loaded already, or is a language's but not Whisper's code of it;
                an unknown language, one that the vocabulary has no token for, or other sides.
        """
        self._check_new(name)
        code = self._language_of_name(name) if language is None else self._language_code(language)
        self._check_unquantized("Add and train experts on the unquantised base, then `load_expert` them.")
        new = {}
        for layer_name, layer in self._layers(EXPERT_SIDES[check_sides(sides)]):
            weight = layer.fc1.weight
            new[layer_name] = layer.new_expert(self.config).to(weight.device, weight.dtype).train(layer.training)
            new[layer_name].copy_feed_forward(layer.fc1, layer.fc2)
        entry = {} if sides == "both" else {"sides": sides}
        self._attach(name, new, {"language": code, **entry})

    def load_expert(self, name: str | Iterable[str], source: str | os.PathLike, **hub: Any) -> None:
        """Load experts from a folder, a Hub repository or a file: `expert.<name>.safetensors`, the original release's
        `expert.<language>.bin`, or a whole checkpoint. Everything is checked before the model is touched.

        Args:
            name: one expert, or several.
            source: folder, repository, or path of the file.
            hub: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`.

        Raises:
            ValueError: a name that cannot be used or is loaded already.
            FileNotFoundError: no such expert there.
            ExpertFileError: a damaged file, or an expert of another format, name, geometry or base.
        """
        names = [name] if isinstance(name, str) else list(name)
        for one in names:
            self._check_new(one)
        experts = [read_expert(one, source, self.config, **hub) for one in names]
        fingerprint = self.base_fingerprint()
        for expert in experts:
            check_base(expert, fingerprint, self.config.base_model_name_or_path)
        for expert in experts:
            layers = self._layers(EXPERT_SIDES[expert.sides])
            self._attach(
                expert.name, {key: self._loaded_expert(layer, key, expert) for key, layer in layers}, expert.entry
            )

    def save_expert(self, name: str, folder: str | os.PathLike) -> Path:
        """Write one expert as `expert.<name>.safetensors` into `folder` (made if needed); returns its path."""
        return write_expert(self.expert_file(name), folder, self.config)

    def expert_file(self, name: str) -> ExpertFile:
        """What `save_expert` writes: a loaded expert's tensors and what its file says about it."""
        self._check_loaded(name)
        prefixes = {f"{layer}.language_experts.{name}.": f"{layer}." for layer, _ in self.expert_layers(name)}
        state_dict = self.base_model.state_dict()
        tensors = {
            short + key.removeprefix(prefix): state_dict[key]
            for prefix, short in prefixes.items()
            for key in state_dict
            if key.startswith(prefix)
        }
        entry = self.config.language_experts[name]
        return ExpertFile(
            name,
            entry.get("language"),
            tensors,
            self.config.base_model_name_or_path,
            self.base_fingerprint(),
            entry.get("training", {}),
            entry.get("sides", "both"),
        )

    def remove_expert(self, name: str) -> None:
        """Forget an expert; the others stay as they are."""
        self._check_loaded(name)
        for _, layer in self.expert_layers(name):
            del layer.language_experts[name]
        del self.config.language_experts[name]

    def interpolate_expert(self, name: str, weight: float) -> None:
        """Take a trained expert part of the way back to the shared path that it started from, in place.

        Every feed-forward weight becomes `(1 - weight) · shared + weight · expert`; gates stay as they are. What was
        learned on little speech of one kind holds better elsewhere then, at some cost where it was learned
        (Wortsman et al., "Robust fine-tuning of zero-shot models", arXiv 2109.01903; our figures are in
        benchmarks/RESULTS.md). The weight is kept in the expert's record of its training.

        Args:
            weight: share of the expert, in [0, 1]: 1 leaves it as it is, 0 makes it the shared path.

        Raises:
            KeyError: no such expert.
            ValueError: a weight out of its range, or a quantised model.
        """
        self._check_loaded(name)
        if not 0.0 <= weight <= 1.0:
            raise ValueError(f"Expected a weight between 0 and 1, got {weight}.")
        self._check_unquantized("Interpolate on the unquantised base, save the expert, then `load_expert` it.")
        for _, layer in self.expert_layers(name):
            layer.language_experts[name].interpolate(layer.fc1, layer.fc2, weight)
        entry = self.config.language_experts[name]
        training = entry.get("training") or {}
        entry["training"] = {**training, "interpolation": training.get("interpolation", 1.0) * weight}

    def push_expert_to_hub(
        self,
        repo_id: str,
        name: str | Iterable[str],
        *,
        processor: Any = None,
        results: str | os.PathLike | Mapping[str, Any] | None = None,
        base_model: str | None = None,
        with_code: bool = True,
        **options: Any,
    ) -> CommitInfo:
        """Push experts, without the base: their files, configuration, processor and card, in one commit.

        Experts that the repository holds already stay as they are, and the card is made for all of them.

        Args:
            repo_id: "user/name" on the Hub; made if it is not there.
            name: one expert, or several.
            processor: None takes the base's.
            results: measured figures for the card: a JSON file or its content (see `publishing.measured_results`); for
                several experts a mapping from their names.
            base_model: the base's name on the Hub, where it was opened from a local folder.
            with_code: add the model's code (some 150 kB), so that `trust_remote_code=True` opens the repository where
                this package is not installed. With the package it is never run.
            options: `private`, `revision`, `create_pr`, `commit_message`, `commit_description` and `token`, the fields
                of `publishing.push.PushOptions`.

        Raises:
            KeyError: an expert that is not loaded.
            ValueError: no public name of the base, or results that are not as they should be.
            HubPushError: the push failed; nothing there has changed, and the message says how to go on.
        """
        push_experts, _, push_options = _pushing()
        return push_experts(
            self,
            repo_id,
            name,
            options=push_options(**options),
            processor=processor,
            results=results,
            base_model=base_model,
            with_code=with_code,
        )

    def push_to_hub(  # type: ignore[override]  # what transformers leaves to **kwargs is named
        self,
        repo_id: str,
        *,
        processor: Any = None,
        results: Mapping[str, Any] | None = None,
        base_model: str | None = None,
        with_code: bool = True,
        max_shard_size: int | str = "50GB",
        tags: list[str] | None = None,
        **options: Any,
    ) -> CommitInfo:
        """Push base and experts, with configuration, processor and card, in one commit.

        Arguments and errors are those of `push_expert_to_hub`; `results` is by expert name, `max_shard_size` as for
        `save_pretrained`. `tags` is there for transformers' callers; the card has its own.
        """
        _, push_model, push_options = _pushing()
        return push_model(
            self,
            repo_id,
            options=push_options(**options),
            processor=processor,
            results=results,
            base_model=base_model,
            with_code=with_code,
            max_shard_size=max_shard_size,
        )

    def freeze_shared(self) -> None:
        """Let only experts and their gates train; everything that plain Whisper has is frozen."""
        if not self.expert_names:
            raise ValueError("Expected an expert to train, got a model without any. Call model.add_expert(...) first.")
        for key, parameter in self.named_parameters():
            parameter.requires_grad = is_expert_key(key)

    def base_fingerprint(self) -> dict[str, str]:
        """Fingerprint of the shared weights; experts are bound to it (see `checkpoints.fingerprint_base`)."""
        tensors = self.base_model.named_parameters()
        return fingerprint_base((name, tensor) for name, tensor in tensors if not is_expert_key(name))

    def expert_layers(self, name: str) -> Iterator[tuple[str, ExpertLayer]]:
        """Every layer that a loaded expert is in, under the name that expert files use: "encoder.layers.0", ..."""
        return self._layers(self.config.expert_sides(name))

    def _layers(self, sides: Iterable[str] = EXPERT_SIDES["both"]) -> Iterator[tuple[str, ExpertLayer]]:
        for side in sides:
            for index, layer in enumerate(getattr(self.base_model, side).layers):
                yield f"{side}.layers.{index}", layer

    def _loaded_expert(self, layer: ExpertLayer, layer_name: str, file: ExpertFile) -> LanguageExpert:
        # The layer norm is never quantised, so it tells where and in which type the layer computes.
        where = layer.final_layer_norm.weight
        prefix = layer_name + "."
        # Copies: a tensor in a mapped file is aligned as the file's header leaves it, and kernels round by that; nor
        # may what happens to the file later happen to the model.
        tensors = {
            key.removeprefix(prefix): tensor.to(where.device, where.dtype, copy=True)
            for key, tensor in file.tensors.items()
            if key.startswith(prefix)
        }
        # Without memory of its own first, for it takes the file's tensors.
        with torch.device("meta"):
            expert = layer.new_expert(self.config)
        expert.load_state_dict(tensors, assign=True)
        return expert.train(layer.training)

    def _attach(self, name: str, new: dict[str, LanguageExpert], entry: dict[str, Any]) -> None:
        for layer_name, layer in self._layers():
            if layer_name in new:
                layer.language_experts[name] = new[layer_name]
        token_id = self._language_token_ids().get(entry["language"])
        self.config.language_experts[name] = {**entry, "language_token_id": token_id}

    def _language_token_ids(self) -> dict[str, int]:
        """Id of a language's token by its code; empty if the vocabulary is not known to have any."""
        token_ids = dict(self.config.language_token_ids)
        if self.can_generate():
            listed = getattr(self.generation_config, "lang_to_id", None) or {}
            token_ids.update({token_language(token): token_id for token, token_id in listed.items()})
        return token_ids

    def _language_code(self, language: str) -> str:
        return language_code(language, self._language_token_ids() or None)

    def _language_of_name(self, name: str) -> str | None:
        """The language of an expert that is given none: its name, if that is a code; None for a name of its own."""
        if name in WHISPER_LANGUAGES or name in self._language_token_ids():
            return self._language_code(name)
        try:
            code = language_code(name)
        except ValueError:
            return None
        raise ValueError(
            f"Expected Whisper's code of the language, got another name of it, {name!r}. Use add_expert({code!r}), or "
            f"add_expert({name!r}, language={code!r}) for an expert that is taken only where it is asked for by name."
        )

    def _check_new(self, name: str) -> None:
        if check_expert_name(name) in self.config.language_experts:
            raise ValueError(f"Expected a new expert, {name!r} is loaded already. Call remove_expert({name!r}) first.")

    def _check_unquantized(self, remedy: str) -> None:
        if not all(layer.fc1.weight.is_floating_point() for _, layer in self._layers()):
            raise ValueError(f"Expected floating-point weights, got a quantised model. {remedy}")

    def _check_loaded(self, name: str) -> None:
        if name not in self.config.language_experts:
            loaded = ", ".join(self.expert_names) or "none"
            raise KeyError(f"Expected a loaded expert, got {name!r}. Loaded: {loaded}.")
