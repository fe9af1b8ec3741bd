"""What one does with experts: add, load, save, remove, train; and checkpoints that hold or name them."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedConfig, WhisperConfig
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE
from transformers.utils import (
    GENERATION_CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)

from .checkpoints import (
    ORIGINAL_BASE_KEYS,
    ExpertFile,
    ExpertFileError,
    check_base,
    expert_filename,
    find_expert,
    fingerprint_base,
    read_expert,
    write_expert,
)
from .configuration_distil_whisper import DistilWhisperConfig, check_expert_name, language_code
from .generation_distil_whisper import complete_generation_config

PUSH_ARGUMENTS = (
    "repo_id",
    "commit_message",
    "private",
    "revision",
    "create_pr",
    "commit_description",
    "tags",
    "token",
)
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
WEIGHT_FILES = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)


def is_expert_key(key: str) -> bool:
    """Whether a state-dict key belongs to an expert (the others are plain Whisper's)."""
    return ".language_experts." in key


def has_base_weights(source: str | os.PathLike, **hub: Any) -> bool:
    """Whether a folder or repository holds base weights of its own."""
    return any(
        cached_file(source, name, _raise_exceptions_for_missing_entries=False, **hub) is not None
        for name in WEIGHT_FILES
    )


class ExpertVerbsMixin:
    """The verbs for experts, for every model class that holds a whole encoder and decoder."""

    @property
    def expert_names(self) -> tuple[str, ...]:
        """Names of the loaded experts; `expert_ids` are indices into it."""
        return tuple(self.config.language_experts)

    def add_expert(self, name: str, language: str | None = None) -> None:
        """Add a new expert: a copy of the shared path in every layer, its gates at their start.

        Args:
            name: "ca" for the expert that all Catalan takes; another name ("ca-medical", "sc") for one that is taken
                only where `generate(expert=...)` or `expert_ids` ask for it.
            language: language whose token the expert is prompted with, by code or English name. Default: `name`, if
                Whisper has a token for it. For a language without a token, name a close one: its proxy.

        Raises:
            ValueError: a name that cannot be used or is loaded already, or an unknown language.
        """
        self._check_new(name)
        if language is None and name in LANGUAGES:
            language = name
        elif language is None and name in TO_LANGUAGE_CODE:
            raise ValueError(
                f"Expected Whisper's code of the language, got its name {name!r}. "
                f"Use add_expert({TO_LANGUAGE_CODE[name]!r})."
            )
        new = {}
        for layer_name, layer in self._expert_layers():
            if not layer.fc1.weight.is_floating_point():
                raise ValueError(
                    "Expected floating-point weights to copy into a new expert, got a quantised model. "
                    "Add and train experts on the unquantised base, then `load_expert` them."
                )
            weight = layer.fc1.weight
            new[layer_name] = layer.new_expert(self.config).to(weight.device, weight.dtype).train(layer.training)
            new[layer_name].copy_feed_forward(layer.fc1, layer.fc2)
        self._attach(name, new, {"language": None if language is None else language_code(language)})

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
            new = {name: self._loaded_expert(layer, name, expert) for name, layer in self._expert_layers()}
            self._attach(expert.name, new, {"language": expert.language, "training": expert.training})

    def save_expert(self, name: str, folder: str | os.PathLike) -> Path:
        """Write one expert as `expert.<name>.safetensors` into `folder` (made if needed); returns its path."""
        return write_expert(self._expert_file(name), folder, self.config)

    def _expert_file(self, name: str) -> ExpertFile:
        self._check_loaded(name)
        prefixes = {f"{layer}.language_experts.{name}.": f"{layer}." for layer, _ in self._expert_layers()}
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
        )

    def remove_expert(self, name: str) -> None:
        """Forget an expert; the others stay as they are."""
        self._check_loaded(name)
        for _, layer in self._expert_layers():
            del layer.language_experts[name]
        del self.config.language_experts[name]

    def interpolate_expert(self, name: str, weight: float) -> None:
        """Take a trained expert part of the way back to the shared path that it started from, in place.

        Every feed-forward weight becomes `(1 - weight) · shared + weight · expert`; gates stay as they are. What was
        learned on little speech of one kind holds better elsewhere then, at some cost where it was learned
        (Wortsman et al., "Robust fine-tuning of zero-shot models", arXiv 2109.01903; for our figures see
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
        layers = [layer for _, layer in self._expert_layers()]
        for layer in layers:
            if not layer.fc1.weight.is_floating_point():
                raise ValueError(
                    "Expected floating-point weights to interpolate, got a quantised model. Interpolate on the "
                    "unquantised base, save the expert, then load it."
                )
        for layer in layers:
            layer.language_experts[name].interpolate(layer.fc1, layer.fc2, weight)
        entry = self.config.language_experts[name]
        training = entry.get("training") or {}
        entry["training"] = {**training, "interpolation": training.get("interpolation", 1.0) * weight}

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

    def _expert_layers(self) -> Iterator[tuple[str, nn.Module]]:
        """Every layer that holds experts, under the name that expert files use: "encoder.layers.0", ..."""
        for side in ("encoder", "decoder"):
            for index, layer in enumerate(getattr(self.base_model, side).layers):
                yield f"{side}.layers.{index}", layer

    def _loaded_expert(self, layer: nn.Module, layer_name: str, file: ExpertFile) -> nn.Module:
        # The layer norm is never quantised, so it tells where and in which type the layer computes.
        where = layer.final_layer_norm.weight
        prefix = layer_name + "."
        tensors = {
            key.removeprefix(prefix): tensor.to(where.device, where.dtype)
            for key, tensor in file.tensors.items()
            if key.startswith(prefix)
        }
        # Without memory of its own first, for it takes the file's tensors.
        with torch.device("meta"):
            expert = layer.new_expert(self.config)
        expert.load_state_dict(tensors, assign=True)
        return expert.train(layer.training)

    def _attach(self, name: str, new: dict[str, nn.Module], entry: dict[str, Any]) -> None:
        token_ids = dict(self.config.language_token_ids)
        if self.can_generate():
            listed = getattr(self.generation_config, "lang_to_id", None) or {}
            token_ids.update({language_code(token): token_id for token, token_id in listed.items()})
        for layer_name, layer in self._expert_layers():
            layer.language_experts[name] = new[layer_name]
        self.config.language_experts[name] = {**entry, "language_token_id": token_ids.get(entry["language"])}

    def _check_new(self, name: str) -> None:
        if check_expert_name(name) in self.config.language_experts:
            raise ValueError(f"Expected a new expert, {name!r} is loaded already. Call remove_expert({name!r}) first.")

    def _check_loaded(self, name: str) -> None:
        if name not in self.config.language_experts:
            loaded = ", ".join(self.expert_names) or "none"
            raise KeyError(f"Expected a loaded expert, got {name!r}. Loaded: {loaded}.")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args: Any,
        experts: Iterable[str] | None = None,
        config: WhisperConfig | str | os.PathLike | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Open a plain Whisper, a whole checkpoint (base and experts), an expert-only one (which names its base), or an
        original release's base.

        Args:
            pretrained_model_name_or_path: folder or Hub repository.
            experts: which of its experts to load. None: all that its configuration lists.
            config: a configuration to use in place of the stored one.
            output_loading_info: also return transformers' report on keys.
            kwargs: as for every `from_pretrained` of transformers; fields of `DistilWhisperConfig` override stored ones
                (`base_model_name_or_path` where the base lies elsewhere, `expert_routing`, ...).

        Raises:
            ExpertFileError: an expert that is listed but neither inside the checkpoint nor beside it.
        """
        source = pretrained_model_name_or_path
        hub = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
        config = _load_config(source, config, kwargs, hub)
        wanted = list(config.language_experts) if experts is None else [check_expert_name(name) for name in experts]
        base, base_hub, named = source, {}, config.base_model_name_or_path
        if source is not None and named not in (None, str(source)) and not has_base_weights(source, **hub):
            # The base is another repository: this one's revision and subfolder mean nothing there, nor does the commit
            # that the Auto classes put into `adapter_kwargs`. And it was named by a repository, so no pickle is read.
            base = named
            base_hub = {"revision": "main", "subfolder": "", "adapter_kwargs": {}, "use_safetensors": True}
        beside = [name for name in wanted if source is not None and find_expert(name, source, **hub) is not None]
        inside = [name for name in wanted if name not in beside]
        unknown = [name for name in inside if name not in config.language_experts]
        if unknown:
            raise ExpertFileError(
                f"Expected experts {wanted} in {str(source)!r}, found no file {expert_filename(unknown[0])} there. "
                f"Its configuration lists: {', '.join(config.language_experts) or 'none'}."
            )
        stored = config.language_experts
        config.language_experts = {name: stored[name] for name in inside}
        kwargs["key_mapping"] = {**ORIGINAL_BASE_KEYS, **(kwargs.get("key_mapping") or {})}
        model, info = super().from_pretrained(
            base, *model_args, config=config, output_loading_info=True, **{**kwargs, **base_hub}
        )
        # Key names were changed for reading only: what is saved has ours.
        model._weight_conversions = []
        missing = sorted(key for key in info["missing_keys"] if is_expert_key(key))
        if missing:
            raise ExpertFileError(
                f"Expected experts {inside} inside the checkpoint {str(source)!r} or beside it as "
                f"{expert_filename(inside[0])}, found neither ({len(missing)} tensors missing, {missing[0]} the first)."
            )
        model._complete_generation_config(source, base, hub)
        for name in beside:
            model.load_expert(name, source, **hub)
            model.config.language_experts[name] = {**stored.get(name, {}), **model.config.language_experts[name]}
        # In the order of the configuration, whichever way each was stored.
        model.config.language_experts = {name: model.config.language_experts[name] for name in wanted}
        return (model, info) if output_loading_info else model

    def _complete_generation_config(self, source: Any, base: Any, hub: dict[str, Any]) -> None:
        if not self.can_generate():
            return
        if base != source:
            own = cached_file(source, GENERATION_CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **hub)
            if own is not None:
                self.generation_config = GenerationConfig.from_pretrained(os.path.dirname(own))
        complete_generation_config(self.generation_config, self.config)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        experts_only: bool = False,
        **kwargs: Any,
    ) -> None:
        """Write a checkpoint that `from_pretrained` and `pipeline` open: base and experts in `model.safetensors`, the
        base under plain Whisper's names, or the experts alone. Files are written beside and renamed into place.

        Args:
            save_directory: folder, made if needed.
            experts_only: leave the base out: one `expert.<name>.safetensors` for each expert, and a configuration that
                names the base (`base_model_name_or_path`).
            is_main_process, state_dict, push_to_hub, kwargs: as for every `save_pretrained` of transformers.

        Raises:
            ValueError: `experts_only` without a known base, with a `state_dict`, or into a folder with base weights.
        """
        folder = Path(save_directory)
        if experts_only:
            self._check_experts_only(folder, state_dict)
        hub = {key: kwargs.pop(key) for key in PUSH_ARGUMENTS if key in kwargs}
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".checkpoint-") as name:
            beside = Path(name)
            super().save_pretrained(beside, is_main_process, {} if experts_only else state_dict, **kwargs)
            if is_main_process:
                self._save_generation_config(beside)
                if experts_only:
                    (beside / SAFE_WEIGHTS_NAME).unlink(missing_ok=True)
                    for expert in self.expert_names:
                        self.save_expert(expert, beside)
                _move_checkpoint(beside, folder, self.expert_names)
        if push_to_hub and is_main_process:
            repo_id = hub.pop("repo_id", folder.name)
            if experts_only:
                hub.pop("tags", None)
                self.push_expert_to_hub(repo_id, self.expert_names, **hub)
            else:
                self.push_to_hub(repo_id, **hub)

    def _check_experts_only(self, folder: Path, state_dict: dict[str, torch.Tensor] | None) -> None:
        if self.config.base_model_name_or_path is None:
            raise ValueError(
                "Expected a known base for an expert-only checkpoint, got none. Set "
                "`model.config.base_model_name_or_path` to the plain Whisper that this model was opened from."
            )
        if state_dict is not None:
            raise ValueError("Expected either `state_dict` or `experts_only`, got both.")
        there = sorted(path.name for path in folder.glob("*") if path.name in WEIGHT_FILES)
        if there:
            raise ValueError(
                f"Expected a folder without base weights for an expert-only checkpoint, found {there[0]} in "
                f"{str(folder)!r}. Choose another folder, or save the whole checkpoint there."
            )

    def _save_generation_config(self, folder: Path) -> None:
        """Without a task in it, Whisper's language detection would leave the task token out of the prompt."""
        if not self.can_generate() or not getattr(self.generation_config, "task_to_id", None):
            return
        generation_config = copy.deepcopy(self.generation_config)
        if getattr(generation_config, "task", None) is None:
            generation_config.task = "transcribe"
        generation_config.save_pretrained(folder)


