"""Error rates one can trust: systems on data sets, bias by group, and what quantisation does to both.

    distil-whisper evaluate --systems openai/whisper-base --precisions float32 bnb-int8 --data speech/ca
    distil-whisper evaluate --recipe recipe.json

A system is MODEL, MODEL+ca@FOLDER (with an expert) or MODEL+lora@FOLDER (with a LoRA adapter), before it LABEL= for a
name of your own. Every clip's hypothesis is kept in OUTPUT/hypotheses: an interrupted run goes on where it
stopped, and what has been transcribed is never transcribed again. The report is OUTPUT/report.md. Several processes
share the clips, each with a GPU of its own: `torchrun --nproc_per_node 2 -m distil_whisper_hf.cli evaluate ...`.
"""

from __future__ import annotations

import logging
import math
import shlex
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..data.atomic_files import write_json_lines, write_text
from ..places import local_or_hub, missing_path
from ..secret_tokens import without_given_tokens
from .command_line import Parser
from .mistakes import program
from .output_folders import check_output_dir, locked

if TYPE_CHECKING:
    from ..data.clips import Clip
    from ..data.rejections import Note, Rejection
    from ..evaluation.recipes import Recipe
    from ..evaluation.report.document import Report
    from ..evaluation.systems.hypotheses import Hypothesis
    from ..evaluation.systems.processes import Processes

    # System -> full id of a clip -> what it made of it.
    Answers = dict[str, dict[str, Hypothesis]]

# They say the same at every call or batch.
_CHATTY = (
    "bitsandbytes.autograd._functions",
    "transformers.generation.utils",
    "transformers.generation.configuration_utils",
)
PROGRAM = "distil-whisper evaluate"
_LIBRARIES = ("torch", "transformers", "jiwer", "sacrebleu", "num2words", "bitsandbytes", "torchao", "peft")


@program(PROGRAM)
def main(arguments: Sequence[str]) -> int:
    """Run the program; returns its exit status."""
    args = _parser().read(arguments)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    from ..evaluation.recipes import recipe_from
    from ..evaluation.systems.processes import connected

    with connected() as processes:
        values = _values(args)
        recipe = recipe_from({**values, "device": processes.device(values.get("device", "cpu"))})
        _check_start(recipe)
        if args.dry_run:
            if processes.main:
                print(show_data(recipe, read_data(recipe)))
            return 0
        command = shlex.join([*PROGRAM.split(), *without_given_tokens(arguments)])
        with locked(recipe.output, main_process=processes.main):
            # Nothing is written before the folder is this program's.
            processes.wait()
            data = read_data(recipe)
            answers = transcribe_all(recipe, data, progress=not args.quiet and processes.main, processes=processes)
            if not processes.main:
                return 0
            report = evaluate(recipe, data, answers, command=command)
    print(f"{len(report.scores)} scores of {len(report.clips)} clips: {Path(recipe.output) / 'report.md'}")
    return 0


