"""What a training run is: everything that decides its outcome, kept in `run.json`, so that no other goes on with it."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

from .. import __version__
from ..checkpoints import fingerprint_base
from ..data.atomic_files import remove, write_json
from ..data.clips import Clip
from ..secret_tokens import without_tokens
from ..training.resuming import checkpoints, file_digests
from .output_folders import CONTENTS

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
# Steps, seconds and digests of what was trained: the run is over, and its tests may come later.
OUTCOME_FILE = "training.json"
SCORES_FILE = "scores.json"
# Fields of TrainingArguments that change no weight.
_IDLE = re.compile(
    r"dataloader_(num_workers|persistent_workers|pin_memory|prefetch_factor|multiprocessing_context)|ddp_(backend|timeout)"
    r"|debug|disable_tqdm|do_(train|eval|predict)|enable_jit_checkpoint|hub_\w+|local_rank|log\w+|output_dir|project"
    r"|push_to_hub|report_to|restore_callback_states_from_checkpoint|resume_from_checkpoint|run_name"
    r"|skip_memory_metrics|torch_empty_cache_steps|trackio_\w+|use_cpu"
)
# They do where the best checkpoint is what a run ends with, or a schedule follows the scores.
_CHOOSING = re.compile(r"save_\w+|eval_\w+|per_device_eval_batch_size|greater_is_better|metric_for_best_model")
_FOLLOWING = ("reduce_lr_on_plateau", "greedy")
# Fields of a clip that no step sees.
_UNSEEN = {
    "age",
    "anchor",
    "audio",
    "dataset",
    "domain",
    "down_votes",
    "gender",
    "previous",
    "speaker",
    "up_votes",
}
# Fields of a model's configuration that say where it came from.
_ORIGIN = {
    "_name_or_path",
    "architectures",
    "base_model_name_or_path",
    "dtype",
    "language_experts",
    "transformers_version",
}


@dataclass(frozen=True)
class RunRecord:
    """A run.

    Attributes:
        decides: name -> value of all that decides the outcome; names are as in a sentence.
        notes: where it ran, and with which versions, which may differ in the last bits.
    """

    decides: Mapping[str, Any]
    notes: Mapping[str, str]

    @property
    def id(self) -> str:
        return hashlib.sha256(json.dumps(self.decides, sort_keys=True).encode()).hexdigest()[:32]

    def write(self, folder: Path) -> None:
        write_json(folder / RUN_FILE, {"id": self.id, "decides": self.decides, "notes": self.notes})


def run_record(
    *, models: Mapping[str, PreTrainedModel], clips: Mapping[str, Any], arguments: Mapping[str, Any], training: Any
) -> RunRecord:
    """The record of a run.

    Args:
        models: what it is called ("base", "teacher") -> the model as it was opened.
        clips: what they are called -> clips, or what a stream is known by.
        arguments: further ones by name, None for defaults that stand for nothing.
        training: TrainingArguments.
    """
    decides: dict[str, Any] = {}
    for name, model in models.items():
        decides[f"{name} weights"] = _weights_digest(model)
        decides |= {f"{name} {key}": value for key, value in model.config.to_dict().items() if key not in _ORIGIN}
    for name, some in clips.items():
        decides[name] = clips_digest(some) if isinstance(some, list) else some
    decides |= {f"--{name}": value for name, value in {**arguments, **_training_arguments(training)}.items()}
    libraries = {name: version(name) for name in ("torch", "transformers", "accelerate", "numpy")}
    notes = {"distil_whisper_hf": __version__, "python": platform.python_version(), **libraries}
    notes["device"] = torch.cuda.get_device_name(training.device) if training.device.type == "cuda" else "cpu"
    # As it will be read again.
    return RunRecord(json.loads(without_tokens(json.dumps(decides, default=str))), notes)


def _weights_digest(model: PreTrainedModel) -> str:
    own = ((name, tensor) for name, tensor in model.base_model.named_parameters() if ".language_experts." not in name)
    return hashlib.sha256(json.dumps(fingerprint_base(own), sort_keys=True).encode()).hexdigest()[:32]


def clips_digest(clips: Sequence[Clip]) -> dict[str, Any]:
    """Number and digest of clips, in their order: audio, texts, languages and experts, not the folder they lie in."""
    names = [field.name for field in fields(Clip) if field.name not in _UNSEEN]
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(json.dumps([getattr(clip, name) for name in names], default=str).encode())
    return {"clips": len(clips), "digest": digest.hexdigest()[:32]}


def _training_arguments(training: TrainingArguments) -> dict[str, Any]:
    values = training.to_dict()
    found = {name: value for name, value in values.items() if not _IDLE.fullmatch(name)}
    if not training.load_best_model_at_end and training.lr_scheduler_type not in _FOLLOWING:
        found = {name: value for name, value in found.items() if not _CHOOSING.fullmatch(name)}
    return {**found, "processes": training.world_size, "devices": max(1, training.n_gpu)}


def read_run(folder: Path) -> dict[str, Any] | None:
    """The content of `run.json`; None where there is none.

    Raises:
        ValueError: it cannot be read.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"id": str(found["id"]), "decides": dict(found["decides"]), "notes": dict(found["notes"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"Expected the record of a run in {str(path)!r}, got another file. Start anew: --overwrite."
        ) from error


def check_no_run(folder: Path) -> None:
    """Refuse a folder with a run in it, which a new one would mix with or write over; FileExistsError."""
    held = run_files(folder)
    if held:
        raise FileExistsError(
            f"Expected a folder without a run in --output_dir, {str(folder)!r} holds one ({held[0].name}): go on with "
            "it (--resume), start anew in its place (--overwrite), or set another one."
        )


def begin_run(folder: Path, record: RunRecord, *, resume: bool, overwrite: bool) -> None:
    """Make a folder ready for a run, whose record is then in it.

    Args:
        folder: of the run.
        record: of the run that is asked for.
        resume: the run in the folder, if there is one, goes on.
        overwrite: remove the run in the folder.

    Raises:
        ValueError: the run that is to go on is another one; the message names what differs.
    """
    if overwrite:
        for path in run_files(folder):
            remove(path)
    there = read_run(folder) if resume else None
    if there is None:
        held = run_files(folder)
        if held:
            raise ValueError(
                f"Expected the record of a run ({RUN_FILE}) beside {held[0].name} in {str(folder)!r}, found none: "
                "what is there is of no known run. Start anew in its place (--overwrite), or set another --output_dir."
            )
        record.write(folder)
        return
    differing = differences(there["decides"], record.decides)
    if differing:
        raise ValueError(
            f"Expected to go on with the run in {str(folder)!r}, this is another one: {'; '.join(differing)}. Repeat "
            "it as it was, start anew in its place (--overwrite), or set another --output_dir."
        )
    changed = [f"{name} {there['notes'].get(name)} -> {value}" for name, value in record.notes.items()
               if there["notes"].get(name) != value]  # fmt: skip
    if changed:
        logger.warning("The run began elsewhere (%s): its outcome may differ in the last bits.", ", ".join(changed))


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What two runs differ in, in words. What one of them alone knows came with another version: no difference."""
    found = []
    for name in sorted(there.keys() & here.keys()):
        if there[name] != here[name]:
            found.append(f"{name} was {_shown(there[name])}, is {_shown(here[name])}")
    return found


def _shown(value: Any) -> str:
    if isinstance(value, dict) and {"clips", "digest"} == value.keys():
        return f"{value['clips']} clips ({value['digest'][:8]})"
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 60 else f"{text[:57]}..."


def run_files(folder: Path) -> list[Path]:
    """What a run left in its folder, in the order in which it can be removed: what rests on other files goes first."""
    names = [SCORES_FILE, OUTCOME_FILE, "results.*.json", *(pattern for _, pattern in CONTENTS.values())]
    return [*(path for name in names for path in sorted(folder.glob(name))), *checkpoints(folder)]


def outcome_of(folder: Path, run_id: str) -> dict[str, Any] | None:
    """What a run ended with, if it is over and its weights are those that it wrote."""
    try:
        outcome = json.loads((folder / OUTCOME_FILE).read_text(encoding="utf-8"))
        if outcome["run"] == run_id and file_digests(folder, outcome["files"]) == outcome["files"]:
            return outcome
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def weight_digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of the weights that a training left."""
    names = sorted(path.name for _, pattern in CONTENTS.values() for path in folder.glob(pattern))
    return file_digests(folder, names)


def write_outcome(folder: Path, run_id: str, outcome: Mapping[str, Any]) -> None:
    """Keep what a run ended with, with digests of its weights: the last file that its training writes."""
    write_json(folder / OUTCOME_FILE, {**outcome, "run": run_id, "files": weight_digests(folder)})
