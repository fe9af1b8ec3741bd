"""Write an expert for programs that know no experts: plain Whisper, PEFT, CTranslate2, whisper.cpp, ONNX.

    distil-whisper export --model openai/whisper-small --experts runs/ca --expert ca --to ctranslate2 --dtype int8 \\
        --check_data speech/ca --output_dir ca-ctranslate2

Without gates that close (`train --for_export`, converted LoRA adapters) the expert is added to Whisper's weights, which
is exact. One whose gates close is another model there: --check_data measures which gates open, the expert takes the
layers where most do, and the error rates of base, expert and outcome are printed and written into README.md. A loss
above --max_loss is refused.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..export.targets import TARGETS, Target, check_dtype
from ..places import local_or_hub, missing_path
from ..secret_tokens import without_given_tokens
from .command_line import Parser
from .mistakes import Failed, program
from .output_folders import check_output_dir
from .starting import check_libraries, open_config

if TYPE_CHECKING:
    from transformers import WhisperProcessor

    from ..export.card import Report
    from ..export.collapse import Collapsed
    from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration
    from .export_check import Checked

PROGRAM = "distil-whisper export"
CHECK_LIMIT, MAX_LOSS = 64, 1.0
DTYPES = tuple(dict.fromkeys(dtype for target in TARGETS.values() for dtype in target.dtypes))


@program(PROGRAM)
def main(arguments: Sequence[str]) -> int:
    """Run the program; returns the exit status."""
    args = _parser().read(arguments)
    args.dtype, target = check_dtype(args.to, args.dtype), TARGETS[args.to]
    check_output_dir(args.output_dir, new=True)
    check_libraries(target.libraries, what=f"--to {args.to}")
    check_libraries(["jiwer", "scipy", "tqdm"] if args.check_data else [], what="--check_data")
    for path in args.check_data or []:
        if not Path(path).exists():
            raise ValueError(missing_path(path, "an audio folder or a manifest (--check_data)"))
    if args.check_limit < 1:
        raise ValueError(f"Expected --check_limit of at least 1 clip, got {args.check_limit}.")
    with quiet_transformers():
        return _export(args, target, command=shlex.join([*PROGRAM.split(), *without_given_tokens(arguments)]))


def _export(args: Namespace, target: Target, *, command: str) -> int:
    model, name, processor = open_expert(args)
    examined = examine(args, model, name, processor)
    report = _report(args, model, name, examined, command=command)
    loss = 0.0 if examined.checked is None else examined.checked.loss
    print(describe(report))
    if loss > args.max_loss:
        raise Failed(
            f"The export makes {loss:.1f} points more errors than expert {name!r} on the checked speech, more "
            f"than --max_loss {args.max_loss:g}. Train one for it (train --for_export), or allow it by that flag."
        )
    args.output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output_dir.parent, prefix=".export-") as beside:
        folder = Path(beside) / args.output_dir.name
        write(args, model, name, processor, examined.collapsed, folder)
        _finish(folder, report)
        os.replace(folder, args.output_dir)
    for path in sorted(args.output_dir.iterdir()):
        print(f"{path.stat().st_size / 1e6:8.1f} MB  {path}")
    print(f"Opened by {target.opened_by}.")
    return 0


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No bars of transformers: models are opened and written several times, in seconds."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class Examined(NamedTuple):
    """An expert before it is written: the share of open gates by layer (empty where none closes), what it collapses to
    (None where its gates are kept), and its error rates (None without speech)."""

    open_shares: dict[str, float]
    collapsed: Collapsed | None
    checked: Checked | None


def open_expert(args: Namespace) -> tuple[DistilWhisperForConditionalGeneration, str, WhisperProcessor]:
    """The base in float32 with the expert alone, its name, and the base's processor.

    Raises:
        ValueError: no Whisper, no such expert or several to choose from, one of another base, or of a form that the
            target does not take.
    """
    from transformers import AutoProcessor

    from ..configuration_distil_whisper import DistilWhisperConfig
    from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration

    base = local_or_hub(args.model, "a Whisper (--model)")
    inside = getattr(open_config(base), "language_experts", None) or {}
    source = base if args.experts is None else local_or_hub(args.experts, "a folder or repository (--experts)")
    names = sorted(inside) if args.experts is None else sorted(_experts_in(source))
    if args.expert not in names and (args.expert is not None or len(names) != 1):
        asked = "one expert, and which" if args.expert is None else f"expert {args.expert!r}"
        raise ValueError(f"Expected {asked} (--expert), in {source!r} there is {', '.join(names) or 'none'}.")
    name = args.expert or names[0]
    here = [name] if args.experts is None else []
    model = DistilWhisperForConditionalGeneration.from_pretrained(base, experts=here, dtype="float32").eval()
    if args.experts is not None:
        model.load_expert(name, source)
    if args.to == "peft":
        from ..export.peft_adapter import check_form

        check_form(name, model.config.expert_form(name))
    # An expert-only checkpoint names its base, which has the processor.
    config = DistilWhisperConfig.from_pretrained(base)
    processor = AutoProcessor.from_pretrained(config.base_model_name_or_path or base)
    if args.to == "ggml":
        from ..export.ggml_file import check_model

        check_model(model.config, processor)
    return model, name, processor


def _experts_in(place: str) -> Sequence[str]:
    from ..checkpoints import local_experts
    from ..publishing.listing import list_experts

    return list(local_experts(place)) if Path(place).is_dir() else list(list_experts(place))


def examine(
    args: Namespace, model: DistilWhisperForConditionalGeneration, name: str, processor: WhisperProcessor
) -> Examined:
    """Collapse an expert, and measure what that costs.

    Raises:
        ValueError: gates that close, and no speech to see which.
    """
    from ..export.collapse import collapse, gated_layers, plain_whisper

    gated, keeps = gated_layers(model, name), TARGETS[args.to].keeps_gates
    if gated and not keeps and not args.check_data:
        raise ValueError(
            f"Expected --check_data for expert {name!r}, whose gates close in {len(gated)} layers: what becomes of it "
            f"in {args.to} has to be measured. Name speech in its language."
        )
    shares: dict[str, float] = {}
    collapsed: Collapsed | None = None
    if not args.check_data:
        return Examined(shares, None if gated else collapse(model, name), None)
    from ..evaluation.systems.hypotheses import GenerationSettings
    from .export_check import BASE, EXPORTED, GATED, measure_gates, measure_rates, read_check

    language = model.config.language_experts[name].get("language")
    clips = read_check(
        args.check_data, language=args.check_language, expert=name, expert_language=language, limit=args.check_limit
    )
    model.to(args.device)
    if gated:
        shares = measure_gates(model, name, processor, clips)
    models = {BASE: plain_whisper(model), GATED: model}
    if not (gated and keeps):
        collapsed = collapse(model, name, shares)
        models[EXPORTED] = collapsed.model
    settings = GenerationSettings(batch_size=args.batch_size, max_new_tokens=args.max_new_tokens)
    checked = measure_rates(models, processor, clips, settings=settings)
    model.to("cpu")
    return Examined(shares, collapsed, checked)


def write(
    args: Namespace,
    model: DistilWhisperForConditionalGeneration,
    name: str,
    processor: WhisperProcessor,
    collapsed: Collapsed | None,
    folder: Path,
) -> None:
    """Write the target's files into a folder that is made; `collapsed` is None where the gates are kept."""
    if args.to == "onnx":
        from ..export.onnx_folder import write_onnx

        plain = None if collapsed is None else collapsed.model.to("cpu")
        write_onnx(plain or model, processor, folder, expert=None if plain else name)
        return
    if collapsed is None:
        raise ValueError(f"Expected what the expert collapses to for {args.to}, got none.")
    whisper = collapsed.model.to("cpu")
    if args.to == "peft":
        from ..export.peft_adapter import write_peft

        write_peft(model, name, folder, left=collapsed.left, dtype=args.dtype)
    elif args.to == "ctranslate2":
        from ..export.ctranslate2_folder import write_ctranslate2

        write_ctranslate2(whisper, processor, folder, dtype=args.dtype)
    elif args.to == "ggml":
        from ..export.ggml_file import write_ggml

        write_ggml(whisper, processor, folder, dtype=args.dtype)
    else:
        from ..export.whisper_folder import write_whisper

        write_whisper(whisper, processor, folder, dtype=args.dtype)


