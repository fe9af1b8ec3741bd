"""`report.md`: tables and figures that can be read without the code, and the command that made them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...markdown import table
from ..recipes import Recipe
from ..scores.metrics import UtteranceScore
from ..statistics.speaker_gaps import GapChange
from ..systems.costs import Cost
from ..systems.gates import GateUse
from ..utterances import Utterance
from .analysis import CAPPED, Analysis, Answers, GapChangeRow, GapRow
from .markdown import number, p_text, with_interval
from .sections import render_bleu, render_costs, render_gates, render_trends
from .trends import Trends

_SHOWN_IDS = 5


@dataclass
class Report:
    """Everything that the report is made of."""

    recipe: Recipe
    utterances: list[Utterance]
    answers: Answers
    scores: list[UtteranceScore]
    analysis: Analysis
    trends: Trends
    costs: list[Cost] = field(default_factory=list)
    gates: list[GateUse] = field(default_factory=list)
    repeated: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    figures: dict[str, Path] = field(default_factory=dict)
    command: str = ""
    versions: str = ""


def render(report: Report) -> str:
    """The whole report as Markdown."""
    parts = [
        "# Evaluation of speech recognition",
        _what(report),
        _rates(report),
        _comparisons(report),
        _gaps(report),
        _trends(report),
        _costs(report),
        _gates(report),
        _bleu(report),
        _problems(report),
        _method(report),
        f"## Command\n\n```bash\n{report.command}\n```\n\n{report.versions}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _normalizers(report: Report) -> str:
    return "; ".join(f"“{label}” ({', '.join(languages)})" for label, languages in report.analysis.normalizers.items())


def _level(report: Report) -> str:
    return f"{100 * report.recipe.level:g} %"


def _figure(report: Report, name: str, caption: str) -> str:
    if name not in report.figures:
        return ""
    return f"![{caption}]({report.figures[name].parent.name}/{report.figures[name].name})\n\n*{caption}*"


def _what(report: Report) -> str:
    rows = []
    for spec in report.recipe.datasets:
        members = [one for one in report.utterances if one.dataset == spec.name]
        speakers = {one.speaker for one in members}
        domain = {"in": "in domain", "out": "out of domain", "": "–"}[spec.domain]
        languages = ", ".join(sorted({one.language for one in members}))
        minutes = sum(one.seconds or 0.0 for one in members) / 60
        task = "into English" if spec.task == "translate" else "transcribed"
        chosen = f"{len(members)} of {report.sizes.get(spec.name, len(members))}"
        known = "unknown" if None in speakers else str(len(speakers))
        rows.append((spec.name, languages, domain, task, chosen, number(minutes), known))
    systems = table(
        ("system", "model", "precision"),
        [
            (spec.name, spec.model_label + _origin(spec.experts, spec.adapter), spec.precision)
            for spec in report.recipe.systems
        ],
    )
    header = ("data set", "language", "domain", "task", "clips", "minutes", "speakers")
    return f"## What was evaluated\n\n{systems}\n\n{table(header, rows)}"


def _origin(experts: Sequence[tuple[str, str]], adapter: str | None) -> str:
    parts = [f"expert {name}" for name, _ in experts] + (["LoRA adapter, merged"] if adapter is not None else [])
    return f" ({', '.join(parts)})" if parts else ""


def _rates(report: Report) -> str:
    rows = []
    for row in report.analysis.rates:
        score, words = row.score, row.score.words
        length = words.reference_length or math.nan
        wer = with_interval(score.wer, row.wer)
        cer = with_interval(score.cer, row.cer)
        first, second = (f"**{wer}**", cer) if row.metric == "wer" else (wer, f"**{cer}**")
        parts = (number(100 * count / length) for count in (words.substitutions, words.insertions, words.deletions))
        counts = (len(score.loops), row.cut, len(score.empty_references), len(score.untranscribed))
        interval = row.wer
        unit = "–" if interval is None else f"{interval.clusters} {interval.unit}s"
        rows.append((row.dataset, row.language, row.system, score.scored, first, second, *parts, *counts, unit))
    if not rows:
        return ""
    header = (
        "data set", "language", "system", "scored", "WER %", "CER %", "sub", "ins", "del", "loops", "cut",
        "no reference", "no hypothesis", "resampled",
    )  # fmt: skip
    return (
        f"## Error rates\n\nNormaliser: {_normalizers(report)}. In brackets {_level(report)} intervals by bootstrap "
        "over what the last column says. The figure to look at first is bold: characters for languages written without "
        "spaces, else words. `sub`, `ins`, `del`: substitutions, insertions and deletions per 100 reference words. "
        "`loops`: texts that repeat themselves; `cut`: texts ended by the limit of new tokens; `no reference`: nothing "
        "left after normalisation, in no rate; `no hypothesis`: counted as wholly deleted.\n\n"
        f"{table(header, rows)}\n\n"
        + _figure(
            report,
            "rates",
            f"Error rates with {_level(report)} intervals. Normaliser: {_normalizers(report)}.",
        )
    )


def _comparisons(report: Report) -> str:
    found = report.analysis.comparisons
    if not found:
        return ""
    rows = [
        (
            one.dataset,
            one.language,
            one.before,
            one.after,
            one.metric.upper(),
            number(one.first),
            number(one.second),
            with_interval(one.difference.estimate, one.difference),
            p_text(one.p_value),
            p_text(one.p_corrected),
            one.difference.unit,
        )
        for one in found
    ]
    clear = [one for one in found if one.p_corrected < 1 - report.recipe.level]
    verdict = (
        f"{len(clear)} of {len(found)} differences stand after Holm's correction: "
        + "; ".join(f"{one.after} on {one.dataset} ({number(one.difference.estimate)} points)" for one in clear)
        if clear
        else f"None of the {len(found)} differences stands after Holm's correction"
    )
    header = ("data set", "language", "from", "to", "rate", "from %", "to %", "change", "p", "p (Holm)", "unit")
    return (
        "## Systems compared on the same clips\n\n"
        f"`change` is in points, with its {_level(report)} interval by paired bootstrap; `p` is of a permutation test "
        f"that exchanges the systems within each unit. Normaliser: {_normalizers(report)}. {verdict}.\n\n"
        f"{table(header, rows)}\n\n"
        + _figure(
            report,
            "quantization",
            f"Change through quantisation, with {_level(report)} intervals. Normaliser: {_normalizers(report)}.",
        )
    )


def _gaps(report: Report) -> str:
    analysis = report.analysis
    if not analysis.gaps and not analysis.uncompared:
        return ""
    parts = ["## Bias between groups of speakers"]
    if analysis.gaps:
        parts.append(
            "Rates are means over speakers, so that everybody counts alike; a gap is the group minus the reference, "
            f"the group with most speakers. {_level(report)} intervals by bootstrap over speakers. “{CAPPED}”: no clip "
            "counts more errors than its reference has words, so that a few repetition loops, of hundreds of words, do "
            f"not decide. `loops`: clips with a repetition loop. Normaliser: {_normalizers(report)}."
        )
        parts.append(_group_table(analysis.gaps))
        parts.append(_gap_table(analysis.gaps))
        parts.append(
            _figure(
                report,
                "gaps",
                f"Gaps between groups with {_level(report)} intervals. Normaliser: {_normalizers(report)}.",
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
        f"{_level(report)} interval of its change, by bootstrap over speakers with both systems' errors together, "
        "leaves out 0 on the side of the group that was worse off before. “No clear change” also covers changes too "
        f"small for this many speakers. Normaliser: {_normalizers(report)}.\n\n{table(header, rows)}"
    )


def _verdict(change: GapChange) -> str:
    """Whether a gap grew, and against whom; a gap below 0 is one against the reference group."""
    if not (change.absolute.low > 0 or change.absolute.high < 0):
        return "no clear change"
    upwards = change.absolute.low > 0
    against = change.group if upwards else change.reference
    return f"grew, against {against}" if (change.before > 0) == upwards else f"moved against {against}"


def _trends(report: Report) -> str:
    return render_trends(report.trends, level=_level(report), normalizers=_normalizers(report))


def _costs(report: Report) -> str:
    return render_costs(report.costs, clips=report.recipe.cost_clips, repeats=report.recipe.cost_repeats)


def _gates(report: Report) -> str:
    pictures = [
        _figure(report, "gates", "Share of open gates by layer."),
        _figure(report, "flips", "Share of decisions that differ from the unquantised model's, by layer."),
    ]
    return render_gates(report.gates, "\n\n".join(picture for picture in pictures if picture))


def _bleu(report: Report) -> str:
    return render_bleu(report.analysis.bleu, level=_level(report))


def _problems(report: Report) -> str:
    """What was wrong with which clip; what concerns all systems is said once."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    details: dict[str, str] = {}
    for system, answers in report.answers.items():
        for utterance in report.utterances:
            answer = answers[utterance.full_id]
            if answer.outcome != "ok":
                entry = found.setdefault((utterance.dataset, answer.outcome), {})
                entry.setdefault(utterance.full_id, []).append(system)
                details[utterance.full_id] = answer.detail
    rows = []
    for (dataset, outcome), clips in found.items():
        systems = sorted({system for names in clips.values() for system in names})
        whose = "all" if len(systems) == len(report.answers) else ", ".join(systems)
        rows.append((dataset, outcome, len(clips), whose, _ids(clips, details)))
    empty = dict.fromkeys(score.utterance_id for score in report.scores if score.empty_reference)
    for dataset in dict.fromkeys(name.partition(":")[0] for name in empty):
        ids = [name for name in empty if name.startswith(f"{dataset}:")]
        rows.append((dataset, "empty reference", len(ids), "all", _ids(ids, {})))
    for name, times in report.repeated.items():
        dataset, _, rest = name.partition(":")
        rows.append((dataset, "duplicate id", times, "all", f"{rest}: kept as {rest}, {rest}#2 …"))
    intro = (
        "## What was wrong with the data\n\nOutcomes `silence` and `noise` are transcribed and scored all the same; "
        "all other outcomes have no hypothesis and count as wholly deleted; an empty reference is in no rate. "
    )
    if not rows:
        return intro + "Nothing was found."
    return intro + "Nothing else is left out.\n\n" + table(("data set", "outcome", "clips", "systems", "which"), rows)


