"""Damages expert files in every way that it knows, loads each, and counts what came of it: `make fuzz`.

    python tests/fuzz_expert_files.py --number 10000 --seed 0

A damaged file has to be refused as `ExpertFileError` with a sentence, the model as it was to the last bit; or it loads
as what it was before the damage (a link to the file, spaces in its header). Files without a hash (format 1, the
original release, whole checkpoints) can also load as another expert where the damage left them in order: those are
counted apart, as nothing in them could tell. Exit status 1 for anything else: a wrong expert, another exception, a
hang, memory.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import logging
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from expert_files import as_format_1, header, rewrite
from models import save_whisper, with_experts
from transformers.utils import logging as transformers_logging

from distil_whisper_hf import DistilWhisperForConditionalGeneration, ExpertFileError
from distil_whisper_hf.checkpoints import write_expert
from distil_whisper_hf.configuration_distil_whisper import MAX_EXPERTS

SIZES = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 40,
}
SECONDS = 20
# Growth of the process by one file; none of them has 8 MB.
MEMORY = 64 << 20
REFUSED, SAME, NO_HASH = "refused", "loaded as it was", "changed, no hash"
WRONG, UNCLEAR, TOUCHED, HANG, GREW = "WRONG LOAD", "UNCLEAR ERROR", "MODEL TOUCHED", "HANG", "MEMORY"
OUTCOMES = (REFUSED, SAME, NO_HASH, WRONG, UNCLEAR, TOUCHED, HANG, GREW)
FAULTS = OUTCOMES[3:]


@dataclass
class Form:
    """A way in which experts are stored.

    Attributes:
        files: name -> content of a whole one.
        target: the file that is damaged.
        hashed: whether every change of the expert can be told.
        opens: whether it is opened as a model, not loaded into one.
    """

    files: dict[str, bytes]
    target: str
    hashed: bool = False
    opens: bool = False


@dataclass
class Case:
    """A copy of a form in a folder, to be damaged. `source` is what the expert is loaded from."""

    folder: Path
    form: Form
    random: random.Random
    source: str | Path

    @property
    def path(self) -> Path:
        return self.folder / self.form.target

    @property
    def data(self) -> bytearray:
        return bytearray(self.path.read_bytes())

    def put(self, data: bytes) -> None:
        self.path.write_bytes(data)

    @property
    def parts(self) -> tuple[dict, bytes]:
        """Header and data of a safetensors file."""
        data = self.data
        size = int.from_bytes(data[:8], "little")
        return json.loads(data[8 : 8 + size]), bytes(data[8 + size :])

    def put_parts(self, header: dict | str | bytes, data: bytes) -> None:
        text = (
            header
            if isinstance(header, bytes)
            else (json.dumps(header) if isinstance(header, dict) else header).encode()
        )
        self.put(len(text).to_bytes(8, "little") + text + data)

    def header_end(self) -> int:
        """Where the data begins; a pickle's names stand at both ends."""
        data = self.data
        return 8 + int.from_bytes(data[:8], "little") if self.form.target.endswith("safetensors") else len(data) // 4

    def two_tensors(self, entries: dict) -> tuple[str, str]:
        """Two tensors of one shape."""
        shapes = {name: entry["shape"] for name, entry in entries.items() if name != "__metadata__"}
        pairs = [(one, other) for one in shapes for other in shapes if one != other and shapes[one] == shapes[other]]
        return self.random.choice(pairs)


Damage = Callable[[Case], None]
KINDS: dict[str, tuple[Damage, tuple[str, ...]]] = {}
HASHED = ("format 2", "format 2, half", "format 2, unknown fields", "compact")
SAFETENSORS = (*HASHED, "format 1", "whole")
FILES = (*SAFETENSORS, "original", "opened whole", "opened, config.json")
CONFIGS = ("whole, config.json", "opened, config.json")
EVERY = (*FILES, "whole, config.json")


def kind(name: str, forms: tuple[str, ...]) -> Callable[[Damage], Damage]:
    def register(damage: Damage) -> Damage:
        KINDS[name] = (damage, forms)
        return damage

    return register