def _parser() -> Parser:
    parser = Parser(PROGRAM, __doc__)

    def add(section: str, *names: str, **options: Any) -> None:
        parser.add_argument(*names, section=section, **options)

    add("what is evaluated", "--systems", nargs="+", help="see above")
    add("what is evaluated", "--model", help="a Whisper, in place of --systems")
    add("what is evaluated", "--experts", help="folder or repository whose experts --model takes")
    add("what is evaluated", "--precisions", nargs="+", help="float32, bfloat16, float16, bnb-int8, bnb-nf4, "
        "torchao-int8-weight-only, torchao-int8-dynamic; else float32")  # fmt: skip
    add("what is evaluated", "--recipe", help="JSON with the fields of evaluation.recipes.Recipe; flags go before")
    add("data", "--data", nargs="+", help="audio folders, manifests (csv, tsv, jsonl, json), Common Voice locales")
    add("data", "--out_of_domain", nargs="+", default=[], metavar="NAME",
        help="sets of --data; if given, the others count as in domain")  # fmt: skip
    add("data", "--language", help="of all clips, else the tables' column")
    add("data", "--where", action="append", default=[], metavar="COLUMN=VALUE", help="keep only such rows")
    add("data", "--task", choices=("transcribe", "translate"), help="translate: BLEU against English references")
    add("data", "--text_column", help="of the references, where it has no usual name")
    add("data", "--max_rejected", type=float, help="share of a set's rows that may be unusable, else 0.5")
    add("data", "--test_limit", "--limit", type=int, help="clips of each set, from as many speakers as possible")
    add("scores", "--normalizer", choices=("unicode", "basic", "english", "none"), help="else unicode")
    add("scores", "--spell_numbers", choices=("no", "digits", "cardinals"), help="numerals as words before scoring")
    add("scores", "--resamples", type=int, rare=True, help="of the bootstrap, else 10000")
    add("decoding", "--batch_size", type=int, help="else 8")
    add("decoding", "--num_beams", type=int, help="else 1, greedy")
    add("decoding", "--max_new_tokens", type=int, help="most tokens of a clip, else the model's limit")
    add("decoding", "--no_long_form", action="store_true", rare=True, help="leave out clips over 30 s, by name")
    add("run", "--output_dir", "--output", dest="output", help="else evaluation")
    add("run", "--device", help="else cpu")
    add("run", "--seed", type=int, rare=True, help="else 0")
    add("run", "--no_cost", action="store_true", help="do not measure time and memory")
    add("run", "--cost_clips", type=int, rare=True, help="clips for time and memory, else 8")
    add("run", "--dry_run", action="store_true", help="read the data, say what is there, and stop")
    add("run", "--quiet", action="store_true", help="no progress bar")
    return parser


def _values(args: Namespace) -> dict[str, Any]:
    """The recipe's values with those of the flags over them."""
    from ..evaluation.recipes import read_recipe

    values = read_recipe(args.recipe) if args.recipe else {}
    if args.model is not None:
        if args.systems is not None:
            raise ValueError("Expected --systems or --model, got both. A system with experts is MODEL+ca@FOLDER.")
        args.systems = [_system(args.model, args.experts)]
    elif args.experts is not None:
        raise ValueError("Expected --model beside --experts, got none. Name the base of the experts.")
    for name in ("systems", "precisions", "output", "normalizer", "spell_numbers", "resamples", "seed", "device",
                 "cost_clips", "max_rejected"):  # fmt: skip
        if getattr(args, name) is not None:
            values[name] = getattr(args, name)
    generation = {key: getattr(args, key) for key in ("batch_size", "num_beams", "max_new_tokens")}
    values["generation"] = {
        **values.get("generation", {}),
        **{key: value for key, value in generation.items() if value is not None},
        **({"long_form": False} if args.no_long_form else {}),
    }
    if args.no_cost:
        values["measure_cost"] = False
    if args.data:
        values["datasets"] = [_dataset(path, args) for path in args.data]
    elif args.test_limit is not None and isinstance(values.get("datasets"), list):
        sets = [{"path": one} if isinstance(one, str) else one for one in values["datasets"]]
        values["datasets"] = [{**one, "limit": args.test_limit} for one in sets]
    return values


def _system(model: str, experts: str | None) -> dict[str, Any]:
    """A model with all experts of a folder or repository, as a recipe has it."""
    from ..checkpoints import local_experts
    from ..publishing.listing import list_experts

    if experts is None:
        return {"model": model}
    place = local_or_hub(experts, "a folder or repository with experts (--experts)")
    names = sorted(local_experts(place) if Path(place).is_dir() else list_experts(place))
    if not names:
        raise ValueError(f"Expected expert.<name>.safetensors in {experts!r} (--experts), found none.")
    return {"model": model, "experts": {name: place for name in names}}


def _dataset(path: str, args: Namespace) -> dict[str, Any]:
    from ..data.arguments import where_values

    name = Path(path).stem
    domain = ("out" if name in args.out_of_domain else "in") if args.out_of_domain else ""
    return {
        "path": path,
        "language": args.language,
        "where": where_values(args.where),
        "limit": args.test_limit,
        "task": args.task or "transcribe",
        "columns": {"text": args.text_column} if args.text_column else {},
        "domain": domain,
    }


