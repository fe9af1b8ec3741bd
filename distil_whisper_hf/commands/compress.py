"""Cut experts to a low rank: the nearest products of thin matrices to the difference that they make to Whisper.

    distil-whisper compress runs/ca --model openai/whisper-base --rank 16 --dtype float16 --output_dir runs/ca-16
    distil-whisper compress runs/ca --model openai/whisper-base --energy 0.5 --output_dir runs/ca-half
    distil-whisper compress runs/ca --model openai/whisper-base --rank 16 --output_dir runs/ca-16 \\
        --refine 20 --data speech/ca --language ca --learning_rate 1e-4

Prints by layer which share of the difference's energy is kept. With --refine, what was cut trains on for so many steps;
every flag of `distil-whisper train` may follow. To score what was made, run `distil-whisper train` as for the training,
with --test_only and --output_dir runs/ca-16.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..base_fingerprint import FINGERPRINT_DTYPES
from ..checkpoints import find_expert, local_experts
from ..configuration_distil_whisper import DistilWhisperConfig
from ..expert_form import ExpertForm
from ..places import local_or_hub, missing_path
from .command_line import Parser
from .mistakes import program
from .output_folders import check_output_dir

if TYPE_CHECKING:
    from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration

PROGRAM = "distil-whisper compress"


@program(PROGRAM)
def main(arguments: Sequence[str]) -> int:
    """Run the program; returns the exit status."""
    words = list(arguments)
    # What follows --refine STEPS is the trainer's.
    at = words.index("--refine") + 2 if "--refine" in words else len(words)
    args = _parser().read(words[:at])
    if not args.folder.is_dir():
        raise ValueError(missing_path(args.folder, "a folder with expert files"))
    base = local_or_hub(args.model, "the base (--model)")
    names = args.language or sorted(local_experts(args.folder))
    if not names or any(find_expert(name, args.folder) is None for name in names):
        raise ValueError(f"Expected expert files ({', '.join(names) or 'of any name'}) in {str(args.folder)!r}.")
    if args.refine is not None and args.refine < 1:
        raise ValueError(f"Expected at least 1 step to refine, got {args.refine}.")
    if args.refine is not None and args.dtype is not None:
        raise ValueError(
            "Expected --dtype without --refine: what trains on is written in float32. Compress it again after."
        )

    if (args.rank is None) == (args.energy is None):
        raise ValueError("Expected either a rank or an energy to cut to: --rank 16, or --energy 0.5.")
    if args.rank is not None:
        DistilWhisperConfig.from_pretrained(base).check_form(ExpertForm(rank=args.rank))
    check_output_dir(args.output_dir, new=True)

    from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration

    model = DistilWhisperForConditionalGeneration.from_pretrained(base, experts=[], dtype="float32")
    model.load_expert(names, args.folder)
    for name in names:
        print(energy_table(name, model.compress_expert(name, rank=args.rank, energy=args.energy)))
    model.config.base_model_name_or_path = base
    args.output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output_dir.parent, prefix=".compress-") as beside:
        folder = Path(beside) / args.output_dir.name
        write(model, folder, dtype=args.dtype)
        if args.refine is None:
            os.replace(folder, args.output_dir)
            sizes = {path.name: path.stat().st_size for path in args.output_dir.glob("expert.*.safetensors")}
            print(", ".join(f"{name}: {size / 1e6:.1f} MB" for name, size in sizes.items()))
            return 0

        from .train import main as train

        flags = ["--model", str(folder), "--output_dir", str(args.output_dir), "--max_steps", str(args.refine)]
        return train([*flags, *words[at:]])


def write(model: DistilWhisperForConditionalGeneration, folder: Path, *, dtype: str | None = None) -> None:
    """Write experts, stored in `dtype`, configuration and processor."""
    from transformers import AutoProcessor

    model.save_pretrained(folder, experts_only=True)
    for name in model.expert_names:
        model.save_expert(name, folder, dtype=dtype)
    AutoProcessor.from_pretrained(model.config.base_model_name_or_path).save_pretrained(folder)


def energy_table(name: str, kept: Mapping[str, Mapping[str, float]]) -> str:
    """Energy kept by layer and projection, in %."""
    lines = [f"{name}: energy kept"]
    for layer, shares in kept.items():
        lines.append(f"  {layer:<18} " + "  ".join(f"{part} {100 * share:5.1f} %" for part, share in shares.items()))
    return "\n".join(lines)


def _parser() -> Parser:
    parser = Parser(PROGRAM, __doc__)
    parser.add_argument("folder", type=Path, help="folder with expert files, as training left it")
    parser.add_argument("--model", "--base", required=True, help="the base that they were trained on")
    parser.add_argument("--output_dir", type=Path, required=True, section="result", help="folder to make")
    parser.add_argument("--rank", type=int, section="result", help="rank to cut to, from 1 to the model's width")
    parser.add_argument(
        "--energy", type=float, section="result", help="in its place, the share of the energy to keep, up to 1"
    )
    parser.add_argument(
        "--dtype", choices=tuple(FINGERPRINT_DTYPES), section="result", help="of the file, else float32"
    )
    parser.add_argument("--language", "--experts", nargs="+", section="result", help="which experts, else all")
    parser.add_argument("--refine", type=int, section="result", help="steps to train on for; flags of train follow")
    return parser