def _move_checkpoint(source: Path, target: Path, experts: Iterable[str]) -> None:
    """Rename every new file into place, then drop files of an earlier save that would contradict them."""
    new = {path.name for path in source.iterdir()}
    for name in sorted(new):
        os.replace(source / name, target / name)
    stale = [path for pattern in ("model*.safetensors", SAFE_WEIGHTS_INDEX_NAME) for path in target.glob(pattern)]
    stale += [target / expert_filename(name) for name in experts]
    for path in stale:
        if path.name not in new:
            path.unlink(missing_ok=True)


def _load_config(
    source: str | os.PathLike | None, config: Any, kwargs: dict[str, Any], hub: dict[str, Any]
) -> DistilWhisperConfig:
    """The configuration, ours to change; takes fields of `DistilWhisperConfig` out of `kwargs`."""
    own = {f.name for f in fields(DistilWhisperConfig)} - {f.name for f in fields(PreTrainedConfig)}
    overrides = {key: kwargs.pop(key) for key in list(kwargs) if key in own}
    if config is None or isinstance(config, str | os.PathLike):
        return DistilWhisperConfig.from_pretrained(source if config is None else config, **hub, **overrides)
    # By model type: as remote code the same configuration class can exist twice.
    if config.model_type != DistilWhisperConfig.model_type:
        base = {**config.to_dict(), "base_model_name_or_path": None if source is None else str(source)}
        base.pop("model_type")
        return DistilWhisperConfig.from_dict({**base, **overrides})
    return DistilWhisperConfig.from_dict({**config.to_dict(), **overrides})
