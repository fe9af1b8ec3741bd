"""Set trained systems beside each other: one table, what each does to other languages, and which gates open.

    distil-whisper compare runs/el-js runs/el-full runs/el-lora --reference runs/el-js --output_dir runs/compared

Reads `scores.json` of runs of `distil-whisper train` and `baseline` with the same test sets (one of them with
`--test both`, for plain Whisper). Writes `compared.md`, `gates.png` where a run has experts, and, for the run named by
`--reference`, `results.<expert>.json` beside its expert: the figures that its model card will state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.atomic_files import replacing, write_json, write_text
from ..evaluation.report.analysis import capped
from ..evaluation.scores.metrics import ErrorCounts, UtteranceScore, aggregate, score_utterance, word_counts
from ..evaluation.scores.normalization import get_normalizer
from ..evaluation.statistics.intervals import error_arrays, make_clusters, rate_interval
from ..evaluation.statistics.paired import compare_systems
from ..markdown import table
from ..publishing.measured_results import Gates, MeasuredResults, Row, read_results
from .command_line import Parser
from .mistakes import program
from .output_folders import check_output_dir, locked
from .runs import command_line

BASE = "whisper"
PROGRAM = "distil-whisper compare"


@dataclass(frozen=True)
class System:
    """A system of one run.

    Attributes:
        name: "whisper", or the name of the run's folder.
        scores: test set -> scores of its utterances.
        transcripts: test set -> what the system wrote.
        domains: test set -> "in" or "out".
        run: the content of `scores.json`.
    """

    name: str
    scores: dict[str, list[UtteranceScore]]
    transcripts: dict[str, list[str]]
    domains: dict[str, str]
    run: Mapping[str, Any]


@program(PROGRAM)
def main(arguments: Sequence[str]) -> int:
    """Run the program; returns the exit status."""
    args = _parser().read(arguments)
    check_output_dir(args.output_dir)
    systems = read_systems(args.runs)
    reference = next((system for system in systems if args.reference and system.name == args.reference.name), None)
    if args.reference is not None and reference is None:
        raise ValueError(f"Expected --reference among the runs ({', '.join(s.name for s in systems)}).")
    languages = trained_languages(systems)
    gates = gate_shares(systems)
    text = "\n\n".join(
        part
        for part in (
            rates_table(systems, reference, languages),
            cost_table(systems),
            gate_table(gates),
            f"Made by `{command_line('compare', arguments)}`.",
        )
        if part
    )
    print(text)
    with locked(args.output_dir):
        write_text(args.output_dir / "compared.md", text + "\n")
        if gates:
            draw_gates(gates, args.output_dir / "gates.png")
    if reference is not None:
        about = {} if args.about is None else json.loads(args.about.read_text(encoding="utf-8"))
        with locked(args.reference):
            for name in reference.run.get("gates", {}):
                results = read_results({**about, **card_results(systems, reference, name).as_dict()})
                write_json(args.reference / f"results.{name}.json", results.as_dict())
    return 0


def _parser() -> Parser:
    parser = Parser(PROGRAM, __doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of train and baseline")
    parser.add_argument("--reference", type=Path, section="comparison", help="run that the others are compared with")
    parser.add_argument(
        "--about", type=Path, section="comparison", help="JSON with licence, data and limits, for the card"
    )
    parser.add_argument(
        "--output_dir", "--output", type=Path, required=True, section="run", help="folder for the table and the figure"
    )
    return parser


def read_systems(runs: Sequence[Path]) -> list[System]:
    """Plain Whisper, from the first run that tested it, then each run's own system.

    Raises:
        FileNotFoundError: a run without scores.
        ValueError: runs with different test sets or precisions.
    """
    found: list[System] = []
    for folder in runs:
        path = folder / "scores.json"
        if not path.is_file():
            raise FileNotFoundError(f"Expected {path}, which train and baseline write at their end. Is the run over?")
        run = json.loads(path.read_text(encoding="utf-8"))
        for label in dict.fromkeys(row["system"] for row in run["rows"]):
            if label != BASE or all(system.name != BASE for system in found):
                found.append(_system(BASE if label == BASE else folder.name, label, run))
    first = found[0]
    for system in found[1:]:
        for name in first.scores:
            ours = [score.normalized_reference for score in first.scores[name]]
            if name not in system.scores or ours != [s.normalized_reference for s in system.scores[name]]:
                raise ValueError(f"{first.name} and {system.name} were not tested on the same clips of {name}.")
        if system.run["test_precision"] != first.run["test_precision"]:
            raise ValueError(f"{first.name} and {system.name} were tested in different precisions.")
    return sorted(found, key=lambda system: system.name != BASE)


def _system(name: str, label: str, run: Mapping[str, Any]) -> System:
    scores, transcripts, domains = {}, {}, {}
    for dataset, texts in run["transcripts"].items():
        if label not in texts:
            continue
        transcripts[dataset], domains[dataset] = texts[label], texts["domain"]
        scores[dataset] = [
            score_utterance(
                reference,
                hypothesis,
                normalizer=get_normalizer("unicode", language),
                utterance_id=f"{number}:{clip}",
                system=name,
                language=language,
            )
            for number, (clip, language, reference, hypothesis) in enumerate(
                zip(texts["ids"], texts["languages"], texts["references"], texts[label], strict=True)
            )
        ]
    return System(name, scores, transcripts, domains, run)


def trained_languages(systems: Sequence[System]) -> set[str]:
    """Languages of the in-domain test sets."""
    return {
        str(score.language)
        for system in systems
        for dataset, scores in system.scores.items()
        if system.domains[dataset] == "in"
        for score in scores
    }


def rates_table(systems: Sequence[System], reference: System | None, trained: set[str]) -> str:
    """WER with its 95 % interval, CER, loops, the difference from the reference, and what changed elsewhere."""
    header = ["set", "language", "domain", "system", "WER % [95 %]", "capped", "CER %", "loops", "clips"]
    header += [f"WER - {reference.name}'s [95 %]"] if reference else []
    header += ["transcripts changed", "words changed %"]
    lines = []
    base = systems[0] if systems[0].name == BASE else None
    for dataset in systems[0].scores:
        for system in systems:
            scores = system.scores[dataset]
            language = str(scores[0].language)
            (cell,) = aggregate(scores, by=())
            other = language not in trained
            domain = "other language" if other else system.domains[dataset]
            (limited,) = aggregate([capped(score) for score in scores], by=())
            rates = [_rate(scores), f"{limited.wer:.1f}", f"{cell.cer:.1f}"]
            line = [dataset, language, domain, system.name, *rates, str(len(cell.loops)), str(cell.utterances)]
            if reference is not None:
                line.append(_difference(reference.scores[dataset], scores))
            changed = ("", "")
            if base is not None and other and system is not base:
                changed = _changes(base.transcripts[dataset], system.transcripts[dataset])
            lines.append([*line, *changed])
    normalizers = sorted({score.normalizer for system in systems for s in system.scores.values() for score in s})
    note = (
        f"Normaliser: {', '.join(normalizers)}. Tested in {systems[0].run['test_precision']}. Intervals: studentised "
        "bootstrap over utterances, which holds for these speakers only. Capped: WER with no clip counted above 100 %, "
        "so that no single loop decides it. Changed: against plain Whisper's transcripts as they are written, so a "
        "capital or a comma counts."
    )
    return f"{table(header, lines)}\n\n{note}"


def cost_table(systems: Sequence[System]) -> str:
    """Trained parameters, steps and seconds of every run; not of what was put into its folder in another way."""
    lines = []
    for system in systems:
        run = system.run
        if system.name != BASE and "steps" in run:
            seconds = run["seconds"] / run["steps"]
            lines.append([system.name, f"{run['trained_parameters']:,}", str(run["steps"]), f"{seconds:.1f}"])
    return table(("system", "trained parameters", "steps", "s / step"), lines) if lines else ""


def gate_shares(systems: Sequence[System]) -> list[tuple[str, Mapping[str, Sequence[float]]]]:
    """Every expert of the systems, as "run" or "run (expert)", and its share of open gates by side and layer."""
    found = []
    for system in systems:
        gates = {} if system.name == BASE else system.run.get("gates") or {}
        found += [
            (system.name if len(gates) == 1 else f"{system.name} ({name})", sides) for name, sides in gates.items()
        ]
    return found


def gate_table(shares: Sequence[tuple[str, Mapping[str, Sequence[float]]]]) -> str:
    """Share of open gates in % by layer and side, a line for each expert and side; empty without an expert."""
    rows = [
        [label, side, *(f"{100 * share:.0f}" for share in layers)]
        for label, sides in shares
        for side, layers in sides.items()
    ]
    if not rows:
        return ""
    width = max(map(len, rows))
    header = ["expert", "side", *(f"layer {number}" for number in range(1, width - 1))]
    return table(header, ([*row, *[""] * (width - len(row))] for row in rows))


def draw_gates(shares: Sequence[tuple[str, Mapping[str, Sequence[float]]]], path: Path) -> None:
    """A panel for each side: experts downwards, layers across, in each cell the share of open gates in %."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.1 + 0.32 * len(shares)), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, side in zip(panels, ("encoder", "decoder"), strict=True):
        percent = [[100 * share for share in sides[side]] for _, sides in shares]
        depth = max(map(len, percent))
        # Dark from the middle on, where the number in the cell turns white: legible in grey as well.
        cells = np.array([[*row, *[np.nan] * (depth - len(row))] for row in percent])
        panel.imshow(cells, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        for row, column in np.argwhere(~np.isnan(cells)):
            value = cells[row, column]
            colour = "white" if value > 60 else "black"
            panel.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize="small")
        panel.set_xticks(range(depth), [str(layer + 1) for layer in range(depth)])
        panel.set_yticks(range(len(shares)), [label for label, _ in shares] if side == "encoder" else [])
        panel.set_xlabel("layer")
        panel.set_title(f"{side}: open gates, %")
    with replacing(path) as beside:
        figure.savefig(beside, dpi=150)


