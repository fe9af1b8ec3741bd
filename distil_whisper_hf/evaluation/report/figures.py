"""Figures of the report: error rates, what quantisation changes, gaps between groups, gates by layer.

Colours are Okabe and Ito's (2008), which colour-blind readers tell apart; systems differ in their markers, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.atomic_files import replacing
from ..systems.gates import GateUse
from .analysis import ALL_ERRORS, Analysis, Comparison, GapRow, RateRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_WIDTH = 8.0
_DPI = 130


@dataclass(frozen=True)
class Point:
    """One value with its interval; limits that are nan are not drawn."""

    row: str
    series: str
    value: float
    low: float
    high: float


def draw_figures(folder: Path, analysis: Analysis, gates: Sequence[GateUse]) -> dict[str, Path]:
    """Draw what there are data for; returns the files by the name of the figure."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, Path] = {}

    def save(name: str, figure: Figure) -> None:
        drawn[name] = folder / f"{name}.png"
        # Without a date in it: the same numbers make the same file.
        with replacing(drawn[name]) as beside:
            figure.savefig(beside, dpi=_DPI, bbox_inches="tight", metadata={"Software": None})

    if analysis.rates:
        save("rates", _dots([_rate_point(row) for row in analysis.rates], "error rate in %", zero=False))
    changed = [one for one in analysis.comparisons if _same_model(one)]
    if changed:
        label = "change of the error rate against float32, in points"
        save("quantization", _dots([_change_point(one) for one in changed], label, zero=True))
    gaps = [point for row in analysis.gaps for point in _gap_points(row)]
    if gaps:
        save("gaps", _dots(gaps, "error rate of the group minus that of the reference, in points", zero=True))
    if gates:
        save("gates", gate_figure(gates, lambda use: use.opened, "gates open, in %"))
        flipped = [use for use in gates if not math.isnan(use.flipped)]
        if flipped:
            save("flips", gate_figure(flipped, lambda use: use.flipped, "decisions flipped, in %"))
    return drawn


def _same_model(comparison: Comparison) -> bool:
    return comparison.before.rpartition(" ")[0] == comparison.after.rpartition(" ")[0]


def _rate_point(row: RateRow) -> Point:
    interval = row.wer if row.metric == "wer" else row.cer
    value = row.score.wer if row.metric == "wer" else row.score.cer
    low, high = (math.nan, math.nan) if interval is None else (interval.low, interval.high)
    return Point(f"{row.dataset} ({row.language}, {row.metric.upper()})", row.system, value, low, high)


def _change_point(one: Comparison) -> Point:
    difference = one.difference
    name = f"{one.dataset} ({one.language}, {one.metric.upper()})"
    return Point(name, one.after, difference.estimate, difference.low, difference.high)


def _gap_points(row: GapRow) -> list[Point]:
    report = row.report
    note = "" if row.errors == ALL_ERRORS else f"\n{row.errors}"
    return [
        Point(
            f"{row.dataset} ({report.language}, {report.metric.upper()})\n{gap.group} − {gap.reference}{note}",
            report.system,
            gap.absolute.estimate,
            gap.absolute.low,
            gap.absolute.high,
        )
        for gap in report.gaps
    ]


def _dots(points: Sequence[Point], label: str, *, zero: bool) -> Figure:
    """A row for each data set; in it a dot with its interval for each system."""
    from matplotlib.figure import Figure

    rows = list(dict.fromkeys(point.row for point in points))
    series = list(dict.fromkeys(point.series for point in points))
    lines = max(row.count("\n") + 1 for row in rows)
    height = 1.1 + len(rows) * max(0.3 * lines, 0.16 + 0.13 * len(series)) + 0.2 * len(series)
    figure = Figure(figsize=(_WIDTH, height))
    axes = figure.add_subplot()
    step = 0.7 / max(len(series), 2)
    for index, name in enumerate(series):
        mine = [point for point in points if point.series == name and math.isfinite(point.value)]
        heights = [rows.index(point.row) + (index - (len(series) - 1) / 2) * step for point in mine]
        for point, y in zip(mine, heights, strict=True):
            if math.isfinite(point.low) and math.isfinite(point.high):
                axes.plot([point.low, point.high], [y, y], color=_colour(index), linewidth=1.6, solid_capstyle="butt")
        values = [point.value for point in mine]
        axes.plot(values, heights, _marker(index), color=_colour(index), markersize=5.5, label=name)
    for border in range(1, len(rows)):
        axes.axhline(border - 0.5, color="#dddddd", linewidth=0.8, zorder=0)
    if zero:
        axes.axvline(0, color="#666666", linewidth=1.0, zorder=0)
    else:
        axes.set_xlim(left=0)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(label)
    _finish(axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False, fontsize=9)
    return figure


def gate_figure(gates: Sequence[GateUse], value: Callable[[GateUse], float], label: str) -> Figure:
    """A panel for each side, a line over its layers for each system and expert."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, 3.6))
    series = list(dict.fromkeys((use.system, use.expert) for use in gates))
    panels: Any = figure.subplots(1, 2, sharey=True)
    for axes, side in zip(panels, ("encoder", "decoder"), strict=True):
        for index, (system, expert) in enumerate(series):
            mine = sorted(
                (u for u in gates if (u.system, u.expert, u.side) == (system, expert, side)), key=lambda use: use.layer
            )
            axes.plot(
                [use.layer for use in mine],
                [value(use) for use in mine],
                color=_colour(index),
                marker=_marker(index),
                # Lines that lie on one another stay visible.
                linestyle=("-", "--", ":", "-.")[index % 4],
                markersize=5.5,
                label=f"{system}, expert {expert}",
            )
        axes.set_title(side, fontsize=11)
        axes.set_xlabel("layer")
        axes.set_xticks(sorted({use.layer for use in gates if use.side == side}))
        _finish(axes)
    # Once both panels are drawn: they share the axis, and this ends its adapting to what is drawn.
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel(label)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=2, frameon=False, fontsize=9)
    return figure


def _finish(axes: Axes) -> None:
    axes.grid(axis="x", color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _marker(index: int) -> str:
    return MARKERS[index % len(MARKERS)]
