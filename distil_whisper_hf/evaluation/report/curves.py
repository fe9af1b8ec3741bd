"""The page and the figure of a curve: points, fronts, and what a method costs where it gains as much as another."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from ...data.atomic_files import replacing
from ...markdown import table
from ..scores.metrics import ErrorCounts, word_counts
from ..statistics.fronts import Candidate, Errors, differences, front, shared_levels
from .figures import COLOURS, MARKERS

# The model that all runs start from, as a method without training.
START = "whisper"
Point = Mapping[str, Any]
# Method -> setting (rate, steps, weight) -> its points, a seed each.
Settings = dict[str, dict[tuple[float, int, float], list[Point]]]


def curve_page(points: Sequence[Point], *, reference: str, resamples: int) -> str:
    """Markdown: for each pair its points, and methods at equal error rates in domain.

    Args:
        points: as `distil-whisper curve` writes them.
        reference: the method that the others are compared with.
        resamples: of intervals.
    """
    parts = ["# Gain in domain, loss out of it"]
    for pair in dict.fromkeys(point["pair"] for point in points):
        start, settings = _settings([point for point in points if point["pair"] == pair])
        parts += [f"## {pair}", _rates_table(start, settings)]
        if start is not None and reference in settings:
            parts.append(_levels_table(start, settings, reference, resamples))
    parts.append(
        "WER in %, no clip counted above 100 %, so that no single loop decides it; in brackets without that limit. "
        "Means over seeds. A front is the lower left of a method's points, Whisper among them, with straight lines "
        "between; its settings were chosen on these very clips, for every method alike. Intervals: 95 %, percentile "
        "bootstrap over clips, fronts drawn anew each time; they hold for these speakers. Changed: words that differ "
        "from Whisper's own transcripts in other languages."
    )
    return "\n\n".join(parts)


def draw_curves(points: Sequence[Point], path: Path) -> None:
    """A panel for each pair: means over seeds as points, fronts as lines, the start as a cross."""
    from matplotlib.figure import Figure

    pairs = list(dict.fromkeys(point["pair"] for point in points))
    columns = min(3, len(pairs)) or 1
    rows = math.ceil(len(pairs) / columns) or 1
    figure = Figure(figsize=(5.2 * columns, 4.4 * rows), layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, columns)).flatten()
    names = [name for name in dict.fromkeys(point["method"] for point in points) if name != START]
    for panel, pair in zip(panels, pairs, strict=False):
        start, settings = _settings([point for point in points if point["pair"] == pair])
        for index, name in enumerate(names):
            colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
            rates = _mean_rates(settings.get(name, {}))
            if not len(rates):
                continue
            panel.plot(*rates.T, marker, color=colour, alpha=0.45, markersize=5, linestyle="none")
            reached = _reached(start, settings[name])
            line = reached[front(reached)]
            panel.plot(*line.T, color=colour, marker=marker, markersize=6, linewidth=1.6, label=name)
        if start is not None:
            panel.plot(*_rates(start), "x", color="black", markersize=9, markeredgewidth=2, label=START)
        panel.set_title(pair)
        panel.set_xlabel("WER in domain, %")
        panel.set_ylabel("WER out of domain, %")
        panel.grid(alpha=0.25)
    for panel in panels[len(pairs) :]:
        panel.set_axis_off()
    if pairs:
        panels[0].legend(fontsize="small")
    with replacing(path) as beside:
        figure.savefig(beside, dpi=130, metadata={"Software": None})


def _settings(points: Sequence[Point]) -> tuple[Point | None, Settings]:
    """The start, and the points of each setting; settings that lack a seed which others have are left out."""
    start = next((point for point in points if point["method"] == START), None)
    found: Settings = defaultdict(lambda: defaultdict(list))
    for point in points:
        if point["method"] != START:
            found[point["method"]][point["learning_rate"], point["steps"], point["weight"]].append(point)
    seeds = {point["seed"] for point in points if point["method"] != START}
    complete = {
        name: {key: group for key, group in settings.items() if {one["seed"] for one in group} == seeds}
        for name, settings in found.items()
    }
    return start, {name: settings for name, settings in complete.items() if settings}


def _errors(point: Point, domain: str, *, limited: bool = True) -> Errors:
    sets = [one for one in point["sets"].values() if one["domain"] == domain]
    errors, words = (np.array([n for one in sets for n in one[key]], dtype=np.float64) for key in ("errors", "words"))
    return Errors(np.minimum(errors, words) if limited else errors, words)


def _rate(point: Point, domain: str, *, limited: bool = True) -> float:
    counts = _errors(point, domain, limited=limited)
    return float(100 * counts.errors.sum() / counts.words.sum()) if counts.words.sum() else math.nan


def _rates(point: Point) -> list[float]:
    return [_rate(point, "in"), _rate(point, "out")]


def _mean_rates(settings: Mapping[Any, Sequence[Point]]) -> np.ndarray:
    """`(settings, 2)`: means over seeds, in and out of domain."""
    return np.array([np.mean([_rates(point) for point in group], axis=0) for group in settings.values()])


def _reached(start: Point | None, settings: Mapping[Any, Sequence[Point]]) -> np.ndarray:
    """As `_mean_rates`, with the start behind them."""
    rates = _mean_rates(settings)
    return rates if start is None else np.concatenate([rates, [_rates(start)]])


def _changed(point: Point, start: Point | None) -> float:
    """Words of other languages that differ from the start's, in % of its words; nan without such sets."""
    if start is None:
        return math.nan
    pairs = [
        pair
        for name, one in point["sets"].items()
        if one["domain"] == "other"
        for pair in zip(start["sets"][name]["texts"], one["texts"], strict=True)
    ]
    return sum((word_counts(*pair) for pair in pairs), ErrorCounts()).rate if pairs else math.nan


