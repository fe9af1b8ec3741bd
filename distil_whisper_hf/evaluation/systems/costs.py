"""What a precision costs and saves: size on disk and in memory, and time relative to the unquantised model."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ...data.audio import Waveform, audio_seconds, read_audio
from ...data.clips import Clip
from .hypotheses import GenerationSettings, transcribe_batch
from .opening import SystemSpec, open_system
from .outcomes import SAMPLING_RATE

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_PROCESS = Path(os.sep, "proc", "self")


@dataclass(frozen=True)
class Cost:
    """Size and speed of one system.

    Attributes:
        system: its name; `model` and `precision` are its parts.
        parameters: number of the model's weights, experts included, before any quantisation.
        weight_bytes: of weights in memory, with the scales of quantised ones.
        disk_bytes: of the state dict saved to a file.
        idle_bytes: resident memory of a process before the model is opened: Python and libraries.
        peak_bytes: highest resident memory of that process while it transcribes; None where the operating system does
            not tell. On a GPU both are its allocated memory.
        seconds_per_second: time to transcribe 1 s of speech, in s (median).
        time_ratio: that time over the float32 system's in the same run (median over interleaved repetitions); None
            without a float32 system of this model.
        low_ratio, high_ratio: smallest and largest of those repetitions.
    """

    system: str
    model: str
    precision: str
    parameters: int
    weight_bytes: int
    disk_bytes: int
    idle_bytes: int | None
    peak_bytes: int | None
    seconds_per_second: float
    time_ratio: float | None
    low_ratio: float | None
    high_ratio: float | None


def in_memory(clip: Clip) -> Clip:
    """The clip with its audio decoded, so that reading it is not timed."""
    samples = read_audio(clip.audio, sampling_rate=SAMPLING_RATE)
    return replace(clip, audio=Waveform(samples, SAMPLING_RATE))


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all weights and buffers in memory, with the scales of quantised layers; tied ones count once."""
    seen: dict[int, int] = {}

    def add(tensor: torch.Tensor) -> None:
        if is_traceable_wrapper_subclass(tensor):
            for name in tensor.__tensor_flatten__()[0]:
                add(getattr(tensor, name))
        else:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()

    for tensor in model.state_dict().values():
        add(tensor)
    return sum(seen.values())


def disk_bytes(model: nn.Module) -> int:
    """Size of the state dict as a file."""
    with tempfile.TemporaryFile() as file:
        torch.save(model.state_dict(), file)
        return file.tell()


def resident_peak() -> int | None:
    """Highest resident memory of this process, in bytes, since it began or since `reset_peak`; None off Linux."""
    if sys.platform != "linux":
        return None
    lines = (_PROCESS / "status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])


def reset_peak() -> None:
    """Let the highest resident memory begin at the present one, after freed memory has gone back to the system."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        # See proc(5): 5 resets the peak and nothing else.
        (_PROCESS / "clear_refs").write_text("5")


def measure_memory(
    spec: SystemSpec, batch: Sequence[Clip], settings: GenerationSettings
) -> tuple[int | None, int | None]:
    """Resident memory (before opening the model, peak while transcribing) of a process of its own, in bytes."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    loaded = [in_memory(clip) for clip in batch]
    process = context.Process(target=_memory_of, args=(spec, loaded, settings, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"the process that measures the memory of {spec.name} ended with status {process.exitcode}: its message is "
            "above"
        ) from None
    finally:
        process.join()


def _memory_of(spec: SystemSpec, batch: Sequence[Clip], settings: GenerationSettings, answer: Connection) -> None:
    on_gpu = torch.device(spec.device).type == "cuda"
    reset_peak()
    idle = 0 if on_gpu else resident_peak()
    system = open_system(spec)
    reset_peak()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    transcribe_batch(system, batch, settings)
    answer.send((idle, torch.cuda.max_memory_allocated() if on_gpu else resident_peak()))


def measure_costs(
    specs: Sequence[SystemSpec],
    batch: Sequence[Clip],
    *,
    settings: GenerationSettings,
    repeats: int = 3,
) -> list[Cost]:
    """Costs of all systems on the same clips.

    Time is measured in rounds that give each system one turn, so that other work on the machine hits all alike; the
    first round warms up and is not counted. Raises `ValueError` without a clip or a repetition.
    """
    if not batch or repeats < 1:
        raise ValueError(f"expected clips and at least one repetition, got {len(batch)} clips and {repeats}")
    memory = {spec.name: measure_memory(spec, batch, settings) for spec in specs}
    systems = [open_system(spec) for spec in specs]
    # Now: some kernels pack their weights anew when they first run.
    saved = {system.name: disk_bytes(system.model) for system in systems}
    loaded = [in_memory(clip) for clip in batch]
    spoken = sum(map(audio_seconds, (clip.audio for clip in loaded)))
    times: dict[str, list[float]] = {spec.name: [] for spec in specs}
    for turn in range(repeats + 1):
        for system in systems[turn % len(systems) :] + systems[: turn % len(systems)]:
            made = transcribe_batch(system, loaded, settings)
            if turn > 0:
                times[system.name].append(sum(hypothesis.seconds for hypothesis in made))
    costs = []
    for spec, system in zip(specs, systems, strict=True):
        reference = times.get(spec.unquantized().name)
        ratios = [mine / its for mine, its in zip(times[spec.name], reference or [], strict=False)]
        idle, peak = memory[spec.name]
        costs.append(
            Cost(
                system=spec.name,
                model=spec.model_label,
                precision=spec.precision,
                parameters=_parameters(system.model),
                weight_bytes=weight_bytes(system.model),
                disk_bytes=saved[spec.name],
                idle_bytes=idle,
                peak_bytes=peak,
                seconds_per_second=median(times[spec.name]) / spoken,
                time_ratio=median(ratios) if ratios else None,
                low_ratio=min(ratios, default=None),
                high_ratio=max(ratios, default=None),
            )
        )
    return costs


def _parameters(model: nn.Module) -> int:
    """Number of weights; those of a packed layer by its shape before it was packed."""
    total = 0
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            packed = isinstance(module, nn.Linear) and name == "weight"
            total += module.in_features * module.out_features if packed else parameter.numel()
    tied = getattr(model, "proj_out", None)
    return total - (tied.weight.numel() if tied is not None and model.config.tie_word_embeddings else 0)
