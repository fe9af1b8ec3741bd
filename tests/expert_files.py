"""Expert files changed from outside: what damages them, and what somebody would write who knows the format."""

from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from distil_whisper_hf.expert_header import header_digest, tensors_digest


def header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def rewrite(path: Path, *, metadata: dict | None = None, tensors: dict | None = None, signed: bool = True) -> None:
    """The same file with some metadata or tensors replaced (None removes), and with new hashes if it has some."""
    held = {key: value for key, value in (load_file(path) | (tensors or {})).items() if value is not None}
    said = {key: value for key, value in (header(path) | (metadata or {})).items() if value is not None}
    if signed and "distil_whisper.header_sha256" in said:
        said["distil_whisper.tensors_sha256"] = tensors_digest(held)
        said["distil_whisper.header_sha256"] = header_digest(said)
    save_file(held, path, metadata=said)


def as_format_1(path: Path) -> None:
    """The file as version 0.1 wrote it."""
    new = ("tensors_sha256", "header_sha256", "reader")
    rewrite(path, metadata={"distil_whisper.format": "1"} | {f"distil_whisper.{key}": None for key in new})
