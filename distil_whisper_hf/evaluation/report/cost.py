"""Sections of the report about what systems cost, and which gates their experts open."""

from __future__ import annotations

from collections.abc import Sequence

from ...markdown import table
from ..systems.gates import GateUse
from .document import Report
from .numbers import number

_MEGABYTE = 1e6


def render_costs(report: Report) -> str:
    """Size, memory and time of every system."""
    costs, recipe = report.costs, report.recipe
    if not costs:
        return ""
    rows = [
        (
            cost.system,
            f"{cost.parameters / 1e6:.1f} M",
            number(cost.disk_bytes / _MEGABYTE, 0),
            number(cost.weight_bytes / _MEGABYTE, 0),
            "–" if cost.peak_bytes is None else number((cost.peak_bytes - (cost.idle_bytes or 0)) / _MEGABYTE, 0),
            "–" if cost.peak_bytes is None else number(cost.peak_bytes / _MEGABYTE, 0),
            number(cost.seconds_per_second, 3),
            "–"
            if cost.time_ratio is None
            else f"{number(cost.time_ratio, 2)} [{number(cost.low_ratio, 2)} to {number(cost.high_ratio, 2)}]",
        )
        for cost in costs
    ]
    header = (
        "system", "weights", "on disk, MB", "weights in memory, MB", "peak above idle, MB", "peak of the process, MB",
        "seconds per second of speech", "time against float32",
    )  # fmt: skip
    return (
        f"## Size, memory and time\n\nMeasured on {recipe.cost_clips} clips in one batch (fewer where there are not so "
        "many). "
        "Memory: resident memory of a process of its own while it transcribes; idle is before the model is opened. "
        f"Time: median of {recipe.cost_repeats} rounds in which the systems take turns, with the smallest and largest "
        "ratio. "
        "Embeddings, convolutions and gates are not quantised.\n\n" + table(header, rows)
    )


def render_gates(report: Report) -> str:
    """Open and flipped gates by layer and side."""
    gates = report.gates
    if not gates:
        return ""
    pictures = [
        report.figure("gates", "Share of open gates by layer."),
        report.figure("flips", "Share of decisions that differ from the unquantised model's, by layer."),
    ]
    figures = "\n\n".join(picture for picture in pictures if picture)
    header = ("system", "expert", "side", "layer", "decisions", "open %", "flipped %")
    rows = [
        (use.system, use.expert, use.side, use.layer, use.decisions, number(use.opened), number(use.flipped, 2))
        for use in gates
    ]
    totals: dict[tuple[str, str], list[GateUse]] = {}
    for use in gates:
        totals.setdefault((use.system, use.expert), []).append(use)
    summary = [
        (
            system,
            expert,
            sum(use.decisions for use in uses),
            number(_share(uses, "opened")),
            number(_share(uses, "flipped"), 2),
        )
        for (system, expert), uses in totals.items()
    ]
    return (
        "## Gates\n\nOf each layer's decisions on frames of speech (encoder) and tokens (decoder), the share that "
        "takes the expert, and the share that differs from the float32 model's on the same clips and texts. "
        "Gates themselves are never quantised; what they read is.\n\n"
        f"{table(('system', 'expert', 'decisions', 'open %', 'flipped %'), summary)}\n\n{figures}\n\n"
        f"{table(header, rows)}"
    )


def _share(uses: Sequence[GateUse], name: str) -> float:
    return sum(use.decisions * getattr(use, name) for use in uses) / sum(use.decisions for use in uses)
