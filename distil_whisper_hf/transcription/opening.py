"""A Whisper and its experts, opened where and in what they are to compute."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoProcessor
from transformers.utils import cached_file

from ..checkpoints import local_experts
from ..configuration_distil_whisper import DistilWhisperConfig
from ..cpu_precision import computing_dtype
from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration
from ..places import local_or_hub

DTYPES = ("auto", "float32", "float16", "bfloat16")


def choose_device(name: str = "auto") -> torch.device:
    """The device of a name; "auto": a GPU that torch can use, else the CPU.

    Raises:
        ValueError: no such device here.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"Expected a device such as auto, cpu, cuda or cuda:1, got {name!r}.") from error
    known = {"cpu"} | ({accelerator.type} if accelerator else set())
    if device.type not in known or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"Expected a device that is here ({', '.join(sorted(known))}), got {name!r}.")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type of a name; "auto": float16 on a GPU, as openai-whisper, else float32."""
    if name not in DTYPES:
        raise ValueError(f"Expected a type of {', '.join(DTYPES)}, got {name!r}.")
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    return computing_dtype(getattr(torch, name), device)


def expert_names(source: str) -> list[str]:
    """Names of the experts in a folder or repository.

    Raises:
        ValueError: there are none.
    """
    if Path(source).is_file():
        name = Path(source).name.removeprefix("expert.").removesuffix(".safetensors")
        return [name]
    found = sorted(local_experts(source))
    if not found and (not Path(source).is_dir() or (Path(source) / "config.json").is_file()):
        found = sorted(getattr(AutoConfig.from_pretrained(source), "language_experts", None) or {})
    if not found:
        raise ValueError(f"Expected experts (expert.NAME.safetensors) in {source!r}, found none.")
    return found


def open_model(
    model: str, experts: Iterable[str] = (), *, device: str = "auto", dtype: str = "auto"
) -> tuple[DistilWhisperForConditionalGeneration, Any]:
    """Open a model with experts, and its processor.

    Args:
        model: folder or Hub name of a plain Whisper, or of a DistilWhisper, whole or experts only.
        experts: folders, files or repositories of more experts.
        device, dtype: as `choose_device` and `choose_dtype` take them.

    Raises:
        ValueError: what is no model, no experts, no device or no type here.
        OSError: nothing there, as from transformers.
        ExpertFileError: an expert that does not fit.
    """
    place = choose_device(device)
    kind = choose_dtype(dtype, place)
    source = local_or_hub(model, "a Whisper (--model)")
    places = [local_or_hub(one, "experts (--experts)") for one in experts]
    opened = DistilWhisperForConditionalGeneration.from_pretrained(source, dtype=kind)
    for one in places:
        opened.load_expert(expert_names(one), one)
    processor = AutoProcessor.from_pretrained(_processor_source(source, opened.config))
    return opened.to(place).eval(), processor  # type: ignore[arg-type]


def _processor_source(source: str, config: DistilWhisperConfig) -> str:
    found = cached_file(source, "tokenizer_config.json", _raise_exceptions_for_missing_entries=False)
    base = config.base_model_name_or_path
    # A folder of experts alone: the base has it.
    return source if found is not None or base is None else base
