"""Expert files and checkpoints: how a language expert is named, checked, read and written.

An expert is one file, `expert.<name>.safetensors`. Its tensors are named from the layer down
(`encoder.layers.0.fc1.weight`, `decoder.layers.3.gate_out.weight`), its header says what it is and what it fits (see
`expert_header`). Everything is checked before a model sees any of it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.utils import CONFIG_NAME, logging

from .base_fingerprint import FINGERPRINT_DTYPES, check_same_base, fingerprint_base
from .configuration_distil_whisper import (
    EXPERT_NAME,
    DistilWhisperConfig,
    check_expert_name,
    check_experts,
)
from .expert_form import ATTENTIONS, FORM_FIELDS, FULL, ExpertForm
from .expert_header import GEOMETRY, HEADER_LIMIT, ExpertHeader, read_header, tensors_digest, write_header
from .languages import WHISPER_LANGUAGES
from .original_release import original_filename, read_original_expert
from .untrusted_files import (
    ExpertFileError,
    MissingExpertError,
    check_finite,
    check_shapes,
    local_place,
    open_tensors,
    read_json,
    reading,
    shapes_of,
    stored_file,
    stored_shapes,
)
from .whole_checkpoint import check_finite_inside, read_base, read_inside, shapes_inside, weight_files

logger = logging.get_logger(__name__)

# What a configuration says of an expert that its file says elsewhere.
ENTRY_FIELDS = ("language", "language_token_id", "training", *FORM_FIELDS)


@dataclass(frozen=True)
class ExpertFile:
    """What an expert file holds.

    Attributes:
        tensors: by name, in memory of their own, all of one floating-point type.
        fingerprint: empty where the file has none (the original release).
        extra: fields that this version does not know, kept from loading to saving.
    """

    name: str
    language: str | None
    tensors: dict[str, torch.Tensor]
    base_model: str | None = None
    fingerprint: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    form: ExpertForm = FULL
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def entry(self) -> dict[str, Any]:
        """What the configuration of a model says of it, but for its language's token."""
        return {**self.extra, "language": self.language, "training": self.training, **self.form.entry}


def expert_filename(name: str) -> str:
    """File name of an expert: "ca" -> "expert.ca.safetensors"."""
    return f"expert.{check_expert_name(name)}.safetensors"


