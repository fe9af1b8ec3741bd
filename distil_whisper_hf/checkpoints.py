"""Expert files: how a language expert is named, described, checked, read and written.

An expert is one file, `expert.<name>.safetensors`. Its tensors are named from the layer down
(`encoder.layers.0.fc1.weight`, `decoder.layers.3.gate_out.weight`), its header says what it is and what it fits:

    distil_whisper.format     "1"
    distil_whisper.expert     JSON: name, language, training summary, `sides` where it is not in both
    distil_whisper.geometry   JSON: the sizes that it was made for (see GEOMETRY)
    distil_whisper.base       JSON: base model's name and fingerprint
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from .configuration_distil_whisper import EXPERT_SIDES, DistilWhisperConfig, check_expert_name, check_sides
from .languages import WHISPER_LANGUAGES
from .original_release import original_filename, read_original_expert

FORMAT_VERSION = "1"
PREFIX = "distil_whisper."
GEOMETRY = (
    "d_model",
    "encoder_layers",
    "decoder_layers",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "gate_dim",
    "activation_function",
)
FINGERPRINT_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FINGERPRINT_SAMPLES = 1024
# A file beside the index that names it, and nowhere else.
SHARD_FILE = re.compile(r"[\w-][\w.-]*\.safetensors")


class ExpertFileError(ValueError):
    """An expert file that is damaged, of another format, or made for another model."""


@dataclass(frozen=True)
class ExpertFile:
    """What an expert file holds. `fingerprint` is empty where the file has none (the original release); `sides` is
    "both", or the only one of "encoder" and "decoder" that the expert has layers in."""

    name: str
    language: str | None
    tensors: dict[str, torch.Tensor]
    base_model: str | None = None
    fingerprint: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    sides: str = "both"

    @property
    def entry(self) -> dict[str, Any]:
        """What the configuration of a model says of it, but for its language's token."""
        sides = {} if self.sides == "both" else {"sides": self.sides}
        return {"language": self.language, "training": self.training, **sides}


def expert_filename(name: str) -> str:
    """File name of an expert: "ca" -> "expert.ca.safetensors"."""
    return f"expert.{check_expert_name(name)}.safetensors"


def expert_shapes(config: DistilWhisperConfig, sides: str = "both") -> dict[str, tuple[int, ...]]:
    """Every tensor of one expert for this configuration, by name, with its shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    for side in EXPERT_SIDES[sides]:
        width, hidden = config.d_model, getattr(config, f"{side}_ffn_dim")
        for layer in range(getattr(config, f"{side}_layers")):
            for key, shape in {
                "fc1.weight": (hidden, width),
                "fc1.bias": (hidden,),
                "fc2.weight": (width, hidden),
                "fc2.bias": (width,),
                "gate_in.weight": (config.gate_dim, width),
                "gate_in.bias": (config.gate_dim,),
                "gate_out.weight": (1, config.gate_dim),
            }.items():
                shapes[f"{side}.layers.{layer}.{key}"] = shape
    return shapes


def fingerprint_base(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, str]:
    """Fingerprint of a base model, one for each floating-point type that it can be compared in.

    SHA-256 over an even sample of every tensor, so it takes milliseconds and still changes with any training run. A
    float32 model also gives the fingerprints it would have after rounding to float16 and bfloat16, so an expert made on
    a float32 base is recognised on the same base opened in half precision. Quantised (integer) tensors are passed over,
    and a model that has any is fingerprinted without linear layers' weights (see `unquantized`).
    """
    named = sorted(tensors)
    quantized = any(not tensor.is_floating_point() for _, tensor in named)
    kept = [(name, tensor) for name, tensor in named if not (quantized and _is_linear_weight(name, tensor))]
    dtypes = {tensor.dtype for _, tensor in kept}
    prints = {}
    for label, dtype in FINGERPRINT_DTYPES.items():
        if dtypes != {torch.float32} and dtypes != {dtype}:
            continue
        for group in ("all", "unquantized"):
            if group == "all" and quantized:
                continue
            digest = hashlib.sha256()
            for name, tensor in kept:
                if group == "unquantized" and _is_linear_weight(name, tensor):
                    continue
                flat = tensor.detach().flatten()
                sample = flat[:: max(1, flat.numel() // FINGERPRINT_SAMPLES)].to(dtype).to("cpu", torch.float32)
                digest.update(f"{name}{tuple(tensor.shape)}".encode())
                digest.update(sample.numpy().tobytes())
            prints[f"{label}/{group}"] = digest.hexdigest()
    return prints


def _is_linear_weight(name: str, tensor: torch.Tensor) -> bool:
    return ".layers." in name and "norm" not in name


def read_expert(name: str, source: str | os.PathLike, config: DistilWhisperConfig, **hub: Any) -> ExpertFile:
    """Read and check expert `name` for a model of this configuration.

    Args:
        name: the expert.
        source: a folder, a Hub repository, or the file itself; ours or the original release's, or a whole checkpoint.
        config: the model that it is read for.
        hub: `revision`, `token`, `cache_dir`, `local_files_only`, ... for a Hub repository.

    Raises:
        FileNotFoundError: neither `expert.<name>.safetensors` nor the original's file nor a checkpoint with it.
        ExpertFileError: the file is damaged, of another format version, another expert, or of another geometry.
    """
    path = find_expert(name, source, **hub)
    if path is not None:
        expert = _read_original(name, path) if path.suffix == ".bin" else _read_safetensors(name, path, config)
    else:
        path = Path(source)
        expert = _read_checkpoint(name, source, **hub)
    _check_tensors(expert, path, config)
    return expert


def find_expert(name: str, source: str | os.PathLike, **hub: Any) -> Path | None:
    """Local path of expert `name` in a folder or repository, ours before the original's; None if it has none."""
    check_expert_name(name)
    if Path(source).is_file():
        return Path(source)
    for filename in (expert_filename(name), original_filename(name)):
        if filename is None:
            continue
        found = cached_file(source, filename, _raise_exceptions_for_missing_entries=False, **hub)
        if found is not None:
            return Path(found)
    return None


