"""Convert a checkpoint of the original release (naver/multilingual-distilwhisper-*), or a PEFT LoRA adapter of
Whisper, to this package's layout.

    distil-whisper convert multilingual-distilwhisper-28k converted                     base and all experts
    distil-whisper convert multilingual-distilwhisper-28k converted --language ca gl --model openai/whisper-small
    distil-whisper convert lora-ca converted --language ca --model openai/whisper-base   a compact expert, gates open

The source is a local copy: config.json, model.safetensors, expert.<language>.bin. The result is a folder with the base
under plain Whisper's names and one file per expert; with --model, which has to hold the very same weights, the experts
alone. Before it appears it is read again and compared: every tensor bit for bit, and logits with the original's formula
computed from its own tensors. Where anything differs, nothing is written. About a minute per expert of whisper-small.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..places import local_or_hub, missing_path
from .command_line import Parser
from .convert_adapter import convert_adapter, is_adapter
from .mistakes import Failed, program
from .output_folders import check_disk_space, check_output_dir
from .sample_inputs import sample_inputs

if TYPE_CHECKING:
    import torch
    from torch import nn


# Of logits between two orders of the same float32 sums.
TOLERANCE = 1e-4
PROGRAM = "distil-whisper convert"


class ConversionError(ValueError):
    """Weights that differ: those of a base from the source's, or the result's."""


@program(PROGRAM)
def main(arguments: Sequence[str]) -> int:
    """Run the program; returns the exit status, 1 if the result would differ from its source."""
    args = _parser().read(arguments)
    if (args.output is None) == (args.output_dir is None):
        raise ValueError("Expected the folder to make once, after the source or as --output_dir.")
    output = args.output_dir if args.output is None else args.output
    base = None if args.model is None else local_or_hub(args.model, "a plain Whisper (--model)")
    if is_adapter(args.source):
        if base is None or args.language is None or len(args.language) != 1:
            raise ValueError("Expected the base and the language of a LoRA adapter: --model BASE --language ca.")
        difference = convert_adapter(args.source, output, name=args.language[0], base=base)
        print(f"{args.language[0]}: logits within {difference:.1e} of the adapter's")
        print(f"written: {output}")
        return 0
    try:
        report = convert(args.source, output, experts=args.language, base=base)
    except ConversionError as error:
        raise Failed(str(error)) from error
    for name, difference in report.items():
        print(f"{name}: tensors equal bit for bit, logits within {difference:.1e}")
    print(f"written: {output}")
    return 0


def _parser() -> Parser:
    parser = Parser(PROGRAM, __doc__)
    parser.add_argument("source", type=Path, help="local copy of an original checkpoint, or of a LoRA adapter")
    parser.add_argument("output", type=Path, nargs="?", help="folder to make")
    parser.add_argument("--output_dir", type=Path, section="result", help="the same, as a flag")
    parser.add_argument(
        "--language",
        "--experts",
        nargs="+",
        section="result",
        help="codes of the languages to convert, else all",
    )
    parser.add_argument(
        "--model",
        "--base",
        section="result",
        help="plain Whisper with the same weights, to write the experts alone",
    )
    return parser


def convert(
    source: Path, output: Path, *, experts: Sequence[str] | None = None, base: str | None = None
) -> dict[str, float]:
    """Convert, compare and write; returns the largest difference of logits by expert.

    Raises:
        FileExistsError: `output` is there already.
        ValueError: a language that Whisper does not have, no original checkpoint, not the experts that are asked for,
            or too little space for the result.
        ConversionError: another base than `base`, or a difference after conversion.
        ExpertFileError: a damaged expert, or one with anything but tensors in its pickle.
    """
    from ..checkpoints import read_expert, write_expert
    from ..languages import WHISPER_LANGUAGES, language_code
    from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration
    from ..original_release import original_filename
    from ..publishing.release import write_experts

    check_output_dir(output, new=True)
    if not source.is_dir():
        raise ValueError(missing_path(source, "a local copy of an original checkpoint"))
    there = [code for code in WHISPER_LANGUAGES if (source / original_filename(code)).exists()]
    names = there if experts is None else [language_code(one) for one in experts]
    missing = sorted(set(names) - set(there))
    if missing or not names or not (source / "config.json").exists():
        raise ValueError(
            f"Expected an original checkpoint with experts {names or 'of some language'} in {str(source)!r}, found "
            f"{', '.join(there) or 'none'}. Copy config.json, model.safetensors and expert.<language>.bin there."
        )
    parts = [source / original_filename(code) for code in names]
    parts += source.glob("model*.safetensors") if base is None else []
    check_disk_space(output, sum(path.stat().st_size for path in parts), "the converted checkpoint")
    # Float32, so that nothing is rounded on the way.
    model = DistilWhisperForConditionalGeneration.from_pretrained(source, experts=[], dtype="float32").eval()
    fingerprint = model.base_fingerprint()
    if base is not None:
        plain = DistilWhisperForConditionalGeneration.from_pretrained(base, experts=[], dtype="float32")
        if plain.base_fingerprint() != fingerprint:
            raise ConversionError(
                f"Expected {base!r} to hold the weights of {str(source)!r}, they differ. Leave --model out."
            )
    model.config.base_model_name_or_path = base
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".convert-") as name:
        beside = Path(name) / output.name
        files = []
        for code in names:
            file = read_expert(code, source, model.config)
            files.append(type(file)(code, code, file.tensors, base, fingerprint, {}))
        if base is None:
            model.save_pretrained(beside)
            for file in files:
                write_expert(file, beside, model.config)
            _list_experts(beside, names)
        else:
            write_experts(model, files, beside, base_model=base)
        report = {code: compare(source, beside, code, base) for code in names}
        os.replace(beside, output)
    return report


def _list_experts(folder: Path, names: Sequence[str]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["language_experts"] = {name: {"language": name} for name in names}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def compare(source: Path, converted: Path, name: str, base: str | None) -> float:
    """Compare a converted expert and its base with the source; returns the largest difference of logits.

    Raises:
        ConversionError: a tensor that differs, is missing or is not accounted for; logits beyond `TOLERANCE`.
    """
    import torch

    from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration

    model = DistilWhisperForConditionalGeneration.from_pretrained(converted, experts=[name], dtype="float32").eval()
    shared, own = original_tensors(source, name)
    state = model.state_dict()
    expected = {plain_name(key): tensor for key, tensor in shared.items()}
    expected |= {our_name(key, name): tensor for key, tensor in own.items()}
    # The output layer is the embedding; checkpoints hold it once or twice.
    state.pop("proj_out.weight", None)
    expected.pop("proj_out.weight", None)
    if state.keys() != expected.keys():
        odd = sorted(state.keys() ^ expected.keys())
        raise ConversionError(
            f"Expected the same tensors before and after, {len(odd)} are on one side only: {odd[:3]}."
        )
    for key, tensor in expected.items():
        if not torch.equal(state[key], tensor.float()):
            raise ConversionError(f"Expected {key} to be the original's bit for bit, it differs. Nothing was written.")
    inputs, prompt = sample_inputs(model, name)
    with torch.no_grad():
        found = model(inputs, decoder_input_ids=prompt).logits
        reference = original_logits(base or converted, own, name, inputs, prompt)
    difference = float((found - reference).abs().max())
    if not difference <= TOLERANCE:
        raise ConversionError(
            f"Expected the logits of expert {name!r} within {TOLERANCE} of the original's, they differ by "
            f"{difference:.3g}. Nothing was written."
        )
    return difference


def original_tensors(source: Path, name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Tensors of the shared path and of one expert, under the original's names."""
    import torch
    from safetensors.torch import load_file

    from ..original_release import original_filename

    shared = {}
    for path in sorted(source.glob("model*.safetensors")):
        shared |= load_file(path)
    return shared, torch.load(source / original_filename(name), map_location="cpu", weights_only=True)


