"""Sections of the report about bias: between groups of speakers, between languages, between sizes of the model."""

from __future__ import annotations

from collections.abc import Sequence

from ...markdown import table
from ..statistics.speaker_gaps import GapChange
from .analysis import CAPPED, GapChangeRow, GapRow
from .document import Report
from .numbers import number, p_text, with_interval


def render_gaps(report: Report) -> str:
    """Groups of speakers, their gaps, and whether quantisation widened them."""
    analysis = report.analysis
    if not analysis.gaps and not analysis.uncompared:
        return ""
    parts = ["## Bias between groups of speakers"]
    if analysis.gaps:
        parts.append(
            "Rates are means over speakers, so that everybody counts alike; a gap is the group minus the reference, "
            f"the group with most speakers. {report.level} intervals by bootstrap over speakers. “{CAPPED}”: no clip "
            "counts more errors than its reference has words, so that a few repetition loops, of hundreds of words, do "
            f"not decide. `loops`: clips with a repetition loop. Normaliser: {report.normalizers}."
        )
        parts.append(_group_table(analysis.gaps))
        parts.append(_gap_table(analysis.gaps))
        parts.append(
            report.figure(
                "gaps",
                f"Gaps between groups with {report.level} intervals. Normaliser: {report.normalizers}.",
            )
        )
        warnings = dict.fromkeys(
            f"- {row.dataset} ({row.report.language}), {row.report.attribute}: {warning}"
            for row in analysis.gaps
            for warning in (*row.report.warnings, *(one for gap in row.report.gaps for one in gap.warnings))
        )
        parts.append("\n".join(warnings))
    if analysis.gap_changes:
        parts.append(_gap_change_table(report, analysis.gap_changes))
    if analysis.uncompared:
        reasons = (f"- {name}: {why} ({', '.join(sets)})" for (name, why), sets in analysis.uncompared.items())
        parts.append("Not compared:\n\n" + "\n".join(reasons))
    return "\n\n".join(part for part in parts if part)


def render_trends(report: Report) -> str:
    """Rates against training data and model size."""
    trends = report.trends
    parts = ["## Bias between languages and model sizes"]
    if trends.languages:
        known = ", ".join(f"{language} {hours:g} h ({kind})" for language, kind, hours in trends.languages)
        parts.append(
            f"Hours of transcribed speech that Whisper was trained on: {known}. Rates are WER, the mean over the data "
            f"sets of a language. Normaliser: {report.normalizers}."
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
        parts.append(
            f"What low-resource languages lose more than high-resource ones, in points, {report.level} intervals:"
        )
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


def _group_table(gaps: Sequence[GapRow]) -> str:
    rows = [
        (
            row.dataset,
            row.report.language,
            row.report.system,
            row.report.attribute,
            row.errors,
            group.group,
            group.speakers,
            group.utterances,
            row.loops.get(group.group, 0),
            with_interval(group.macro.estimate, group.macro),
            with_interval(group.pooled.estimate, group.pooled),
        )
        for row in gaps
        for group in row.report.groups
    ]
    header = (
        "data set", "language", "system", "by", "errors", "group", "speakers", "clips", "loops", "mean over speakers %",
        "pooled %",
    )  # fmt: skip
    return table(header, rows)


def _gap_table(gaps: Sequence[GapRow]) -> str:
    rows = [
        (
            row.dataset,
            row.report.system,
            row.errors,
            f"{gap.group} − {gap.reference}",
            row.report.metric.upper(),
            with_interval(gap.absolute.estimate, gap.absolute),
            with_interval(gap.relative.estimate, gap.relative, 0),
            with_interval(gap.ratio.estimate, gap.ratio, 2),
            p_text(gap.p_value),
            p_text(gap.p_corrected),
        )
        for row in gaps
        for gap in row.report.gaps
    ]
    return table(
        ("data set", "system", "errors", "gap", "rate", "points", "relative %", "ratio", "p", "p (Holm)"), rows
    )


def _gap_change_table(report: Report, changes: Sequence[GapChangeRow]) -> str:
    rows, verdicts = [], []
    for row in changes:
        change = row.change
        verdict = _verdict(change)
        verdicts.append(verdict)
        rows.append(
            (
                row.dataset,
                row.after,
                row.errors,
                f"{change.group} − {change.reference}",
                number(change.before),
                number(change.after),
                with_interval(change.absolute.estimate, change.absolute),
                with_interval(change.ratio.estimate, change.ratio, 2),
                p_text(change.p_value),
                verdict,
            )
        )
    grew = sum(verdict.startswith("grew") for verdict in verdicts)
    header = (
        "data set", "system", "errors", "gap", "before", "after", "change in points", "ratio after/before",
        "p", "verdict",
    )  # fmt: skip
    return (
        "### Did quantisation widen the gaps?\n\n"
        f"{'No gap grew clearly' if grew == 0 else f'{grew} of {len(rows)} gaps grew'}: a gap has grown where the "
        f"{report.level} interval of its change, by bootstrap over speakers with both systems' errors together, "
        "leaves out 0 on the side of the group that was worse off before. “No clear change” also covers changes too "
        f"small for this many speakers. Normaliser: {report.normalizers}.\n\n{table(header, rows)}"
    )


def _verdict(change: GapChange) -> str:
    """Whether a gap grew, and against whom; a gap below 0 is one against the reference group."""
    if not (change.absolute.low > 0 or change.absolute.high < 0):
        return "no clear change"
    upwards = change.absolute.low > 0
    against = change.group if upwards else change.reference
    return f"grew, against {against}" if (change.before > 0) == upwards else f"moved against {against}"