def flip(case: Case, first: int, last: int, count: int) -> None:
    data = case.data
    for _ in range(count):
        data[case.random.randrange(first, last)] ^= 1 << case.random.randrange(8)
    case.put(data)


@kind("a bit of the header", EVERY)
def _(case: Case) -> None:
    flip(case, 0, case.header_end(), 1)


@kind("bits of the header", EVERY)
def _(case: Case) -> None:
    flip(case, 8, case.header_end(), case.random.randrange(2, 20))


@kind("a bit of the data", FILES)
def _(case: Case) -> None:
    flip(case, case.header_end(), len(case.data), 1)


@kind("bits of the data", FILES)
def _(case: Case) -> None:
    flip(case, case.header_end(), len(case.data), case.random.randrange(2, 50))


@kind("random bytes", EVERY)
def _(case: Case) -> None:
    data = case.data
    start = case.random.randrange(len(data))
    data[start : start + 16] = case.random.randbytes(len(data[start : start + 16]))
    case.put(data)


@kind("nothing but random bytes", EVERY)
def _(case: Case) -> None:
    case.put(case.random.randbytes(case.random.randrange(1, 2000)))


@kind("truncated", EVERY)
def _(case: Case) -> None:
    case.put(case.data[: case.random.randrange(len(case.data))])


@kind("truncated by a little", EVERY)
def _(case: Case) -> None:
    case.put(case.data[: -case.random.randrange(1, 40)])


@kind("empty", EVERY)
def _(case: Case) -> None:
    case.put(b"")


@kind("bytes appended", EVERY)
def _(case: Case) -> None:
    case.put(case.data + case.random.randbytes(case.random.randrange(1, 40)))


@kind("bytes before it", EVERY)
def _(case: Case) -> None:
    case.put(case.random.randbytes(case.random.randrange(1, 40)) + case.data)


@kind("bytes taken out", EVERY)
def _(case: Case) -> None:
    data = case.data
    start = case.random.randrange(len(data))
    del data[start : start + case.random.randrange(1, 64)]
    case.put(data)


@kind("bytes put in", EVERY)
def _(case: Case) -> None:
    data = case.data
    start = case.random.randrange(len(data))
    data[start:start] = case.random.randbytes(case.random.randrange(1, 64))
    case.put(data)


@kind("blocks swapped", FILES)
def _(case: Case) -> None:
    data, size = case.data, case.random.choice((4, 64, 512))
    one, other = (case.random.randrange(case.header_end(), len(data) - size) for _ in range(2))
    data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]
    case.put(data)


@kind("a block of zeros", FILES)
def _(case: Case) -> None:
    data, size = case.data, case.random.choice((4, 64, 512))
    start = case.random.randrange(len(data) - size)
    data[start : start + size] = bytes(size)
    case.put(data)


@kind("a block twice", FILES)
def _(case: Case) -> None:
    data, size = case.data, case.random.choice((4, 64, 512))
    one, other = (case.random.randrange(case.header_end(), len(data) - size) for _ in range(2))
    data[one : one + size] = data[other : other + size]
    case.put(data)


@kind("length of the header", SAFETENSORS)
def _(case: Case) -> None:
    stated = case.random.choice(
        (0, 1, 7, len(case.data), 1 << 31, 1 << 62, (1 << 64) - 1, case.random.randrange(1 << 20))
    )
    case.put(stated.to_bytes(8, "little") + case.data[8:])


@kind("data of another expert", SAFETENSORS)
def _(case: Case) -> None:
    entries, data = case.parts
    case.put_parts(entries, bytes(reversed(data)) if case.random.random() < 0.5 else case.random.randbytes(len(data)))


@kind("spaces in the header", SAFETENSORS)
def _(case: Case) -> None:
    entries, data = case.parts
    case.put_parts(json.dumps(entries, indent=case.random.randrange(4)) + " " * case.random.randrange(50), data)


@kind("offsets swapped", SAFETENSORS)
def _(case: Case) -> None:
    entries, data = case.parts
    one, other = (entries[name] for name in case.two_tensors(entries))
    one["data_offsets"], other["data_offsets"] = other["data_offsets"], one["data_offsets"]
    case.put_parts(entries, data)


