"""Opening and saving whole checkpoints, expert-only ones that name their base, plain Whispers and original releases."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import GenerationConfig, PreTrainedConfig, WhisperConfig, WhisperTokenizer
from transformers.utils import (
    GENERATION_CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)

from .checkpoints import check_inside, expert_filename, find_expert
from .configuration_distil_whisper import DistilWhisperConfig, check_expert_name, check_experts
from .generation_distil_whisper import PROMPT_TOKENS, complete_generation_config, missing_settings
from .original_release import BASE_KEYS
from .untrusted_files import HUB_ARGUMENTS, ExpertFileError, MissingExpertError, stored_file
from .whole_checkpoint import check_sizes, weight_files

if TYPE_CHECKING:
    from .expert_verbs import ExpertVerbsMixin as _Model
    from .generation_distil_whisper import WhisperGenerationConfig
else:
    _Model = object

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
WEIGHT_FILES = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)


def has_base_weights(source: str | os.PathLike, **hub: Any) -> bool:
    """Whether a folder or repository holds base weights of its own."""
    return any(stored_file(source, name, **hub) is not None for name in WEIGHT_FILES)


class PretrainedMixin(_Model):
    """`from_pretrained` and `save_pretrained` of every model class that has the verbs for experts."""

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
            MissingExpertError: no such folder or repository; an ExpertFileError and a FileNotFoundError.
            ExpertFileError: a damaged file, a configuration that its weights do not fit, or an expert that is listed
                but neither inside the checkpoint nor beside it.
        """
        source = pretrained_model_name_or_path
        hub = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
        config = _load_config(source, config, kwargs, hub)
        # Also what was given in place of what is stored.
        check_experts(config.language_experts)
        wanted = list(config.language_experts) if experts is None else [check_expert_name(name) for name in experts]
        base, base_hub, named = source, {}, config.base_model_name_or_path
        if source is not None and named not in (None, str(source)) and not has_base_weights(source, **hub):
            # The base is another repository: this one's revision and subfolder mean nothing there, nor does the commit
            # that the Auto classes put into `adapter_kwargs`. And it was named by a repository, so no pickle is read.
            base = named
            base_hub = {"revision": "main", "subfolder": "", "adapter_kwargs": {}, "use_safetensors": True}
        beside = _experts_beside(wanted, source, config, hub)
        inside = [name for name in wanted if name not in beside]
        files = [] if base is None else weight_files(base, **{**hub, **base_hub})
        if inside and base != source:
            raise ExpertFileError(
                f"Expected experts {inside} in {str(source)!r}, inside a whole checkpoint or beside the configuration "
                f"as {expert_filename(inside[0])}, found neither."
            )
        if files:
            if not kwargs.get("ignore_mismatched_sizes"):
                check_sizes(files, config)
            check_inside(inside, files, config)
        stored = config.language_experts
        config.language_experts = {name: stored[name] for name in inside}
        kwargs["key_mapping"] = {**BASE_KEYS, **(kwargs.get("key_mapping") or {})}
        try:
            opened = super().from_pretrained(
                base, *model_args, config=config, output_loading_info=True, **{**kwargs, **base_hub}
            )
        except OSError as error:
            raise MissingExpertError(f"Expected the weights of a Whisper in {str(base)!r}: {error}") from error
        model, info = cast("tuple[PretrainedMixin, dict[str, Any]]", opened)
        # Key names were changed for reading only: what is saved has ours.
        model._weight_conversions = []  # type: ignore[assignment]
        missing = sorted(info["missing_keys"])
        if missing and source is not None:
            raise ExpertFileError(
                f"Expected all weights of a Whisper and of the experts {inside} in {str(base)!r}, {len(missing)} are "
                f"missing: {', '.join(missing[:3])}."
            )
        if model.can_generate():
            model._complete_generation_config(source, base, hub, {**hub, **base_hub})
        for name in inside:
            entry = model.config.language_experts[name]
            entry["language_token_id"] = model._language_token(name, entry)
        for name, path in beside.items():
            model.load_expert(name, path)
        # In the order of the configuration, whichever way each was stored.
        loaded = model.config.language_experts
        model._set_experts({name: {**stored.get(name, {}), **loaded[name]} for name in wanted})
        return (model, info) if output_loading_info else model

    def _complete_generation_config(
        self, source: Any, base: Any, hub: dict[str, Any], base_hub: dict[str, Any]
    ) -> None:
        if base != source:
            own = cached_file(source, GENERATION_CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **hub)
            if own is not None:
                self.generation_config = GenerationConfig.from_pretrained(os.path.dirname(own))
        tokens = None
        if base is not None and missing_settings(self.generation_config):
            tokens = _special_tokens(base, self.config, base_hub)
        complete_generation_config(cast("WhisperGenerationConfig", self.generation_config), self.config, tokens)
        if self.config.translate_token_id is None:
            tasks = getattr(self.generation_config, "task_to_id", None) or {}
            self.config.translate_token_id = tasks.get("translate")

    def save_pretrained(  # type: ignore[override]  # what is handed on stays in **kwargs
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
                self.save_generation_config(beside)
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

    def save_generation_config(self, folder: Path) -> None:
        """Complete: transformers leaves out of one made from a model's config what is Whisper's own."""
        if self.can_generate():
            generation_config = cast("WhisperGenerationConfig", copy.deepcopy(self.generation_config))
            complete_generation_config(generation_config, self.config)
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


def _special_tokens(base: str | os.PathLike, config: DistilWhisperConfig, hub: dict[str, Any]) -> dict[str, int]:
    """Special token -> id: by the tokenizer beside a model, or as Whisper has them where there is none that fits."""
    hub = {key: value for key, value in hub.items() if key in HUB_ARGUMENTS}
    try:
        tokens = WhisperTokenizer.from_pretrained(base, **hub).get_added_vocab()
    except OSError:
        return config.special_token_ids
    tokens = {token: token_id for token, token_id in tokens.items() if token_id < config.vocab_size}
    fits = tokens.keys() >= PROMPT_TOKENS and tokens["<|startoftranscript|>"] == config.decoder_start_token_id
    return tokens if fits else config.special_token_ids


def _experts_beside(
    names: Iterable[str], source: str | os.PathLike | None, config: DistilWhisperConfig, hub: dict[str, Any]
) -> dict[str, Path]:
    """Files of experts in a folder or repository; the others have to be listed by the configuration."""
    found = {name: None if source is None else find_expert(name, source, **hub) for name in names}
    unknown = [name for name, path in found.items() if path is None and name not in config.language_experts]
    if unknown:
        raise ExpertFileError(
            f"Expected experts {list(found)} in {str(source)!r}, found no file {expert_filename(unknown[0])} there. "
            f"Its configuration lists: {', '.join(config.language_experts) or 'none'}."
        )
    return {name: path for name, path in found.items() if path is not None}


def _load_config(
    source: str | os.PathLike | None, config: Any, kwargs: dict[str, Any], hub: dict[str, Any]
) -> DistilWhisperConfig:
    """The configuration, ours to change; takes fields of `DistilWhisperConfig` out of `kwargs`."""
    own = {f.name for f in fields(DistilWhisperConfig)} - {f.name for f in fields(PreTrainedConfig)}
    overrides = {key: kwargs.pop(key) for key in list(kwargs) if key in own}
    if config is None or isinstance(config, str | os.PathLike):
        return DistilWhisperConfig.from_pretrained(cast(str, source if config is None else config), **hub, **overrides)
    # By model type: as remote code the same configuration class can exist twice.
    if config.model_type != DistilWhisperConfig.model_type:
        base = {**config.to_dict(), "base_model_name_or_path": None if source is None else str(source)}
        base.pop("model_type")
        return DistilWhisperConfig.from_dict({**base, **overrides})
    return DistilWhisperConfig.from_dict({**config.to_dict(), **overrides})
