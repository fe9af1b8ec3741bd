"""Average trainings of one thing: experts, whole models, or LoRA adapters, over seeds, rates or checkpoints.

    distil-whisper average runs/ca-1 runs/ca-2 runs/ca-3 --model openai/whisper-base --output_dir runs/ca-mean
    distil-whisper average runs/ca/checkpoint-30 runs/ca/checkpoint-40 --model openai/whisper-base \\
        --output_dir runs/ca-last

Each folder holds what training left there. Compact experts and adapters are averaged as products, so that the mean has
their rank. To score what was made, run `distil-whisper train` or `baseline` as for the training, with --test_only and
--output_dir runs/ca-mean.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..places import local_or_hub, missing_path
from .command_line import Parser
from .mistakes import program
from .output_folders import check_output_dir

PROGRAM = "distil-whisper average"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


@program(PROGRAM)
def main(arguments: Sequence[str]) -> int:
    """Run the program; returns the exit status."""
    args = _parser().read(arguments)
    for folder in args.folders:
        if not folder.is_dir():
            raise ValueError(missing_path(folder, "a folder with what training left"))
    if len(args.folders) < 2:
        raise ValueError(f"Expected at least two folders to average, got {len(args.folders)}.")
    base = local_or_hub(args.model, "the base (--model)")
    check_output_dir(args.output_dir, new=True)
    args.output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output_dir.parent, prefix=".average-") as beside:
        target = Path(beside) / args.output_dir.name
        print(_average(args.folders, base, target))
        os.replace(target, args.output_dir)
    return 0


def _average(folders: Sequence[Path], base: str, target: Path) -> str:
    """Write the mean of what the folders hold; returns what was averaged."""
    from ..checkpoints import local_experts

    if all(local_experts(folder) for folder in folders):
        return _experts(folders, base, target)
    if all((folder / ADAPTER).is_file() for folder in folders):
        return _adapters(folders, target)
    if all((folder / "config.json").is_file() and list(folder.glob("model*.safetensors")) for folder in folders):
        return _models(folders, base, target)
    raise ValueError("Expected experts in all folders, or a LoRA adapter, or a whole model: what training left there.")


def _experts(folders: Sequence[Path], base: str, target: Path) -> str:
    from ..checkpoints import local_experts, read_expert, write_expert
    from ..configuration_distil_whisper import DistilWhisperConfig
    from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration
    from ..training.averaging import average_experts
    from .compress import write

    names = set.intersection(*(set(local_experts(folder)) for folder in folders))
    if not names:
        raise ValueError("Expected an expert of one name in all folders, found none.")
    config = DistilWhisperConfig.from_pretrained(base)
    means = {name: average_experts([read_expert(name, folder, config) for folder in folders]) for name in sorted(names)}
    model = DistilWhisperForConditionalGeneration.from_pretrained(base, experts=[], dtype="float32")
    said = []
    for name, (mean, gates) in means.items():
        with tempfile.TemporaryDirectory() as folder:
            # Loaded as any expert, so that it is checked against the base.
            model.load_expert(name, write_expert(mean, folder, config))
        kept = "their gates too" if gates else "with the gates of the first, for they began differently"
        said.append(f"expert {name}: the mean of {len(folders)}, {kept}")
    model.config.base_model_name_or_path = base
    write(model, target)
    return "\n".join(said)


def _adapters(folders: Sequence[Path], target: Path) -> str:
    from safetensors.torch import load_file, save_file

    from ..training.averaging import average_tensors

    configs = [json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")) for folder in folders]
    for key in ("r", "lora_alpha", "target_modules", "use_rslora"):
        values = {json.dumps(sorted(v) if isinstance(v := config.get(key), list) else v) for config in configs}
        if len(values) > 1:
            raise ValueError(f"Expected adapters of one {key}, got {' and '.join(sorted(values))}.")
    target.mkdir()
    mean = average_tensors([load_file(folder / ADAPTER) for folder in folders])
    save_file(mean, target / ADAPTER, metadata={"format": "pt"})
    shutil.copyfile(folders[0] / ADAPTER_CONFIG, target / ADAPTER_CONFIG)
    return f"LoRA adapter: the mean of {len(folders)}"


def _models(folders: Sequence[Path], base: str, target: Path) -> str:
    import torch
    from transformers import AutoProcessor, WhisperForConditionalGeneration

    mean = WhisperForConditionalGeneration.from_pretrained(folders[0], dtype="float32")
    total = dict(mean.named_parameters())
    with torch.no_grad():
        for folder in folders[1:]:
            other = dict(WhisperForConditionalGeneration.from_pretrained(folder, dtype="float32").named_parameters())
            if {key: one.shape for key, one in other.items()} != {key: one.shape for key, one in total.items()}:
                raise ValueError(f"Expected models of one size, got another in {folder}.")
            for key, tensor in total.items():
                tensor += other[key]
        for tensor in total.values():
            tensor /= len(folders)
    mean.save_pretrained(target)
    AutoProcessor.from_pretrained(base).save_pretrained(target)
    return f"whole model: the mean of {len(folders)}"


def _parser() -> Parser:
    parser = Parser(PROGRAM, __doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="what training left: outputs, or checkpoints of one run")
    parser.add_argument("--model", "--base", required=True, help="the base that they were trained on")
    parser.add_argument("--output_dir", type=Path, required=True, section="result", help="folder to make")
    return parser
