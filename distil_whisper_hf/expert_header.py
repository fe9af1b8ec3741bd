"""The header of an expert's file: what it says of the expert, and what proves that nothing in the file has changed.

    distil_whisper.format           "2"
    distil_whisper.reader           the first version of distil_whisper_hf that reads this format
    distil_whisper.expert           JSON: name, language, training summary, what it is made of (`ExpertForm`)
    distil_whisper.geometry         JSON: the sizes that it was made for (see GEOMETRY)
    distil_whisper.base             JSON: base model's name and fingerprint
    distil_whisper.tensors_sha256   of names, types, shapes and bytes of all tensors (see `tensors_digest`)
    distil_whisper.header_sha256    of all the entries above and any other (see `header_digest`)

Format 1 is the same without the last two and the reader. Fields that this version does not know are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .configuration_distil_whisper import check_expert_name
from .expert_form import FORM_FIELDS, FULL, ExpertForm
from .untrusted_files import ExpertFileError, open_tensors, parse_json

FORMAT_VERSION = "2"
# Format -> the first version of this package that reads it.
READERS = {"1": "0.1.0", "2": "0.2.0"}
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
# The JSON entries and the fields of each that this version knows.
FIELDS = {
    "expert": ("name", "language", "language_token_id", "training", *FORM_FIELDS),
    "geometry": GEOMETRY,
    "base": ("model", "fingerprint"),
}
DIGESTS = ("tensors_sha256", "header_sha256")
ENTRIES = ("format", *(PREFIX + entry for entry in ("format", "reader", *FIELDS, *DIGESTS)))
# Bytes: an expert of whisper-large has 50 kB.
HEADER_LIMIT = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}")


@dataclass(frozen=True)
class ExpertHeader:
    """What an expert's file says about itself.

    Attributes:
        extra: fields that this version does not know: of the expert as they are, of other entries as "geometry.field",
            "base.field" and "header.entry".
        tensors_sha256: None in format 1.
    """

    name: str
    language: str | None
    training: dict[str, Any]
    base_model: str | None
    fingerprint: dict[str, str]
    geometry: dict[str, Any]
    form: ExpertForm = FULL
    extra: dict[str, Any] = field(default_factory=dict)
    tensors_sha256: str | None = None


def write_header(header: ExpertHeader) -> dict[str, str]:
    """The metadata of a safetensors file of the newest format.

    Raises:
        ValueError: more than `HEADER_LIMIT`, which no reader would take.
    """
    known = {
        "expert": {
            "name": header.name,
            "language": header.language,
            "training": header.training,
            **header.form.entry,
        },
        "geometry": header.geometry,
        "base": {"model": header.base_model, "fingerprint": header.fingerprint},
    }
    extra = {key: value for key, value in header.extra.items() if "." not in key}
    metadata = {
        **_extra_of("header", header.extra),
        "format": "pt",
        PREFIX + "format": FORMAT_VERSION,
        PREFIX + "reader": READERS[FORMAT_VERSION],
        PREFIX + "tensors_sha256": str(header.tensors_sha256),
    }
    for entry, fields in known.items():
        more = extra if entry == "expert" else _extra_of(entry, header.extra)
        metadata[PREFIX + entry] = json.dumps({**more, **fields}, sort_keys=True)
    metadata[PREFIX + "header_sha256"] = header_digest(metadata)
    size = len(json.dumps(metadata))
    if size > HEADER_LIMIT // 2:
        raise ValueError(
            f"Expected what is said of expert {header.name!r} in {HEADER_LIMIT // 2} bytes, got {size}. Take what is "
            "long out of its `training` record."
        )
    return metadata


def _extra_of(entry: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    prefix = entry + "."
    return {key.removeprefix(prefix): value for key, value in extra.items() if key.startswith(prefix)}


def read_header(where: str | os.PathLike, metadata: Mapping[str, str] | None = None) -> ExpertHeader:
    """Read and check the header of an expert's file, or metadata that was read from it already.

    Raises:
        ExpertFileError: a damaged file, a format that this version does not read, or entries that are not what they
            should be.
    """
    if metadata is None:
        with open_tensors(where, header_limit=HEADER_LIMIT) as file:
            metadata = file.metadata() or {}
    _check_format(where, metadata)
    try:
        expert, geometry, base = (parse_json(metadata[PREFIX + entry], where) for entry in FIELDS)
        extra = {key: value for key, value in expert.items() if key not in FIELDS["expert"]}
        extra |= {f"geometry.{key}": value for key, value in geometry.items() if key not in GEOMETRY}
        extra |= {f"base.{key}": value for key, value in base.items() if key not in FIELDS["base"]}
        extra |= {f"header.{key}": value for key, value in metadata.items() if key not in ENTRIES}
        found = ExpertHeader(
            check_expert_name(expert["name"]),
            expert["language"],
            expert["training"],
            base["model"],
            base["fingerprint"],
            {key: geometry.get(key) for key in GEOMETRY},
            ExpertForm.from_entry(expert),
            extra,
            metadata.get(PREFIX + "tensors_sha256"),
        )
    except ExpertFileError:
        raise
    except (KeyError, ValueError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ExpertFileError(
            f"{where}: expected a header that describes an expert, got a damaged one ({what})."
        ) from error
    _check_types(where, found)
    return found


def _check_format(where: str | os.PathLike, metadata: Mapping[str, str]) -> None:
    version = metadata.get(PREFIX + "format")
    if version not in READERS:
        reader = metadata.get(PREFIX + "reader", "")
        newer = f"version {reader} or newer" if _VERSION.fullmatch(reader) else "a newer version"
        remedy = f"Install {newer} of distil_whisper_hf" if version else "It is no expert's file, or an old one"
        raise ExpertFileError(
            f"{where}: expected an expert file of format {' or '.join(READERS)}, got "
            f"{repr(version[:40]) if version else 'a file without a format'}. {remedy}."
        )
    # Wherever there is a hash it counts, whatever the format is said to be.
    wrong = [key for key in DIGESTS if version != "1" and not _SHA256.fullmatch(metadata.get(PREFIX + key, ""))]
    stated = metadata.get(PREFIX + "header_sha256")
    if wrong or (stated is not None and stated != header_digest(metadata)):
        raise ExpertFileError(
            f"{where}: expected a header with the hash that stands in it, got one that was changed since it was "
            "written. Download the file again."
        )


def _check_types(where: str | os.PathLike, found: ExpertHeader) -> None:
    texts, tables = (found.language, found.base_model), (found.training, found.fingerprint)
    if not all(one is None or isinstance(one, str) for one in texts) or not all(
        isinstance(one, dict) for one in tables
    ):
        raise ExpertFileError(f"{where}: expected a header that describes an expert, got entries of other types.")
    prints = found.fingerprint.values()
    if not prints or not all(isinstance(one, str) and _SHA256.fullmatch(one) for one in prints):
        raise ExpertFileError(
            f"{where}: expected the fingerprint of the base that the expert was made for, got "
            f"{'none' if not prints else 'what is none'}: nothing would tell it from another base."
        )


def header_digest(metadata: Mapping[str, str]) -> str:
    """SHA-256 of a file's metadata, but for this digest itself: as ASCII JSON with sorted keys and no spaces."""
    rest = {key: value for key, value in metadata.items() if key != PREFIX + "header_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of tensors on the CPU: of each, in the order of names, JSON [name, type, shape], then its bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(json.dumps([name, dtype, list(tensor.shape)], separators=(",", ":")).encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