class Data(NamedTuple):
    """What the recipe's data sets hold: clips, repeated full ids with how often, clips before any limit, rows that
    describe no clip or whose text is none, why clips cannot be heard, and what is worth knowing of the others."""

    clips: list[Clip]
    repeated: dict[str, int]
    sizes: dict[str, int]
    rejected: dict[str, list[Rejection]]
    unheard: dict[str, list[Rejection]]
    notes: dict[str, list[Note]]


def read_data(recipe: Recipe) -> Data:
    """Read all data sets of a recipe; `ValueError` if there is no clip, or a table that cannot be read.

    Where too little of a set is left, what was left out is written into `recipe.output`.
    """
    from ..data.screening import REJECTIONS_FILE, TooManyRejected
    from ..evaluation.evaluated_clips import read_evaluated_clips

    data = Data([], {}, {}, {}, {}, {})
    for dataset in recipe.datasets:
        try:
            found = read_evaluated_clips(dataset, max_rejected=recipe.max_rejected)
        except TooManyRejected as error:
            error.report.save(Path(recipe.output) / REJECTIONS_FILE)
            raise
        data.clips.extend(found.clips)
        data.repeated.update(found.repeated)
        data.sizes[dataset.name] = found.size
        data.rejected[dataset.name], data.unheard[dataset.name] = found.rejected, found.unheard
        data.notes[dataset.name] = found.notes
    if not data.clips:
        raise ValueError(f"expected clips in {', '.join(one.path for one in recipe.datasets)}, found none: see --where")
    return data


def _check_start(recipe: Recipe) -> None:
    """Refuse what could only fail once clips have been transcribed."""
    from .starting import check_libraries, check_new_tokens, open_config

    check_output_dir(recipe.output)
    for spec in recipe.datasets:
        if spec.kind != "hub" and not Path(spec.path).exists():
            raise ValueError(missing_path(spec.path, "a folder or a manifest (--data; a Hub data set needs a recipe)"))
    for model in dict.fromkeys(spec.model for spec in recipe.systems):
        config = open_config(model, what="--systems")
        check_new_tokens(config, recipe.generation.max_new_tokens, flag="--max_new_tokens")
    needed = {"bitsandbytes": "bnb", "torchao": "torchao"}
    precisions = [spec.precision for spec in recipe.systems]
    for library, kind in needed.items():
        wanted = [precision for precision in precisions if precision.startswith(kind)]
        check_libraries([library] if wanted else [], what=f"the precision {', '.join(dict.fromkeys(wanted))}")
    check_libraries(["peft"] if any(spec.adapter for spec in recipe.systems) else [], what="a LoRA adapter")
    check_libraries(["matplotlib"], what="the report's figures")
    if any(spec.task == "translate" for spec in recipe.datasets):
        check_libraries(["sacrebleu"], what="scores of translations")
    if recipe.spell_numbers != "no":
        check_libraries(["num2words"], what="numerals as words")


def show_data(recipe: Recipe, data: Data) -> str:
    """What would be evaluated: every data set with its size, speakers and unreadable clips, and the first rows."""
    from ..data.rejections import notices
    from ..evaluation.report.analysis import normalizer_for
    from .preview import ROWS, count

    lines = []
    for spec in recipe.datasets:
        members = [clip for clip in data.clips if clip.dataset == spec.name]
        lines.append(f"{spec.name}: {count(members)}; chosen of {data.sizes[spec.name]}")
        lines += [f"  cannot be read: {one.id}, {one.detail}" for one in data.unheard[spec.name]]
        lines += [f"  left out: {one.place}, {one.detail}" for one in data.rejected[spec.name]]
        lines += [f"  {line}" for line in notices(data.notes[spec.name])]
        for clip in members[:ROWS]:
            reference = clip.text
            if clip.task == "transcribe":
                reference = normalizer_for(recipe, clip.language)(clip.text)
            lines.append(f"  {clip.id} ({clip.language}, {clip.seconds or 0.0:.2f} s): {reference}")
    return "\n".join(lines)