@kind("offsets that overlap", SAFETENSORS)
def _(case: Case) -> None:
    entries, data = case.parts
    one, other = (entries[name] for name in case.two_tensors(entries))
    one["data_offsets"] = list(other["data_offsets"])
    case.put_parts(entries, data)


@kind("offsets elsewhere", SAFETENSORS)
def _(case: Case) -> None:
    entries, data = case.parts
    offsets = entries[case.two_tensors(entries)[0]]["data_offsets"]
    offsets[case.random.randrange(2)] = case.random.choice(
        (0, -1, 1, len(data), len(data) + 4, 1 << 62, 1 << 64, 1.5, None, "4")
    )
    case.put_parts(entries, data)


@kind("a hole between tensors", SAFETENSORS)
def _(case: Case) -> None:
    entries, data = case.parts
    for name, entry in entries.items():
        if name != "__metadata__":
            entry["data_offsets"] = [offset + 8 for offset in entry["data_offsets"]]
    case.put_parts(entries, bytes(8) + data)


@kind("names swapped", SAFETENSORS)
def _(case: Case) -> None:
    entries, data = case.parts
    one, other = case.two_tensors(entries)
    entries[one], entries[other] = entries[other], entries[one]
    case.put_parts(entries, data)


@kind("a tensor renamed", SAFETENSORS)
def _(case: Case) -> None:
    entries, data = case.parts
    name = case.two_tensors(entries)[0]
    new = case.random.choice(
        (name + "x", name.replace("fc1", "fc2"), name.replace("0", "7"), "", "\x00", "é" * 99, "." * 9)
    )
    case.put_parts({new if key == name else key: value for key, value in entries.items()}, data)


@kind("a tensor more or less", SAFETENSORS)
def _(case: Case) -> None:
    entries, data = case.parts
    if case.random.random() < 0.5:
        del entries[case.two_tensors(entries)[0]]
    else:
        entries["stray"] = {"dtype": "F32", "shape": [0], "data_offsets": [len(data)] * 2}
    case.put_parts(entries, data)


@kind("another type", SAFETENSORS)
def _(case: Case) -> None:
    entries, data = case.parts
    entry = entries[case.two_tensors(entries)[0]]
    entry["dtype"] = case.random.choice(
        ("F16", "BF16", "F32", "I32", "U16", "I16", "F64", "F8_E4M3", "C64", "BOOL", "F4", "", None)
    )
    case.put_parts(entries, data)


@kind("16 bits of another kind", SAFETENSORS)
def _(case: Case) -> None:
    text = json.dumps(case.parts[0])
    other = case.random.choice((("F16", "BF16"), ("BF16", "F16"), ("F32", "I32"), ("F32", "U32")))
    case.put_parts(text.replace(f'"{other[0]}"', f'"{other[1]}"'), case.parts[1])


@kind("another shape", SAFETENSORS)
def _(case: Case) -> None:
    entries, data = case.parts
    entry = entries[case.two_tensors(entries)[0]]
    shape = entry["shape"]
    entry["shape"] = case.random.choice(
        ([*shape, 1], shape[::-1], [], [0], [1 << 63, 2], [-1], [1 << 40], "x", [None], shape * 9)
    )
    case.put_parts(entries, data)


@kind("a key twice", SAFETENSORS)
def _(case: Case) -> None:
    entries, data = case.parts
    one, other = case.two_tensors(entries)
    doubled = json.dumps(entries[other])
    if case.random.random() < 0.5:
        one, doubled = "__metadata__", json.dumps({**entries["__metadata__"], "distil_whisper.format": "1"})
    case.put_parts(json.dumps(entries)[:-1] + f", {json.dumps(one)}: {doubled}}}", data)


@kind("deep JSON", EVERY)
def _(case: Case) -> None:
    deep = "[" * case.random.choice((200, 5_000, 200_000))
    if case.form.target.endswith(".json"):
        case.put(b'{"language_experts": ' + deep.encode())
    elif case.form.target.endswith(".bin"):
        case.put(deep.encode())
    else:
        entries, data = case.parts
        case.put_parts(json.dumps(entries)[:-1] + f', "x": {deep}', data)