def expert_shapes(config: DistilWhisperConfig, form: ExpertForm = FULL) -> dict[str, tuple[int, ...]]:
    """Every tensor of one expert for this configuration, by name, with its shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    for side in form.stacks:
        width, hidden, rank = config.d_model, getattr(config, f"{side}_ffn_dim"), form.rank_of(side)
        linear = {}
        if "ffn" in form.parts:
            linear = {"fc1": (hidden, width), "fc2": (width, hidden)}
        for attention in ATTENTIONS[side]:
            linear |= {f"{attention}.{part}": (width, width) for part in form.parts if part != "ffn"}
        layer_shapes: dict[str, tuple[int, ...]] = {}
        for name, (outputs, inputs) in linear.items():
            if rank is None:
                layer_shapes |= {f"{name}.weight": (outputs, inputs)}
            else:
                layer_shapes |= {f"{name}.lora_A": (rank, inputs), f"{name}.lora_B": (outputs, rank)}
            if rank is None or form.bias:
                layer_shapes |= {f"{name}.bias": (outputs,)}
        if "ffn" in form.parts:
            layer_shapes |= {
                "gate_in.weight": (config.gate_dim, width),
                "gate_in.bias": (config.gate_dim,),
                "gate_out.weight": (1, config.gate_dim),
            }
        for layer in range(getattr(config, f"{side}_layers")):
            shapes |= {f"{side}.layers.{layer}.{key}": shape for key, shape in layer_shapes.items()}
    return shapes


def read_expert(name: str, source: str | os.PathLike, config: DistilWhisperConfig, **hub: Any) -> ExpertFile:
    """Read and check expert `name` for a model of this configuration.

    Args:
        name: the expert.
        source: a folder, a Hub repository, or the file itself; ours or the original release's, or a whole checkpoint.
            What looks like a path (see `places.looks_like_path`) is none on the Hub.
        config: the model that it is read for.
        hub: `revision`, `token`, `cache_dir`, `local_files_only`, ... for a Hub repository.

    Raises:
        MissingExpertError: neither `expert.<name>.safetensors` nor the original's file nor a checkpoint with it; it is
            an ExpertFileError and a FileNotFoundError.
        ExpertFileError: the file is damaged, of another format version, another expert, or of another geometry.
    """
    path = find_expert(name, source, **hub)
    if path is None:
        return _read_checkpoint(name, source, config, **hub)
    return _read_original(name, path, config) if path.suffix == ".bin" else _read_safetensors(name, path, config)


def find_expert(name: str, source: str | os.PathLike, **hub: Any) -> Path | None:
    """Local path of expert `name` in a folder or repository, ours before the original's; None if it has none.

    Raises:
        MissingExpertError: no such file, folder or repository.
    """
    check_expert_name(name)
    place = local_place(source)
    if place is not None and not place.is_dir():
        return place
    filenames = [filename for filename in (expert_filename(name), original_filename(name)) if filename is not None]
    found = (stored_file(source, filename, **hub) for filename in filenames)
    return next((path for path in found if path is not None), None)


def local_experts(folder: str | os.PathLike) -> dict[str, Path]:
    """Expert files in a local folder, by expert name."""
    paths = Path(folder).glob("expert.*.safetensors") if Path(folder).is_dir() else ()
    named = {path.name.removeprefix("expert.").removesuffix(".safetensors"): path for path in paths}
    return {name: path for name, path in named.items() if EXPERT_NAME.fullmatch(name)}


def _read_safetensors(name: str, path: Path, config: DistilWhisperConfig) -> ExpertFile:
    with open_tensors(path, header_limit=HEADER_LIMIT) as file:
        header = read_header(path, file.metadata() or {})
        _check_fits(name, path, header, config)
        stored = stored_shapes(file)
        check_shapes(path, stored, expert_shapes(config, header.form), header.extra)
        # Copies: what happens to the file later must not happen to a model.
        tensors = {key: file.get_tensor(key).clone() for key in stored}
    if header.tensors_sha256 is None:
        logger.warning_once(
            f"{path} is an expert file of format 1, which has no hash: damage to its numbers cannot be told. To "
            f"rewrite it, load it on its base and call `model.save_expert({name!r}, folder)`."
        )
    elif header.tensors_sha256 != tensors_digest(tensors):
        raise ExpertFileError(
            f"{path}: expected tensors with the hash that stands in the header, got others: the file was damaged. "
            "Download it again."
        )
    check_finite(path, tensors)
    return ExpertFile(
        name,
        header.language,
        tensors,
        header.base_model,
        header.fingerprint,
        header.training,
        header.form,
        header.extra,
    )


def _check_fits(name: str, path: Path, header: ExpertHeader, config: DistilWhisperConfig) -> None:
    if header.name != name:
        raise ExpertFileError(
            f"{path}: expected expert {name!r}, the file holds {header.name!r}. Load it under that name."
        )
    wanted = {key: getattr(config, key) for key in GEOMETRY}
    differing = [
        f"{key}: the model has {wanted[key]}, the expert {header.geometry[key]}"
        for key in GEOMETRY
        if wanted[key] != header.geometry[key]
    ]
    if differing:
        raise ExpertFileError(
            f"{path}: expected an expert for this model, got one of another geometry ({'; '.join(differing)}). "
            f"It was made for {header.base_model!r}."
        )


def _read_original(name: str, path: Path, config: DistilWhisperConfig) -> ExpertFile:
    with reading(path) as size:
        found = read_original_expert(path, size)
    check_shapes(path, shapes_of(found), expert_shapes(config))
    # Tensors may share memory in a pickle.
    tensors = {key: tensor.clone() for key, tensor in found.items()}
    check_finite(path, tensors)
    return ExpertFile(name, name if name in WHISPER_LANGUAGES else None, tensors)


def _read_checkpoint(name: str, source: str | os.PathLike, config: DistilWhisperConfig, **hub: Any) -> ExpertFile:
    """Read an expert out of a whole checkpoint, with the fingerprint of the base beside it."""
    stored = stored_file(source, CONFIG_NAME, **hub)
    experts = {} if stored is None else listed_experts(read_json(stored), stored)
    files = weight_files(source, **hub) if name in experts else []
    if not files:
        there = ", ".join(sorted({*local_experts(source), *experts})) or "none"
        raise MissingExpertError(
            f"Expected expert {name!r} in {str(source)!r}, as {expert_filename(name)} or inside a whole checkpoint, "
            f"found neither (experts there: {there})."
        )
    entry = experts[name]
    expert = ExpertFile(
        name,
        entry.get("language"),
        read_inside(name, files),
        str(source),
        fingerprint_base(read_base(files).items()),
        entry.get("training") or {},
        ExpertForm.from_entry(entry),
        extra_fields(entry),
    )
    check_shapes(files[0], shapes_of(expert.tensors), expert_shapes(config, expert.form), expert.extra)
    check_finite(files[0], expert.tensors)
    return expert


def check_inside(names: Sequence[str], files: Sequence[Path], config: DistilWhisperConfig) -> None:
    """Refuse experts of a configuration whose tensors in a whole checkpoint are not all there, or not finite.

    Only headers are read until every tensor is known to be there.

    Raises:
        ExpertFileError: experts that are missing, damaged or of another geometry.
    """
    stored = shapes_inside(files)
    for name in names:
        if name not in stored:
            raise ExpertFileError(
                f"Expected expert {name!r} inside {files[0]} or beside it as {expert_filename(name)}, found neither."
            )
        entry = config.language_experts[name]
        check_shapes(files[0], stored[name], expert_shapes(config, ExpertForm.from_entry(entry)), extra_fields(entry))
    check_finite_inside(set(names), files)


def listed_experts(config_dict: Mapping[str, Any], where: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """The experts that a configuration lists, with what it says of each, checked."""
    try:
        return check_experts(config_dict.get("language_experts", {}))
    except ValueError as error:
        raise ExpertFileError(f"{where}: {error}") from error


def extra_fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration's entry of an expert says beyond what this version knows."""
    return {key: value for key, value in entry.items() if key not in ENTRY_FIELDS}


