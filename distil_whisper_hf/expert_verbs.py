"""What one does with experts: add, load, save, interpolate, compress, remove, and let them train."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers.utils import logging

from .base_fingerprint import BaseSample, KnownDigests
from .checkpoints import ExpertFile, check_base, extra_fields, read_expert, write_expert
from .compact_experts import CompactExpert
from .compression import compress
from .configuration_distil_whisper import check_expert_name
from .expert_form import EXPERT_SIDES, ExpertForm
from .hub_verbs import HubVerbsMixin
from .languages import WHISPER_LANGUAGES, language_code, token_language
from .layers_distil_whisper import expert_networks
from .routing import LoadedExperts
from .untrusted_files import ExpertFileError

if TYPE_CHECKING:
    from .configuration_distil_whisper import DistilWhisperConfig
    from .language_experts import Expert
    from .layers_distil_whisper import ExpertLayer
logger = logging.get_logger(__name__)

# Changes of experts come one after the other. Who uses them needs no lock: see `LoadedExperts`.
_CHANGES = threading.RLock()


def is_expert_key(key: str) -> bool:
    """Whether a state-dict key belongs to an expert (the others are plain Whisper's)."""
    return ".language_experts." in key


class ExpertVerbsMixin(HubVerbsMixin):
    """The verbs for experts, for every model class that holds a whole encoder and decoder."""

    # Of the shared weights when they were last looked at.
    _known_digests: KnownDigests | None = None
    if TYPE_CHECKING:
        config: DistilWhisperConfig

        # The model itself, or the one inside that has encoder and decoder.
        @property
        def base_model(self) -> Any: ...

    @property
    def expert_names(self) -> tuple[str, ...]:
        """Names of the loaded experts; `expert_ids` are indices into it."""
        return self.base_model.loaded_experts.names

    def expert_index(self, name: str) -> int:
        """Index of a loaded expert, as `expert_ids` have it; -1 for "shared", the shared path.

        Raises:
            KeyError: an expert that is not loaded.
        """
        return self.base_model.loaded_experts.index(name)

    def add_expert(
        self,
        name: str,
        language: str | None = None,
        *,
        sides: str = "both",
        rank: int | Mapping[str, int] | None = None,
        targets: str | Iterable[str] = "ffn",
        bias: bool = False,
    ) -> None:
        """Add a new expert, which changes nothing yet: a full one, a copy of the shared path in every layer, or with a
        `rank` a compact one, products of thin matrices that are added to Whisper's weights (see `compact_experts`).

        Args:
            name: "ca" for the expert that all Catalan takes; another name ("ca-medical", "sc") for one that is taken
                only where `generate(expert=...)` or `expert_ids` ask for it.
            language: language whose token the expert is prompted with, by code or English name (see
                `languages.language_code`). Default: `name`, if it is Whisper's code of a language. For a language
                without a token, name a close one: its proxy.
            sides: "both", or "encoder" or "decoder" for an expert in the layers of that one alone, at about half the
                size; the other stays Whisper's.
            rank: of a compact expert, from 1 to the model's width, or one by side: `{"encoder": 8, "decoder": 16}`.
            targets: what a compact expert changes: "ffn", the feed-forward networks, behind the gate; "all", also the
                projections of attention, without a gate; or some of "ffn", "q_proj", "k_proj", "v_proj" and "out_proj".
            bias: whether a compact expert changes biases too.

        Raises:
            ValueError: a name that cannot be used, is loaded already, or is a language's but not Whisper's code of it;
                an unknown language, one that the vocabulary has no token for; other sides or targets, or a rank out of
                its range.
        """
        self._check_new(name)
        code = self._language_of_name(name) if language is None else self._language_code(language)
        form = self.config.check_form(ExpertForm(sides, rank, targets, bias))
        if rank is None:
            self._check_unquantized("Give a rank, or add and train experts on the unquantised base.")
        new = {}
        for layer_name, layer in self._layers(form.stacks):
            # The layer norm is never quantised; beside weights that are, an expert trains in full precision.
            norm = layer.final_layer_norm.weight
            dtype = norm.dtype if layer.fc1.weight.is_floating_point() else torch.float32
            expert = layer.new_expert(self.config, form).to(norm.device, dtype)
            expert.start_from(layer.fc1, layer.fc2)
            new[layer_name] = expert.train(layer.training)
        self._attach(name, new, {"language": code, **form.entry})

    def load_expert(self, name: str | Iterable[str], source: str | os.PathLike, **hub: Any) -> None:
        """Load experts from a folder, a Hub repository or a file: `expert.<name>.safetensors`, the original release's
        `expert.<language>.bin`, or a whole checkpoint. Everything is checked before the model is touched.

        Args:
            name: one expert, or several: all of them, or none if one is refused.
            source: folder, repository, or path of the file.
            hub: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`.

        Raises:
            ValueError: a name that cannot be used, is there twice or is loaded already.
            MissingExpertError: no such expert there; an ExpertFileError and a FileNotFoundError.
            ExpertFileError: a damaged file, or an expert of another format, name, language, geometry or base.
        """
        names = [name] if isinstance(name, str) else list(name)
        for one in names:
            self._check_new(one)
        if len(set(names)) < len(names):
            raise ValueError(f"Expected each expert once, got {', '.join(names)}.")
        experts = [read_expert(one, source, self.config, **hub) for one in names]
        base = self._base_sample()
        for expert in experts:
            self._language_token(expert.name, expert.entry)
            check_base(expert, base.comparable(expert.fingerprint), self.config.base_model_name_or_path)
        # All are made before the first is attached.
        loaded = [
            expert_networks(dict(self._layers(one.form.stacks)), self.config, one.form, one.tensors) for one in experts
        ]
        for expert, layers in zip(experts, loaded, strict=True):
            self._attach(expert.name, layers, expert.entry)
            if not expert.fingerprint:
                logger.warning_once(
                    f"Expert {expert.name!r} in {str(source)!r} is of the original release, whose files have neither a "
                    "hash nor their base's fingerprint. `distil-whisper convert` rewrites them."
                )

    def save_expert(self, name: str, folder: str | os.PathLike, *, dtype: str | None = None) -> Path:
        """Write one expert as `expert.<name>.safetensors` into `folder` (made if needed); returns its path.

        Args:
            dtype: "float32", "float16" or "bfloat16" to store it in, whatever the model computes in; None: as it is.

        Raises:
            KeyError: an expert that is not loaded.
            ValueError: numbers that are not finite, or are not in `dtype`; another `dtype`.
        """
        return write_expert(self.expert_file(name), folder, self.config, dtype=dtype)

    def expert_file(self, name: str) -> ExpertFile:
        """What `save_expert` writes: a loaded expert's tensors and what its file says about it."""
        self._check_loaded(name)
        loaded = self.base_model.loaded_experts
        tensors = {
            f"{layer}.{key}": tensor
            for layer, networks in loaded.networks.items()
            if name in networks
            for key, tensor in networks[name].state_dict().items()
        }
        entry = loaded.entries[name]
        return ExpertFile(
            name,
            entry.get("language"),
            tensors,
            self.config.base_model_name_or_path,
            self.base_fingerprint(),
            entry.get("training") or {},
            ExpertForm.from_entry(entry),
            extra_fields(entry),
        )

    def remove_expert(self, name: str) -> None:
        """Forget an expert; the others stay as they are. Calls under way in other threads end with it."""
        with _CHANGES:
            self._check_loaded(name)
            self._set_experts({key: entry for key, entry in self.config.language_experts.items() if key != name})

    def interpolate_expert(self, name: str, weight: float) -> None:
        """Take a trained expert part of the way back to the shared path that it started from.

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
        if self.config.expert_form(name).rank is None:
            self._check_unquantized("Interpolate on the unquantised base, save the expert, then `load_expert` it.")
        with _CHANGES:
            networks = self._copied(name)
            for layer_name, layer in self.expert_layers(name):
                networks[layer_name].interpolate(layer.fc1, layer.fc2, weight)
            before = (self.config.language_experts[name].get("training") or {}).get("interpolation", 1.0)
            self._replace_expert(name, networks, {}, {"interpolation": before * weight})

    def compress_expert(
        self, name: str, *, rank: int | Mapping[str, int] | None = None, energy: float | None = None
    ) -> dict[str, dict[str, float]]:
        """Make an expert compact: the difference of its weights to Whisper's, cut to a rank by singular values.

        Gates stay as they are, and so does the difference of a full expert's biases, which takes no rank. What was
        done is kept in the expert's record of its training.

        Args:
            rank: from 1 to the model's width, one number or one by side.
            energy: in its place, the share of the difference's energy (the sum of its squares) to keep, in (0, 1]: the
                smallest rank of each side that keeps it there.

        Returns:
            Layer, as expert files call it -> projection -> the share of its energy that is kept, in [0, 1].

        Raises:
            KeyError: no such expert.
            ValueError: not one of `rank` and `energy`, either out of its range, or a quantised model.
        """
        self._check_loaded(name)
        self._check_unquantized("Compress on the unquantised base, save the expert, then `load_expert` it.")
        with _CHANGES:
            form, networks, kept = compress(dict(self.expert_layers(name)), name, self.config, rank=rank, energy=energy)
            self._replace_expert(name, networks, form.entry, {"compressed": form.entry["rank"]})
        return kept

    def merge_expert(self, name: str) -> tuple[str, ...]:
        """Spare batches that take a compact expert alone its further operations: for a service of one language.

        In every layer whose gate no token can close, Whisper's weights with the expert's products added are kept
        beside them, at the memory of a feed-forward network each; the other layers and all other batches stay as they
        are, and Whisper's own weights are not touched. `unmerge_expert` takes it back.

        Returns:
            The layers where that is so, under the names that expert files use.

        Raises:
            KeyError: no such expert.
            ValueError: a full expert, or a quantised model.
        """
        self._check_loaded(name)
        if self.config.expert_form(name).rank is None:
            raise ValueError(f"Expected a compact expert, got the full one {name!r}. Call compress_expert first.")
        self._check_unquantized("Merge on an unquantised base.")
        with _CHANGES:
            here, networks = dict(self.expert_layers(name)), self._copied(name)
            merged = [key for key, one in here.items() if cast(CompactExpert, networks[key]).merge(one.fc1, one.fc2)]
            self._set_experts(dict(self.config.language_experts), {name: networks})
        return tuple(merged)

    def unmerge_expert(self, name: str) -> None:
        """Take `merge_expert` back, to the bit; what was not merged stays as it is."""
        self._check_loaded(name)
        with _CHANGES:
            networks = self._copied(name)
            for network in networks.values():
                if isinstance(network, CompactExpert):
                    network.unmerge()
            self._set_experts(dict(self.config.language_experts), {name: networks})

    def freeze_shared(self) -> None:
        """Let only experts and their gates train; everything that plain Whisper has is frozen."""
        if not self.expert_names:
            raise ValueError("Expected an expert to train, got a model without any. Call model.add_expert(...) first.")
        for key, parameter in self.named_parameters():
            parameter.requires_grad = is_expert_key(key)

    def base_fingerprint(self) -> dict[str, str]:
        """Fingerprint of the shared weights; experts are bound to it (see `base_fingerprint.fingerprint_base`)."""
        return self._base_sample().fingerprint

    def _base_sample(self) -> BaseSample:
        named = (one for one in self.base_model.named_parameters() if not is_expert_key(one[0]))
        sample = BaseSample(named, self._known_digests)
        self._known_digests = sample.known
        return sample

    def expert_layers(self, name: str) -> Iterator[tuple[str, ExpertLayer]]:
        """Every layer that a loaded expert is in, under the name that expert files use: "encoder.layers.0", ..."""
        return self._layers(self.config.expert_sides(name))

    def _layers(self, sides: Iterable[str] = EXPERT_SIDES["both"]) -> Iterator[tuple[str, ExpertLayer]]:
        for side in sides:
            for index, layer in enumerate(getattr(self.base_model, side).layers):
                yield f"{side}.layers.{index}", layer

    def _copied(self, name: str) -> dict[str, Expert]:
        return {key: copy.deepcopy(layer.language_experts[name]) for key, layer in self.expert_layers(name)}

    def _attach(self, name: str, new: dict[str, Expert], entry: dict[str, Any]) -> None:
        entry = {**entry, "language_token_id": self._language_token_ids().get(entry["language"])}
        with _CHANGES:
            self._check_new(name)
            self._set_experts({**self.config.language_experts, name: entry}, {name: new})

    def _replace_expert(
        self, name: str, networks: Mapping[str, Expert], form: Mapping[str, Any], done: Mapping[str, Any]
    ) -> None:
        """Put other networks in the place of an expert's; `done` is added to the record of its training."""
        entry = self.config.language_experts[name]
        entry = {**entry, **form, "training": {**(entry.get("training") or {}), **done}}
        self._set_experts({**self.config.language_experts, name: entry}, {name: networks})

    def _set_experts(
        self, entries: dict[str, dict[str, Any]], new: Mapping[str, Mapping[str, Expert]] | None = None
    ) -> None:
        """Let these be the model's experts from now on, for every layer at once; in the order of their ids.

        Args:
            entries: name -> its entry in the configuration.
            new: name -> layer, as expert files call it -> its network there. The others keep theirs.
        """
        base, new = self.base_model, new or {}
        networks: dict[str, dict[str, Expert]] = {}
        with _CHANGES:
            for layer_name, layer in self._layers():
                kept = layer.language_experts.networks
                here = {name: network for name, network in kept.items() if name not in new}
                here |= {name: layers[layer_name] for name, layers in new.items() if layer_name in layers}
                networks[layer_name] = {name: here[name] for name in entries if name in here}
            for layer_name, layer in self._layers():
                layer.language_experts.networks = networks[layer_name]
            self.config.language_experts = entries
            loaded = LoadedExperts(entries, networks)
            base.loaded_experts = base.encoder.loaded_experts = base.decoder.loaded_experts = loaded

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

    def _language_token(self, name: str, entry: Mapping[str, Any]) -> int | None:
        """Id of the token that an expert is prompted with, as an entry of somebody else's has it or should have."""
        known, language, token_id = self._language_token_ids(), entry.get("language"), entry.get("language_token_id")
        if language is not None and language not in (known or WHISPER_LANGUAGES):
            raise ExpertFileError(
                f"Expected a language that this model has a token for, for expert {name!r}, got {language[:40]!r}."
            )
        own = known.get(language or "")
        if known and token_id not in (None, own):
            raise ExpertFileError(f"Expected for expert {name!r} the token of {language!r}, {own}, got {token_id}.")
        return own if known else token_id

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