def transcribe_all(recipe: Recipe, data: Data, *, progress: bool = True, processes: Processes | None = None) -> Answers:
    """Transcribe what is missing, of several processes a share each; all of it, on the first of them."""
    from ..evaluation.systems.hypotheses import HypothesisStore, store_path, transcribe
    from ..evaluation.systems.processes import ALONE

    processes = processes or ALONE
    folder = Path(recipe.output) / "hypotheses"
    paths = {spec.name: store_path(folder, spec, recipe.generation) for spec in recipe.systems}
    if processes.main:
        for path in paths.values():
            HypothesisStore(path).take_in()
    processes.wait()
    for spec in recipe.systems:
        store = HypothesisStore(paths[spec.name], processes.index)
        transcribe(spec, data.clips, store, settings=recipe.generation, progress=progress, processes=processes)
    processes.wait()
    answers: Answers = {}
    if processes.main:
        for name, path in paths.items():
            store = HypothesisStore(path)
            store.take_in()
            answers[name] = {clip.full_id: store[clip] for clip in data.clips}
    return answers


def evaluate(recipe: Recipe, data: Data, answers: Answers, *, command: str = "") -> Report:
    """Measure, score, and write everything into `recipe.output`; returns the report.

    Written: `rejections.jsonl` (what is not evaluated), `notes.jsonl` (what is worth knowing of the rest),
    `costs.json`, `gates.json`, `scores.jsonl` (clips), `results.jsonl` (tables), `figures/*.png` and `report.md`. All
    but costs and gates are made anew each time, from these and from the hypotheses (`transcribe_all`).
    """
    from ..data.screening import REJECTIONS_FILE, ScreeningReport
    from ..evaluation.report.analysis import analyse, score_all
    from ..evaluation.report.document import Report
    from ..evaluation.report.figures import draw_figures
    from ..evaluation.report.page import render
    from ..evaluation.report.trends import find_trends
    from .kept_measurements import costs_of, gates_of

    output = Path(recipe.output)
    output.mkdir(parents=True, exist_ok=True)
    clips, repeated, sizes, rejected, _, notes = data
    left_out = [one for rows in rejected.values() for one in rows]
    known = [one for found in notes.values() for one in found]
    ScreeningReport(rejections=left_out, notes=known).save(output / REJECTIONS_FILE)
    costs = costs_of(recipe, clips, answers, output / "costs.json") if recipe.measure_cost else []
    gates = gates_of(recipe, clips, answers, output / "gates.json")
    scores = score_all(recipe, clips, answers)
    analysis = analyse(recipe, clips, answers, scores)
    trends = find_trends(recipe, analysis.rates, {cost.model: cost.parameters for cost in costs})
    report = Report(recipe, clips, answers, scores, analysis, trends, costs, gates, repeated, sizes, rejected, notes)
    report.command = command
    report.versions = ", ".join(f"{name} {found}" for name in _LIBRARIES if (found := _version(name)))
    report.figures = draw_figures(output / "figures", analysis, gates)
    write_json_lines(output / "scores.jsonl", [_plain(_score_line(score)) for score in scores])
    rows: list[Any] = [*analysis.rates, *analysis.comparisons, *analysis.gaps, *analysis.gap_changes, *analysis.bleu]
    rows += [*trends.resources, *trends.resource_changes, *trends.sizes, *costs, *gates]
    write_json_lines(output / "results.jsonl", [_plain({"kind": type(row).__name__, **asdict(row)}) for row in rows])
    write_text(output / "report.md", render(report))
    return report


def _score_line(score: Any) -> dict[str, Any]:
    return {
        "id": score.utterance_id,
        "system": score.system,
        "language": score.language,
        "speaker": score.speaker,
        "reference": score.reference,
        "hypothesis": score.hypothesis,
        "normalizer": score.normalizer,
        "wer": score.words.rate,
        "cer": score.characters.rate,
        "words": asdict(score.words),
        "characters": asdict(score.characters),
        "loop": score.repetition.is_loop,
        **score.labels,
    }


def _plain(value: Any) -> Any:
    """Without what JSON lacks: nan and infinity become null."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _version(name: str) -> str | None:
    from importlib.util import find_spec

    return version(name) if find_spec(name) is not None else None