def card_results(systems: Sequence[System], reference: System, name: str) -> MeasuredResults:
    """Figures of one expert and of what it was compared with."""
    rows = []
    for system in systems:
        for dataset, scores in system.scores.items():
            (cell,) = aggregate(scores, by=())
            for metric in ("wer", "cer"):
                rows.append(
                    Row(
                        system={BASE: "base", reference.name: "expert"}.get(system.name, system.name),
                        dataset=dataset,
                        split="test",
                        domain=system.domains[dataset],
                        language=str(scores[0].language),
                        metric=metric.upper(),
                        value=round(getattr(cell, metric), 2),
                        normalizer=cell.normalizer,
                        clips=cell.utterances,
                        command=system.run["command"],
                    )
                )
    gates = Gates(**reference.run["gates"][name], command=reference.run["command"])
    return MeasuredResults(rows=rows, gates=gates)


def _rate(scores: Sequence[UtteranceScore]) -> str:
    errors, lengths, _ = error_arrays(scores)
    found = rate_interval(make_clusters(errors, lengths), rng=np.random.default_rng(0))
    return f"{found.estimate:.1f} [{found.low:.1f}, {found.high:.1f}]"


def _difference(reference: Sequence[UtteranceScore], scores: Sequence[UtteranceScore]) -> str:
    if reference is scores:
        return ""
    found = compare_systems(reference, scores, rng=np.random.default_rng(0), by_speaker=False).difference
    return f"{found.estimate:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"


def _changes(before: Sequence[str], after: Sequence[str]) -> tuple[str, str]:
    """How many transcripts differ, and how many words were inserted, deleted or replaced, in % of those before."""
    pairs = list(zip(before, after, strict=True))
    edits = sum((word_counts(*pair) for pair in pairs), ErrorCounts())
    return f"{sum(old != new for old, new in pairs)} of {len(pairs)}", f"{edits.rate:.1f}"