def local_experts(folder: str | os.PathLike) -> dict[str, Path]:
    """Expert files in a local folder, by expert name."""
    paths = Path(folder).glob("expert.*.safetensors") if Path(folder).is_dir() else ()
    return {path.name.removeprefix("expert.").removesuffix(".safetensors"): path for path in paths}


class ExpertHeader(NamedTuple):
    """What an expert's file says about itself."""

    name: str
    language: str | None
    training: dict[str, Any]
    base_model: str | None
    fingerprint: dict[str, str]
    geometry: dict[str, Any]
    sides: str


def read_header(where: str | os.PathLike, header: Mapping[str, str] | None = None) -> ExpertHeader:
    """Read and check the header of an expert's file, or one that was read from it already.

    Raises:
        ExpertFileError: a damaged file, another format version, or entries that are not what they should be.
    """
    if header is None:
        try:
            with safe_open(where, framework="pt") as file:
                header = file.metadata() or {}
        except SafetensorError as error:
            raise ExpertFileError(
                f"{where}: expected a complete safetensors file, got a damaged one ({error}). Download it again."
            ) from error
    version = header.get(PREFIX + "format")
    if version != FORMAT_VERSION:
        raise ExpertFileError(
            f"{where}: expected an expert file of format {FORMAT_VERSION}, got {version or 'a file without a format'}. "
            "Open it with the version of distil_whisper_hf that wrote it."
        )
    try:
        expert, geometry, base = (json.loads(header[PREFIX + part]) for part in ("expert", "geometry", "base"))
        found = ExpertHeader(
            check_expert_name(expert["name"]),
            expert["language"],
            expert["training"],
            base["model"],
            base["fingerprint"],
            geometry,
            check_sides(expert.get("sides", "both")),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ExpertFileError(
            f"{where}: expected a header that describes an expert, got a damaged one ({error})."
        ) from error
    texts, tables = (found.language, found.base_model), (found.training, found.fingerprint, found.geometry)
    if not all(one is None or isinstance(one, str) for one in texts) or not all(
        isinstance(one, dict) for one in tables
    ):
        raise ExpertFileError(f"{where}: expected a header that describes an expert, got entries of other types.")
    return found


def _read_safetensors(name: str, path: Path, config: DistilWhisperConfig) -> ExpertFile:
    header = read_header(path)
    if header.name != name:
        raise ExpertFileError(
            f"{path}: expected expert {name!r}, the file holds {header.name!r}. Load it under that name."
        )
    wanted = {key: getattr(config, key) for key in GEOMETRY}
    differing = [
        f"{key}: the model has {wanted[key]}, the expert {header.geometry.get(key)}"
        for key in GEOMETRY
        if wanted[key] != header.geometry.get(key)
    ]
    if differing:
        raise ExpertFileError(
            f"{path}: expected an expert for this model, got one of another geometry ({'; '.join(differing)}). "
            f"It was made for {header.base_model!r}."
        )
    tensors = load_file(path)
    return ExpertFile(
        name, header.language, tensors, header.base_model, header.fingerprint, header.training, header.sides
    )


def _read_original(name: str, path: Path) -> ExpertFile:
    try:
        tensors = read_original_expert(path)
    except ValueError as error:
        raise ExpertFileError(f"{path}: {error}") from error
    return ExpertFile(name, name if name in WHISPER_LANGUAGES else None, tensors)


def _read_checkpoint(name: str, source: str | os.PathLike, **hub: Any) -> ExpertFile:
    """Read an expert out of a whole checkpoint, with the fingerprint of the base beside it."""
    optional = {"_raise_exceptions_for_missing_entries": False, **hub}
    stored = cached_file(source, CONFIG_NAME, **optional)
    experts = json.loads(Path(stored).read_text()).get("language_experts", {}) if stored is not None else {}
    files = []
    single, index = (cached_file(source, file, **optional) for file in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME))
    if name in experts and single is not None:
        files = [single]
    elif name in experts and index is not None:
        shards = set(json.loads(Path(index).read_text())["weight_map"].values())
        outside = sorted(str(shard) for shard in shards if not SHARD_FILE.fullmatch(str(shard)))
        if outside:
            raise ExpertFileError(f"{index}: expected names of weight files beside it, got {outside[0]!r}.")
        # One that is missing raises here.
        files = [cast(str, cached_file(source, shard, **hub)) for shard in sorted(shards)]
    if not files:
        there = ", ".join(sorted({*local_experts(source), *experts})) or "none"
        raise FileNotFoundError(
            f"Expected expert {name!r} in {str(source)!r}, as {expert_filename(name)} or inside a whole checkpoint, "
            f"found neither (experts there: {there})."
        )
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        tensors |= load_file(file)
    tensors = {key.removeprefix("model."): tensor for key, tensor in tensors.items()}
    mark = f".language_experts.{name}."
    base = {key: tensor for key, tensor in tensors.items() if ".language_experts." not in key}
    base.pop("proj_out.weight", None)
    return ExpertFile(
        name,
        experts[name].get("language"),
        {key.replace(mark, "."): tensor for key, tensor in tensors.items() if mark in key},
        str(source),
        fingerprint_base(base.items()),
        experts[name].get("training", {}),
        check_sides(experts[name].get("sides", "both")),
    )


