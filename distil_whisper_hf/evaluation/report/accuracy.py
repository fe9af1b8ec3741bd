"""Sections of the report about error rates: of each system, compared, of translations; and what was wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ...markdown import table
from .document import Report
from .numbers import number, p_text, with_interval

_SHOWN_IDS = 5


def render_rates(report: Report) -> str:
    """Error rates of every system, with the figure."""
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
        f"## Error rates\n\nNormaliser: {report.normalizers}. In brackets {report.level} intervals by bootstrap "
        "over what the last column says. The figure to look at first is bold: characters for languages written without "
        "spaces, else words. `sub`, `ins`, `del`: substitutions, insertions and deletions per 100 reference words. "
        "`loops`: texts that repeat themselves; `cut`: texts ended by the limit of new tokens; `no reference`: nothing "
        "left after normalisation, in no rate; `no hypothesis`: counted as wholly deleted.\n\n"
        f"{table(header, rows)}\n\n"
        + report.figure(
            "rates",
            f"Error rates with {report.level} intervals. Normaliser: {report.normalizers}.",
        )
    )


def render_comparisons(report: Report) -> str:
    """Systems on the same clips, with the figure of what quantisation changes."""
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
        f"`change` is in points, with its {report.level} interval by paired bootstrap; `p` is of a permutation test "
        f"that exchanges the systems within each unit. Normaliser: {report.normalizers}. {verdict}.\n\n"
        f"{table(header, rows)}\n\n"
        + report.figure(
            "quantization",
            f"Change through quantisation, with {report.level} intervals. Normaliser: {report.normalizers}.",
        )
    )


def render_bleu(report: Report) -> str:
    """BLEU of translations into English."""
    rows = report.analysis.bleu
    if not rows:
        return ""
    header = ("data set", "language", "system", "clips", "BLEU", f"{report.level} interval", "unit", "no hypothesis")
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


def render_problems(report: Report) -> str:
    """What was wrong with which clip; what concerns all systems is said once."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    details: dict[str, str] = {}
    for system, answers in report.answers.items():
        for clip in report.clips:
            answer = answers[clip.full_id]
            if answer.outcome != "ok":
                entry = found.setdefault((clip.dataset, answer.outcome), {})
                entry.setdefault(clip.full_id, []).append(system)
                details[clip.full_id] = answer.detail
    rows = []
    for (dataset, outcome), clips in found.items():
        systems = sorted({system for names in clips.values() for system in names})
        whose = "all" if len(systems) == len(report.answers) else ", ".join(systems)
        rows.append((dataset, outcome, len(clips), whose, _ids(clips, details)))
    empty = dict.fromkeys(score.utterance_id for score in report.scores if score.empty_reference)
    for dataset in dict.fromkeys(name.partition(":")[0] for name in empty):
        ids = [name for name in empty if name.startswith(f"{dataset}:")]
        rows.append((dataset, "empty reference", len(ids), "all", _ids(ids, {})))
    for dataset, findings in [*report.rejected.items(), *report.notes.items()]:
        for reason in dict.fromkeys(one.reason for one in findings):
            faults = {f"{dataset}:{one.place}": one.detail for one in findings if one.reason == reason}
            rows.append((dataset, reason, len(faults), "all", _ids(list(faults), faults)))
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