def _rates_table(start: Point | None, settings: Settings) -> str:
    header = (
        "method",
        "rate",
        "steps",
        "weight",
        "in domain",
        "out of domain",
        "other languages",
        "changed %",
        "front",
    )
    lines = []
    if start is not None:
        lines.append([START, "", "", "", *_cells([start]), "", ""])
    for name, found in settings.items():
        chosen = set(front(_reached(start, found)).tolist())
        for index, ((rate, steps, weight), group) in enumerate(found.items()):
            changed = mean(_changed(point, start) for point in group)
            mark = "x" if index in chosen else ""
            shown = "" if math.isnan(changed) else f"{changed:.1f}"
            lines.append([name, f"{rate:g}", str(steps), f"{weight:g}", *_cells(group), shown, mark])
    return table(header, lines)


def _cells(group: Sequence[Point]) -> list[str]:
    cells = []
    for domain in ("in", "out", "other"):
        limited, whole = (mean(_rate(point, domain, limited=limit) for point in group) for limit in (True, False))
        spread = [_rate(point, domain) for point in group]
        over = f" ({min(spread):.1f} to {max(spread):.1f})" if len(group) > 1 and domain != "other" else ""
        cells.append("" if math.isnan(limited) else f"{limited:.1f}{over} [{whole:.1f}]")
    return cells


def _levels_table(start: Point, settings: Settings, reference: str, resamples: int) -> str:
    rates = {name: _reached(start, found) for name, found in settings.items()}
    levels = shared_levels(rates, _rates(start))
    if not levels:
        return "No method gains in domain: there is nothing to compare at."
    begin, theirs = _candidate([start]), [_candidate(group) for group in settings[reference].values()]
    header = ("method", *(f"at {level:.1f} % in domain" for level in levels))
    lines = []
    for name, found in settings.items():
        if name == reference:
            continue
        mine = [_candidate(group) for group in found.values()]
        cells = []
        for one in differences(mine, theirs, begin, levels, resamples=resamples):
            alone = " ".join("-" if math.isnan(value) else f"{value:+.1f}" for value in one.by_seed)
            cells.append(f"{one.value:+.1f} [{one.low:+.1f}, {one.high:+.1f}] ({alone})")
        lines.append([name, *cells])
    said = (
        f"WER out of domain less {reference}'s at equal WER in domain, in points, with its interval (each seed alone):"
    )
    return f"{said}\n\n{table(header, lines)}"


def _candidate(group: Sequence[Point]) -> Candidate:
    return Candidate([_errors(point, "in") for point in group], [_errors(point, "out") for point in group])