@kind("no UTF-8", (*SAFETENSORS, *CONFIGS))
def _(case: Case) -> None:
    if case.form.target.endswith(".json"):
        case.put(case.data.replace(b'"ca"', case.random.choice((b'"\xff\xfe"', b'"\xc3"', b'"\xed\xa0\x80"'))))
    else:
        entries, data = case.parts
        case.put_parts(json.dumps(entries).encode().replace(b".0.", b".\xff.", 1), data)


@kind("metadata changed", SAFETENSORS)
def _(case: Case) -> None:
    entries, data = case.parts
    said = entries.setdefault("__metadata__", {"format": "pt"})
    key = case.random.choice(sorted(said))
    value = said[key]
    place = case.random.randrange(len(value))
    said[key] = case.random.choice(
        (value[:place] + chr(case.random.randrange(32, 127)) + value[place + 1 :], value[::-1], "", "0")
    )
    case.put_parts(entries, data)


@kind("metadata missing", SAFETENSORS)
def _(case: Case) -> None:
    entries, data = case.parts
    said = entries.pop("__metadata__")
    if case.random.random() < 0.8:
        said.pop(case.random.choice(sorted(said)))
        entries["__metadata__"] = said
    case.put_parts(entries, data)


@kind("metadata of other kinds", SAFETENSORS)
def _(case: Case) -> None:
    entries, data = case.parts
    odd = case.random.choice((3, None, [], {}, {"distil_whisper.format": 2}, "x", {"a": {"b": "c"}}))
    entries["__metadata__"] = odd
    case.put_parts(entries, data)


# What is wrong in a file whose hashes are right, as somebody would make it on purpose.
ODD = {
    "expert": {
        "name": ("gl", "", "../ca", None, 3, "x" * 99, ["ca"], "shared"),
        "language": ("klingon", "", "xx", 3, ["ca"], "CA", "ca\n", True, "é" * 5000),
        "training": (None, [], "x", 3),
        "sides": ("left", "", None, 3, ["both"], "encoder"),
        "rank": (0, -1, 2, 17, 10**9, "3", 2.5, True, [], {"encoder": 3}, {"encoder": 3, "decoder": "3"}, {"x": 1}),
        "targets": ("all", "fc9", 3, None, [], ["ffn", 3], ["q_proj"], {}),
        "bias": ("x", 3, None, [], {}),
    },
    "geometry": {
        "d_model": (17, "16", None, [], 1e999, float("nan"), -16, True, 10**400),
        "encoder_layers": (0, 3, 10**9, "2"),
        "gate_dim": (63, None, {}),
        "activation_function": ("relu", "", None, 3),
    },
    "base": {
        "fingerprint": (
            {},
            None,
            [],
            "x",
            {"float32/all": ""},
            {"float32/all": "0" * 64},
            {"a": None},
            {"a": "A" * 64},
        ),
        "model": (3, [], {}, True),
    },
}


@kind("a field of another kind, signed", (*HASHED, "format 1"))
def _(case: Case) -> None:
    entry = case.random.choice(sorted(ODD))
    name = case.random.choice(sorted(ODD[entry]))
    key = f"distil_whisper.{entry}"
    values = json.loads(header(case.path)[key])
    new = case.random.choice([value for value in ODD[entry][name] if value != values.get(name)])
    if name == "sides" and new == values.get("sides"):
        new = "left"
    rewrite(case.path, metadata={key: json.dumps({**values, name: new})})


@kind("an entry that is no object, signed", (*HASHED, "format 1"))
def _(case: Case) -> None:
    entry = "distil_whisper." + case.random.choice(sorted(ODD))
    odd = ("", "[]", "null", "3", "{", '"x"', "[" * 9999, "{}", "\ud7ff", "nan", "1" * 9999)
    rewrite(case.path, metadata={entry: case.random.choice(odd)})