def check_base(expert: ExpertFile, fingerprint: dict[str, str], base_model: str | None) -> None:
    """Refuse an expert that was trained on other base weights than a model with this fingerprint has."""
    check_same_base(expert.name, expert.fingerprint, fingerprint, expert.base_model, base_model)


def write_expert(
    expert: ExpertFile, folder: str | os.PathLike, config: DistilWhisperConfig, *, dtype: str | None = None
) -> Path:
    """Write `expert.<name>.safetensors` into `folder`, beside and renamed, so that no reader sees half a file.

    Args:
        dtype: "float32", "float16" or "bfloat16" to store it in; None: the one that its tensors have.

    Raises:
        ExpertFileError: an expert that no reader would take: not of this configuration, with numbers that are not
            finite (or not any more in `dtype`), or without a fingerprint of its base.
        ValueError: another `dtype`, or more in its records than fits into a header.
    """
    folder = Path(folder)
    target = folder / expert_filename(expert.name)
    if dtype is not None and dtype not in FINGERPRINT_DTYPES:
        raise ValueError(f"Expected a type of {', '.join(FINGERPRINT_DTYPES)}, got {dtype!r}.")
    stored = None if dtype is None else FINGERPRINT_DTYPES[dtype]
    tensors = {key: tensor.detach().to("cpu", stored).contiguous() for key, tensor in expert.tensors.items()}
    check_shapes(target, shapes_of(tensors), expert_shapes(config, expert.form))
    check_finite(target, tensors)
    if not expert.fingerprint:
        raise ExpertFileError(
            f"{target}: expected a base whose fingerprint can be taken, got one of several floating-point types. Open "
            "the base in one, such as float32, load the expert there and save it."
        )
    metadata = write_header(
        ExpertHeader(
            expert.name,
            expert.language,
            expert.training,
            expert.base_model,
            expert.fingerprint,
            {key: getattr(config, key) for key in GEOMETRY},
            expert.form,
            expert.extra,
            tensors_digest(tensors),
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".expert-") as beside:
        save_file(tensors, Path(beside) / target.name, metadata=metadata)
        _order_header(Path(beside) / target.name)
        # Some versions of safetensors write for the owner alone, whatever other files of theirs may be read by.
        usual = Path(beside) / "usual"
        usual.touch()
        os.chmod(Path(beside) / target.name, usual.stat().st_mode)
        os.replace(Path(beside) / target.name, target)
    return target


def _order_header(path: Path) -> None:
    """Sort the metadata, which safetensors writes in any order: the same expert is the same file, of the same hash."""
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        # Spaces fill a header up; tensors stay where they are.
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))