def _report(
    args: Namespace, model: DistilWhisperForConditionalGeneration, name: str, examined: Examined, *, command: str
) -> Report:
    from ..export.card import Report

    collapsed = examined.collapsed
    libraries = ("distil_whisper_hf", "torch", "transformers", *TARGETS[args.to].libraries)
    return Report(
        name=name,
        language=model.config.language_experts[name].get("language"),
        base=model.config.base_model_name_or_path or args.model,
        target=args.to,
        dtype=args.dtype,
        exact=None if collapsed is None else collapsed.exact,
        replaced=() if collapsed is None else collapsed.replaced,
        left=() if collapsed is None else collapsed.left,
        open_shares=examined.open_shares,
        rates="" if examined.checked is None else examined.checked.text(),
        command=command,
        versions=", ".join(f"{library} {version(library)}" for library in libraries),
    )


def describe(report: Report) -> str:
    """What is printed before anything is written."""
    from ..export.card import gate_table, outcome

    parts = [f"{report.name}: {outcome(report)}", gate_table(report.open_shares, report.left), report.rates]
    return "\n\n".join(part for part in parts if part)


def _finish(folder: Path, report: Report) -> None:
    """Add the card; everybody may read the files, whatever the libraries that wrote them thought."""
    from ..export.card import card

    (folder / "README.md").write_text(card(report, folder.name), encoding="utf-8")
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)


def _parser() -> Parser:
    parser = Parser(PROGRAM, __doc__)
    add = parser.add_argument
    add("--model", required=True, help="the base that the expert was trained on, or a checkpoint with it")
    add("--experts", help="folder or repository with the expert; else it is in --model")
    add("--expert", help="its name; needed where there are several")
    add("--to", required=True, choices=tuple(TARGETS), section="result", help="what to write")
    add("--dtype", choices=DTYPES, section="result", help="of the weights, else the first that the target has")
    add("--output_dir", type=Path, required=True, section="result", help="folder to make")
    add("--check_data", nargs="+", section="check", help="speech to measure gates and error rates on: audio folders, "
        "manifests, Common Voice locales")  # fmt: skip
    add("--check_language", section="check", help="of all its clips, else the tables' column")
    add("--check_limit", type=int, default=CHECK_LIMIT, section="check", help="most clips of a set")
    add("--batch_size", type=int, default=8, section="check", rare=True, help="clips at once")
    add("--max_new_tokens", type=int, section="check", rare=True, help="most tokens of a clip, else the model's limit")
    add("--max_loss", type=float, default=MAX_LOSS, section="check", help="points of WER that the export may lose "
        "against the expert")  # fmt: skip
    add("--device", default="cpu", section="check", help="that it is measured on")
    return parser