@kind("another format, signed", (*HASHED, "format 1"))
def _(case: Case) -> None:
    version = case.random.choice(("3", "0", "", "2.0", "10", "two", "9" * 999, None))
    said = {"distil_whisper.format": version, "distil_whisper.reader": case.random.choice(("0.9", "x" * 999, "", None))}
    rewrite(case.path, metadata=said)


@kind("NaN or infinity, signed", (*HASHED, "format 1"))
def _(case: Case) -> None:
    tensors = _tensors(case)
    tensor = tensors[case.random.choice(sorted(tensors))].view(-1)
    tensor[case.random.randrange(tensor.numel())] = case.random.choice((float("nan"), float("inf"), -float("inf")))
    rewrite(case.path, tensors=tensors)


@kind("other types, signed", (*HASHED, "format 1"))
def _(case: Case) -> None:
    tensors = _tensors(case)
    dtype = case.random.choice((torch.float64, torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn))
    names = case.random.choice((sorted(tensors), [case.random.choice(sorted(tensors))]))
    rewrite(case.path, tensors={name: tensors[name].to(dtype) for name in names})


@kind("another shape, signed", (*HASHED, "format 1"))
def _(case: Case) -> None:
    tensors = _tensors(case)
    name = case.random.choice(sorted(tensors))
    new = case.random.choice((tensors[name][None], tensors[name].flatten()[1:], tensors[name].new_zeros(0)))
    rewrite(case.path, tensors={name: new.clone()})


def _tensors(case: Case) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name: tensor.clone() for name, tensor in load_file(case.path).items()}


@kind("a link that leads nowhere", EVERY)
def _(case: Case) -> None:
    case.path.unlink()
    case.path.symlink_to(case.folder / "nowhere")


@kind("a link to itself", EVERY)
def _(case: Case) -> None:
    case.path.unlink()
    case.path.symlink_to(case.path)


@kind("a link to the file", EVERY)
def _(case: Case) -> None:
    case.path.rename(case.folder / "elsewhere")
    case.path.symlink_to(case.folder / "elsewhere")


@kind("a pipe", EVERY)
def _(case: Case) -> None:
    case.path.unlink()
    os.mkfifo(case.path)


@kind("a socket", EVERY)
def _(case: Case) -> None:
    case.path.unlink()
    here = os.getcwd()
    # The path of a socket has a hundred bytes.
    os.chdir(case.folder)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(case.path.name)
    os.chdir(here)


@kind("a device", EVERY)
def _(case: Case) -> None:
    case.path.unlink()
    case.path.symlink_to(case.random.choice(("/dev/zero", "/dev/null", "/dev/urandom", "/dev/full", "/dev/tty")))


@kind("a folder", EVERY)
def _(case: Case) -> None:
    case.path.unlink()
    case.path.mkdir()
    if case.random.random() < 0.5:
        (case.path / case.form.target).write_bytes(b"x")


@kind("a file of the system", EVERY)
def _(case: Case) -> None:
    case.path.unlink()
    case.path.symlink_to(case.random.choice(("/proc/self/mem", "/proc/kmsg", "/proc/self/environ", "/proc/version")))


@kind("a huge hole", EVERY)
def _(case: Case) -> None:
    with open(case.path, "r+b") as file:
        file.truncate(case.random.choice((1 << 30, 1 << 40)))


@kind("a file that is gone", FILES)
def _(case: Case) -> None:
    case.path.unlink()


@kind("no such place", (*HASHED, "opened whole"))
def _(case: Case) -> None:
    odd = (
        "",
        "a\0b",
        "x" * 5000,
        "\udcff/a/b",
        "./nothing",
        "../nothing",
        "~/nothing",
        "~nobody/x",
        "a/b/c",
        "x.bin",
        "-",
        "..",
    )
    made = (
        str(case.folder / "no" / "expert.ca.safetensors"),
        str(case.folder) + "/\n",
        f"{case.path}/x",
        "gone.safetensors",
    )
    case.source = case.random.choice(odd + made)


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