def _check_tensors(expert: ExpertFile, path: Path, config: DistilWhisperConfig) -> None:
    wanted = expert_shapes(config, expert.sides)
    missing = sorted(wanted.keys() - expert.tensors.keys())
    stray = sorted(expert.tensors.keys() - wanted.keys())
    if missing or stray:
        raise ExpertFileError(
            f"{path}: expected {len(wanted)} tensors; missing: {missing[:3] or 'none'} ({len(missing)}), "
            f"not of an expert: {stray[:3] or 'none'} ({len(stray)}). The file is not an expert of this model."
        )
    for key, shape in wanted.items():
        tensor = expert.tensors[key]
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            raise ExpertFileError(
                f"{path}: expected {key} as floating point {shape}, got {tensor.dtype} {tuple(tensor.shape)}."
            )


def check_base(expert: ExpertFile, fingerprint: dict[str, str], base_model: str | None) -> None:
    """Refuse an expert that was trained on other base weights than a model with this fingerprint has."""
    check_same_base(expert.name, expert.fingerprint, fingerprint, expert.base_model, base_model)


def check_same_base(
    name: str, mine: dict[str, str], here: dict[str, str], my_base: str | None, base_here: str | None
) -> None:
    """Refuse expert `name` if its fingerprint `mine` is not that of the base `here`; without a common one, accept."""
    comparable = sorted(mine.keys() & here.keys())
    if any(mine[key] != here[key] for key in comparable):
        raise ExpertFileError(
            f"Expected expert {name!r} to be made for this base ({base_here!r}), but it was made on other "
            f"weights ({my_base!r}, fingerprint {mine[comparable[0]][:12]}, here "
            f"{here[comparable[0]][:12]}). Open its own base, or train it again on this one."
        )


def write_expert(expert: ExpertFile, folder: str | os.PathLike, config: DistilWhisperConfig) -> Path:
    """Write `expert.<name>.safetensors` into `folder`, beside and renamed, so that no reader sees half a file."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / expert_filename(expert.name)
    geometry = {key: getattr(config, key) for key in GEOMETRY}
    about = {"name": expert.name, **expert.entry}
    metadata = {
        "format": "pt",
        PREFIX + "format": FORMAT_VERSION,
        PREFIX + "expert": json.dumps(about, sort_keys=True),
        PREFIX + "geometry": json.dumps(geometry, sort_keys=True),
        PREFIX + "base": json.dumps({"model": expert.base_model, "fingerprint": expert.fingerprint}, sort_keys=True),
    }
    tensors = {key: tensor.detach().to("cpu").contiguous() for key, tensor in expert.tensors.items()}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".expert-") as beside:
        save_file(tensors, Path(beside) / target.name, metadata=metadata)
        _order_header(Path(beside) / target.name)
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
