"""Sections of the report about languages, costs, gates and translation."""

from __future__ import annotations

from collections.abc import Sequence

from ...markdown import table
from ..systems.costs import Cost
from ..systems.gates import GateUse
from .analysis import BleuRow
from .markdown import number, p_text, with_interval
from .trends import Trends

_MEGABYTE = 1e6


def render_trends(trends: Trends, *, level: str, normalizers: str) -> str:
    """Rates against training data and model size."""
    parts = ["## Bias between languages and model sizes"]
    if trends.languages:
        known = ", ".join(f"{language} {hours:g} h ({kind})" for language, kind, hours in trends.languages)
        parts.append(
            f"Hours of transcribed speech that Whisper was trained on: {known}. Rates are WER, the mean over the data "
            f"sets of a language. Normaliser: {normalizers}."
        )
    if trends.resources:
        rows = [
            (
                row.system,
                len(row.trend.languages),
                f"{number(row.trend.spearman, 2)} [{number(row.trend.spearman_low, 2)}, "
                f"{number(row.trend.spearman_high, 2)}]",
                p_text(row.trend.p_value),
                f"{number(row.trend.slope, 2)} [{number(row.trend.slope_low, 2)}, {number(row.trend.slope_high, 2)}]",
            )
            for row in trends.resources
        ]
        header = ("system", "languages", "rank correlation of WER and hours", "p", "slope (log WER on log hours)")
        parts.append(table(header, rows))
        warnings = dict.fromkeys(warning for row in trends.resources for warning in row.trend.warnings)
        parts.append(" ".join(warnings))
    if trends.resource_changes:
        rows = [
            (one.before, one.after, with_interval(one.difference.estimate, one.difference), p_text(one.p_value))
            for one in trends.resource_changes
        ]
        parts.append(f"What low-resource languages lose more than high-resource ones, in points, {level} intervals:")
        parts.append(table(("from", "to", "difference", "p"), rows))
    if trends.sizes:
        rows = [
            (
                row.precision,
                ", ".join(f"{size / 1e6:.0f} M" for size in row.trend.sizes),
                ", ".join(number(mean) for mean in row.trend.means),
                "–" if row.change is None else with_interval(row.change.estimate, row.change, 2),
                "–" if row.p_value is None else p_text(row.p_value),
            )
            for row in trends.sizes
        ]
        parts.append(
            table(("precision", "sizes", "mean WER %", "change of the slope against float32", "p"), rows)
            + "\n\nA slope that falls through quantisation means that small models lose more than large ones."
        )
    return "\n\n".join(part for part in [*parts, *trends.missing] if part)


def render_costs(costs: Sequence[Cost], *, clips: int, repeats: int) -> str:
    """Size, memory and time of every system."""
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
        f"## Size, memory and time\n\nMeasured on {clips} clips in one batch (fewer where there are not so many). "
        "Memory: resident memory of a process of its own while it transcribes; idle is before the model is opened. "
        f"Time: median of {repeats} rounds in which the systems take turns, with the smallest and largest ratio. "
        "Embeddings, convolutions and gates are not quantised.\n\n" + table(header, rows)
    )


def render_gates(gates: Sequence[GateUse], figures: str) -> str:
    """Open and flipped gates by layer and side."""
    if not gates:
        return ""
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


def render_bleu(rows: Sequence[BleuRow], *, level: str) -> str:
    """BLEU of translations into English."""
    if not rows:
        return ""
    header = ("data set", "language", "system", "clips", "BLEU", f"{level} interval", "unit", "no hypothesis")
    signatures = dict.fromkeys(row.score.signature for row in rows)
    cells = [
        (
            row.dataset,
            row.language,
            row.system,
            row.score.utterances,
            number(row.score.bleu),
            f"{number(row.score.low)} to {number(row.score.high)}",
            row.score.unit,
            row.score.untranslated,
        )
        for row in rows
    ]
    return (
        f"## Translation into English\n\nsacrebleu: {'; '.join(signatures)}. No normaliser.\n\n{table(header, cells)}"
    )