@kind("a pickle that calls", ("original",))
def _(case: Case) -> None:
    calls = (
        Call(os.system, "true"),
        Call(eval, "1"),
        Call(bytearray, 1 << 33),
        Call(open, case.folder / "made", "w"),
        Call(list, range(9)),
        Call(torch.zeros, 1 << 33),
    )
    held = torch.load(case.path, weights_only=True)
    torch.save({**held, "x": case.random.choice(calls)}, case.path)


@kind("a pickle of something else", ("original",))
def _(case: Case) -> None:
    held = torch.load(case.path, weights_only=True)
    name = case.random.choice(sorted(held))
    sparse = torch.eye(3).to_sparse()
    odd = (
        [],
        None,
        "x",
        {},
        list(held),
        {1: held[name]},
        {**held, name: 3},
        {**held, name: held[name].double()},
        {**held, name: sparse},
        {**held, name: torch.zeros(1).expand(1 << 20, 1 << 20)},
        {**held, name: held[name] * float("nan")},
        {name: held[name]},
    )
    torch.save(case.random.choice(odd), case.path)


@kind("an archive that grows", ("original",))
def _(case: Case) -> None:
    old, new = io.BytesIO(bytes(case.data)), io.BytesIO()
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, bytes(1 << 27) if name.endswith("/data/0") else source.read(name))
    case.put(new.getvalue())


@kind("parts of the archive", ("original",))
def _(case: Case) -> None:
    old, new = io.BytesIO(bytes(case.data)), io.BytesIO()
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(new, "w") as target:
        names = source.namelist()
        gone = case.random.choice([name for name in names if "/data" in name])
        for name in names:
            if name != gone:
                target.writestr(name, source.read(name))
            elif case.random.random() < 0.5:
                target.writestr(name, case.random.randbytes(50))
    case.put(new.getvalue())


@kind("too many experts", CONFIGS)
def _(case: Case) -> None:
    config = json.loads(case.data)
    number = case.random.choice((MAX_EXPERTS + 1, 20_000))
    config["language_experts"] = {**config["language_experts"], **{f"x{index}": {} for index in range(number)}}
    case.put(json.dumps(config).encode())


@kind("experts that are not there", ("opened, config.json",))
def _(case: Case) -> None:
    config = json.loads(case.data)
    names = [f"x{index}" for index in range(case.random.choice((1, MAX_EXPERTS - 9)))]
    config["language_experts"] |= {name: {"language": None} for name in names}
    case.put(json.dumps(config).encode())


@kind("an entry of the configuration", CONFIGS)
def _(case: Case) -> None:
    config = json.loads(case.data)
    odd = (3, None, [], "x", {"ca": 3}, {"ca": []}, {"../ca": {}}, {"": {}}, {"ca": None})
    entries = (
        {"language": "klingon"}, {"language": 3}, {"language": ["ca"]}, {"language": ""}, {"sides": "left"},
        {"sides": "encoder"}, {"sides": 3}, {"training": 3}, {"training": []}, {"language_token_id": "x"},
        {"language_token_id": 50262}, {"language_token_id": -1}, {"language_token_id": 1 << 70},
        {"rank": 3}, {"rank": -1}, {"rank": 10**9}, {"rank": "x"}, {"targets": "all"}, {"bias": True}, {"rank": {}},
    )  # fmt: skip
    experts = config["language_experts"]
    changed = experts | {"ca": experts["ca"] | case.random.choice(entries)}
    config["language_experts"] = case.random.choice((*odd, *[changed] * 12))
    case.put(json.dumps(config).encode())


@kind("a size in the configuration", ("opened, config.json",))
def _(case: Case) -> None:
    config = json.loads(case.data)
    names = ("d_model", "encoder_layers", "decoder_layers", "encoder_ffn_dim", "decoder_attention_heads", "gate_dim")
    names += ("vocab_size", "max_source_positions", "max_target_positions", "num_mel_bins", "decoder_start_token_id")
    value = case.random.choice((0, -1, 1, 3, 17, 10**6, 10**12, "x", None, [], 1.5, True, 1e400))
    config[case.random.choice(names)] = value
    case.put(json.dumps(config).encode())