def _ids(names: Iterable[str], details: dict[str, str]) -> str:
    names = list(names)
    shown = [
        f"{name.partition(':')[2]} ({details[name]})" if details.get(name) else name.partition(":")[2]
        for name in names[:_SHOWN_IDS]
    ]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN_IDS} more" if len(names) > _SHOWN_IDS else "")


def _method(report: Report) -> str:
    recipe, settings = report.recipe, report.recipe.generation
    warned: dict[str, dict[str, None]] = {}
    for row in report.analysis.rates:
        for warning in row.wer.warnings if row.wer is not None else ():
            warned.setdefault(warning, {})[f"{row.dataset} ({row.language})"] = None
    warnings = [f"- {warning} ({', '.join(sets)})" for warning, sets in warned.items()]
    decoding = "greedy" if settings.num_beams == 1 else f"{settings.num_beams} beams"
    limit = "the model's own" if settings.max_new_tokens is None else f"{settings.max_new_tokens} tokens"
    return (
        f"## Method\n\nDecoding: {decoding}, limit of new text {limit}, {settings.batch_size} clips a batch; clips "
        f"over 30 s {'window by window' if settings.long_form else 'not decoded'}. Intervals: bootstrap "
        f"({recipe.resamples} resamples, studentised) over speakers where five or more are known, else over "
        "utterances, as each table says. "
        f"Random numbers from seed {recipe.seed}: the same hypotheses give the same report. Where clips were limited, "
        "they were chosen by a hash of their ids, from as many speakers as possible.\n\n" + "\n".join(warnings)
    ).rstrip()