def plain_name(key: str) -> str:
    """The original's name of a shared tensor -> plain Whisper's."""
    return key.replace("ffn_clsr.proj.shared.", "")


def our_name(key: str, name: str) -> str:
    """The original's name of an expert's tensor -> ours: "….ffn_clsr.gate_in.catalan.bias" and so on."""
    layer, _, rest = key.partition(".ffn_clsr.")
    parts = rest.split(".")
    # proj.<language>.fc1.weight, or gate_in.<language>.weight.
    short = ".".join(parts[2:]) if parts[0] == "proj" else ".".join([parts[0], *parts[2:]])
    return f"{layer}.language_experts.{name}.{short}"


def original_logits(
    base: str | Path, own: dict[str, torch.Tensor], name: str, inputs: torch.Tensor, prompt: torch.Tensor
) -> torch.Tensor:
    """Logits by the original's formula, both paths on every token: stock Whisper whose layers add the expert's path.

    CLSR(z) = g FFN_expert(z) + (1 - g) FFN_shared(z), g = 1 where gate_out(ReLU(gate_in(z))) >= 0, else 0.
    """
    from transformers import WhisperForConditionalGeneration

    from ..languages import WHISPER_LANGUAGES

    stock = WhisperForConditionalGeneration.from_pretrained(base, dtype="float32").eval()
    for side in ("encoder", "decoder"):
        for index, layer in enumerate(getattr(stock.model, side).layers):
            prefix = f"model.{side}.layers.{index}.ffn_clsr."
            tensors = {key.removeprefix(prefix): value.float() for key, value in own.items() if key.startswith(prefix)}
            _mix(layer, tensors, WHISPER_LANGUAGES[name])
    return stock(inputs, decoder_input_ids=prompt).logits


def _mix(layer: nn.Module, tensors: dict[str, torch.Tensor], language: str) -> None:
    """Let a stock layer's `fc2` give the mixture: `z` is what went into `fc1`."""
    from torch.nn.functional import linear

    seen: dict[str, Any] = {}

    def keep(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen["z"] = inputs[0]

    def mix(module: nn.Module, inputs: tuple[torch.Tensor, ...], shared: torch.Tensor) -> torch.Tensor:
        z = seen["z"]
        hidden = linear(z, tensors[f"gate_in.{language}.weight"], tensors[f"gate_in.{language}.bias"]).relu()
        gate = (linear(hidden, tensors[f"gate_out.{language}.weight"]) >= 0).to(z.dtype)
        path = f"proj.{language}."
        expert = layer.activation_fn(linear(z, tensors[f"{path}fc1.weight"], tensors[f"{path}fc1.bias"]))
        expert = linear(expert, tensors[f"{path}fc2.weight"], tensors[f"{path}fc2.bias"])
        return gate * expert + (1 - gate) * shared

    layer.fc1.register_forward_pre_hook(keep)
    layer.fc2.register_forward_hook(mix)
