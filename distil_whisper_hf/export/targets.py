"""What an expert can be written as."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A form of an exported expert.

    Attributes:
        opened_by: what opens it.
        dtypes: what its weights can be stored in, the default first.
        libraries: what writing it needs beside the package's own requirements.
        keeps_gates: whether gates that close are in it.
    """

    opened_by: str
    dtypes: tuple[str, ...]
    libraries: tuple[str, ...] = ()
    keeps_gates: bool = False


TARGETS = {
    "whisper": Target("transformers, as any Whisper", ("float32", "float16", "bfloat16")),
    "peft": Target("peft, beside its base", ("float32", "float16", "bfloat16"), ("peft",)),
    "ctranslate2": Target(
        "faster-whisper and CTranslate2", ("float32", "float16", "bfloat16", "int8"), ("ctranslate2",)
    ),
    "ggml": Target("whisper.cpp", ("float16",)),
    "onnx": Target("onnxruntime", ("float32",), ("onnx", "onnxscript"), keeps_gates=True),
}


def check_dtype(name: str, dtype: str | None) -> str:
    """The type to store the weights of a target in, its default where none is given; ValueError for another one."""
    known = TARGETS[name].dtypes
    if dtype is not None and dtype not in known:
        raise ValueError(f"Expected --dtype {' or '.join(known)} for {name}, got {dtype}.")
    return dtype or known[0]