@kind("shards", ("whole",))
def _(case: Case) -> None:
    name = case.random.choice(
        ("model-1.safetensors", "../model.safetensors", "/etc/passwd", "", "gone.safetensors", "x.bin")
    )
    index = (
        {"weight_map": {"a": name}}
        if case.random.random() < 0.8
        else {"weight_map": case.random.choice((3, [], None, {}))}
    )
    case.path.rename(case.folder / "model-1.safetensors")
    (case.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if case.random.random() < 0.3:
        flip(Case(case.folder, Form({}, "model-1.safetensors"), case.random, ""), 0, 500, 1)


def make_forms(folder: Path) -> dict[str, Form]:
    """A tiny model with two experts, stored in every way."""
    base = save_whisper(folder / "base", **SIZES)
    model = with_experts(base, "ca", "gl", gate_dim=6)
    for name in ("ca", "gl"):
        model.config.language_experts[name]["training"] = {"hours": 3.5, "steps": 1000}
    file = model.expert_file("ca")
    path = model.save_expert("ca", folder)
    forms = {"format 2": Form({path.name: path.read_bytes()}, path.name, hashed=True)}
    as_format_1(path)
    forms["format 1"] = Form({path.name: path.read_bytes()}, path.name)
    model.save_expert("ca", folder, dtype="float16")
    forms["format 2, half"] = Form({path.name: path.read_bytes()}, path.name, hashed=True)
    model.config.language_experts["ca"] |= {"speed": None, "base.revision": "abc", "header.license": "MIT"}
    write_expert(model.expert_file("ca"), folder, model.config, dtype="bfloat16")
    forms["format 2, unknown fields"] = Form({path.name: path.read_bytes()}, path.name, hashed=True)
    original = {}
    for key, tensor in file.tensors.items():
        layer, part, end = key.rsplit(".", 2)
        place = f"proj.catalan.{part}" if part.startswith("fc") else f"{part}.catalan"
        original[f"model.{layer}.ffn_clsr.{place}.{end}"] = tensor
    torch.save(original, folder / "expert.catalan.bin")
    forms["original"] = Form({"expert.catalan.bin": (folder / "expert.catalan.bin").read_bytes()}, "expert.catalan.bin")
    for key in ("speed", "base.revision", "header.license"):
        del model.config.language_experts["ca"][key]
    model.save_pretrained(folder / "whole")
    model.compress_expert("ca", rank={"encoder": 3, "decoder": 2})
    model.save_expert("ca", folder)
    forms["compact"] = Form({path.name: path.read_bytes()}, path.name, hashed=True)
    whole = {path.name: path.read_bytes() for path in (folder / "whole").iterdir()}
    for opens, name in ((False, "whole"), (True, "opened")):
        forms["opened whole" if opens else "whole"] = Form(whole, "model.safetensors", opens=opens)
        forms[f"{name}, config.json"] = Form(whole, "config.json", opens=opens)
    return forms


class Campaign:
    """Damages, loads, and counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.forms = make_forms(folder)
        self.model = with_experts(folder / "base", "gl", gate_dim=6)
        self.before = self.state()
        self.counts: dict[str, Counter] = {name: Counter() for name in KINDS}
        self.faults: list[str] = []
        self.expected = {}
        for name, form in self.forms.items():
            outcome, self.expected[name] = self.load(self.case(form, random.Random(0)))
            if outcome is not None:
                raise RuntimeError(f"expected a whole {name} to load, got: {outcome}")

    def state(self) -> dict:
        """All that loading may not touch."""
        config = self.model.config
        return {
            **{key: tensor.clone() for key, tensor in self.model.state_dict().items()},
            "experts": copy.deepcopy(config.language_experts),
            "order": list(config.language_experts),
            "generation": self.model.generation_config.to_dict(),
        }

    def case(self, form: Form, chance: random.Random) -> Case:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        for name, content in form.files.items():
            (folder / name).write_bytes(content)
        by_file = not form.opens and len(form.files) == 1 and chance.random() < 0.5
        return Case(folder, form, chance, folder / form.target if by_file else folder)

    def load(self, case: Case) -> tuple[BaseException | None, dict]:
        """What loading raised, and what was loaded."""
        try:
            with limited():
                if case.form.opens:
                    model = DistilWhisperForConditionalGeneration.from_pretrained(case.source)
                else:
                    model = self.model
                    model.load_expert("ca", case.source)
        # Whatever it is, it is counted.
        except (Exception, Hang) as error:
            return error, {}
        held = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        held["experts"] = copy.deepcopy(model.config.language_experts)
        if not case.form.opens:
            model.remove_expert("ca")
        return None, held

    def run(self, name: str, damage: Damage, form_name: str, seed: str) -> str:
        """Damage one file and load it; returns the outcome."""
        case = self.case(self.forms[form_name], random.Random(seed))
        try:
            damage(case)
            before = memory()
            error, held = self.load(case)
            grown = memory(peak=True) - before
        finally:
            shutil.rmtree(case.folder)
        outcome = self.judge(case, error, held, form_name, grown)
        self.counts[name][outcome] += 1
        if outcome in FAULTS:
            self.faults.append(
                f"{outcome}: {name}, {form_name}, seed {seed}: {type(error).__name__}: {str(error)[:300]}"
            )
        return outcome

    def judge(self, case: Case, error: BaseException | None, held: dict, form_name: str, grown: int) -> str:
        if isinstance(error, Hang):
            return HANG
        if grown > MEMORY:
            return GREW
        if not same(self.state(), self.before):
            return TOUCHED
        if error is None:
            if same(held, self.expected[form_name]):
                return SAME
            return WRONG if case.form.hashed else NO_HASH
        clear = isinstance(error, ExpertFileError) and "xpected" in str(error) and len(str(error)) < 10_000
        return REFUSED if clear else UNCLEAR


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        for key, value in one.items()
    )


def memory(*, peak: bool = False) -> int:
    """Bytes of this process now, or at most since this was last asked without `peak`."""
    if not peak:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), flags=re.MULTILINE)
    return int(line) << 10


class Hang(BaseException):
    """Loading took too long."""


@contextmanager
def limited() -> Iterator[None]:
    """Interrupts what takes longer than `SECONDS`."""

    def stop(*_: object) -> None:
        raise Hang(f"no end within {SECONDS} s")

    old = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def run_campaign(number: int, seed: int, *, opened: bool = True, only: str | None = None) -> Campaign:
    """Damage `number` files: every kind equally often, in each form that it can be done to.

    Args:
        opened: also open whole models, which takes longer than loading an expert.
        only: one kind, or None for all.
    """
    names = [name for name in KINDS if only in (None, name)]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        campaign = Campaign(Path(folder))
        for index in range(number):
            name = names[index % len(names)]
            damage, forms = KINDS[name]
            forms = tuple(form for form in forms if opened or not campaign.forms[form].opens)
            if forms:
                campaign.run(name, damage, forms[index // len(names) % len(forms)], f"{seed}:{index}")
    return campaign


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=10_000, help="files to damage")
    parser.add_argument("--seed", type=int, default=0, help="of what is damaged where")
    parser.add_argument("--kind", choices=sorted(KINDS), help="one kind of damage alone")
    args = parser.parse_args(arguments)
    logging.getLogger("distil_whisper_hf").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    start = time.monotonic()
    campaign = run_campaign(args.number, args.seed, only=args.kind)
    total: Counter = Counter()
    print("| damage | files | " + " | ".join(OUTCOMES) + " |")
    print("|---|" + "---|" * (1 + len(OUTCOMES)))
    for name, counts in campaign.counts.items():
        total += counts
        if counts:
            print(f"| {name} | {counts.total()} | " + " | ".join(str(counts[outcome]) for outcome in OUTCOMES) + " |")
    print(f"| {len(KINDS)} kinds | {total.total()} | " + " | ".join(str(total[outcome]) for outcome in OUTCOMES) + " |")
    print(f"seed {args.seed}, {time.monotonic() - start:.0f} s")
    for fault in campaign.faults[:50]:
        print(fault)
    return 1 if campaign.faults else 0


if __name__ == "__main__":
    sys.exit(main())
