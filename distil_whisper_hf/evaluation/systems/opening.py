"""Systems to evaluate: a Whisper, with language experts or a LoRA adapter, in one precision."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoProcessor, WhisperForConditionalGeneration
from transformers.utils import CONFIG_NAME, cached_file

from ...checkpoints import find_expert
from ...configuration_distil_whisper import DistilWhisperConfig
from ...modeling_distil_whisper import DistilWhisperForConditionalGeneration
from .quantization import Precision, check_precision, convert

if TYPE_CHECKING:
    from transformers import WhisperProcessor

_TOKENIZER = "tokenizer_config.json"
# What a folder's models, experts and adapters are opened from; what else a run leaves there changes none of them.
_IDENTITY_FILES = (
    "*config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "expert.*.bin",
    "adapter_model*.bin",
    "pytorch_model*.bin*",
    "added_tokens.json",
    "merges.txt",
    "normalizer.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "vocab.json",
)
_SPEC = re.compile(r"^(?:(?P<label>[^=@]+)=)?(?P<model>[^+=]+)(?P<parts>(?:\+[^+@=]+@[^+=]+)*)$")


@dataclass(frozen=True)
class SystemSpec:
    """What to open.

    Attributes:
        model: folder or Hub name of a plain Whisper, or of a DistilWhisper, whole or experts only.
        precision: one of `PRECISIONS`.
        experts: (name, folder or repository) of experts to load beside those in `model`.
        adapter: folder of a peft LoRA adapter. It is merged before anything is quantised, as it would be to deploy it.
        label: name in the report; by default made from the others.
        device: torch's name of it.
    """

    model: str
    precision: Precision = "float32"
    experts: tuple[tuple[str, str], ...] = ()
    adapter: str | None = None
    label: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if self.experts and self.adapter is not None:
            raise ValueError(f"expected experts or a LoRA adapter, got both for {self.model}: evaluate them one by one")

    @property
    def model_label(self) -> str:
        """The name of the model in the report, whatever the precision."""
        if self.label is not None:
            return self.label
        parts = [Path(self.model).name, *(name for name, _ in self.experts)]
        return "+".join([*parts, "lora"] if self.adapter is not None else parts)

    @property
    def name(self) -> str:
        """The name of the system in the report: model and precision."""
        return f"{self.model_label} {self.precision}"

    @property
    def has_experts(self) -> bool:
        """Whether there are experts, beside the model or in it; reads the model's configuration."""
        return bool(self.experts) or bool(getattr(AutoConfig.from_pretrained(self.model), "language_experts", None))

    def unquantized(self) -> SystemSpec:
        """The same model in float32, which the others are compared with."""
        return replace(self, precision="float32")


@dataclass
class System:
    """A model with its processor, in evaluation mode, under the name that it has in reports."""

    name: str
    model: Any
    processor: WhisperProcessor

    @property
    def dtype(self) -> torch.dtype:
        """Type of the features that the model takes: that of its convolutions, which are never quantised."""
        return self.model.get_encoder().conv1.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.get_encoder().conv1.weight.device

    @property
    def expert_names(self) -> tuple[str, ...]:
        """Loaded experts; none for a plain Whisper."""
        return self.model.expert_names if isinstance(self.model, DistilWhisperForConditionalGeneration) else ()

    @property
    def languages(self) -> frozenset[str]:
        """Codes of the languages that the model has a token for; English alone for an English-only model."""
        tokens = getattr(self.model.generation_config, "lang_to_id", None)
        return frozenset(token.strip("<|>") for token in tokens) if tokens else frozenset({"en"})


def parse_spec(text: str) -> SystemSpec:
    """A system from one word: `MODEL`, `MODEL+ca@FOLDER` (an expert), `MODEL+lora@FOLDER`, before it perhaps `LABEL=`.

    Several experts are several parts. Raises `ValueError` for anything else.
    """
    found = _SPEC.match(text)
    if found is None:
        raise ValueError(
            f"expected [LABEL=]MODEL[+EXPERT@SOURCE ...] or [LABEL=]MODEL+lora@SOURCE, got {text!r}: where a name has "
            "other signs, use a recipe"
        )
    parts = [tuple(part.split("@", 1)) for part in found["parts"].split("+")[1:]]
    adapters = [source for name, source in parts if name == "lora"]
    if len(adapters) > 1:
        raise ValueError(f"expected one LoRA adapter, got {len(adapters)} in {text!r}")
    experts = tuple((name, source) for name, source in parts if name != "lora")
    return SystemSpec(found["model"], experts=experts, adapter=adapters[0] if adapters else None, label=found["label"])


def open_system(spec: SystemSpec) -> System:
    """Open a system: weights and experts in float32, then brought to the precision.

    Experts are loaded, and checked against their base, before anything is quantised, and their feed-forward networks
    are quantised with it: a whole checkpoint and an expert file give the same system.

    Raises:
        ValueError: a precision that does not fit the model.
        OSError: nothing there, as from transformers.
        ExpertFileError: an expert that does not fit.
    """
    config = AutoConfig.from_pretrained(spec.model)
    ours = bool(spec.experts) or isinstance(config, DistilWhisperConfig)
    kind = DistilWhisperForConditionalGeneration if ours else WhisperForConditionalGeneration
    model = kind.from_pretrained(spec.model, dtype=torch.float32)
    for name, source in spec.experts:
        model.load_expert(name, source)
    if spec.adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, spec.adapter).merge_and_unload()
    source = spec.model
    if cached_file(source, _TOKENIZER, _raise_exceptions_for_missing_entries=False) is None and ours:
        # Expert-only: the base has it.
        source = model.config.base_model_name_or_path
    processor = AutoProcessor.from_pretrained(source)
    return System(spec.name, convert(model.eval(), spec.precision, device=spec.device), processor)


def system_digest(spec: SystemSpec) -> str:
    """Digest of what makes the system: the bytes of local files and of experts, the commit of a base on the Hub,
    precision and device.

    A model that was trained on under its old name is another system. The label is not part of it.
    """
    sources = [spec.model, *([spec.adapter] if spec.adapter else [])]
    config = AutoConfig.from_pretrained(spec.model)
    base = getattr(config, "base_model_name_or_path", None)
    if base is not None and base != spec.model:
        sources.append(base)
    state = {
        "sources": [_source_digest(source) for source in sources],
        "experts": [[name, _expert_digest(name, source)] for name, source in spec.experts],
        "precision": spec.precision,
        "device": torch.device(spec.device).type,
    }
    return hashlib.blake2b(json.dumps(state, sort_keys=True).encode(), digest_size=8).hexdigest()


def _expert_digest(name: str, source: str) -> str:
    """Of an expert's own file; of everything in the source where the expert is inside a whole checkpoint."""
    file = find_expert(name, source)
    return _source_digest(source) if file is None else _files_digest([file])


def _files_digest(files: Iterable[Path]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        digest.update(f"{file.name}:{file.stat().st_size}:".encode())
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _source_digest(source: str) -> str:
    path = Path(source)
    if path.is_dir():
        return _files_digest(sorted({file for pattern in _IDENTITY_FILES for file in path.glob(pattern)}))
    # The Hub's cache keeps each commit in a folder of that name.
    for name in (CONFIG_NAME, "adapter_config.json"):
        found = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        if found is not None:
            return f"{source}@{Path(found).parent.name}"
    return source
