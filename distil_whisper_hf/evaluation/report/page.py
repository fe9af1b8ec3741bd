"""`report.md`: tables and figures that can be read without the code, and the command that made them."""

from __future__ import annotations

from collections.abc import Sequence

from ...markdown import table
from .accuracy import render_bleu, render_comparisons, render_problems, render_rates
from .bias import render_gaps, render_trends
from .cost import render_costs, render_gates
from .document import Report
from .numbers import number


def render(report: Report) -> str:
    """The whole report as Markdown."""
    parts = [
        "# Evaluation of speech recognition",
        _what(report),
        render_rates(report),
        render_comparisons(report),
        render_gaps(report),
        render_trends(report),
        render_costs(report),
        render_gates(report),
        render_bleu(report),
        render_problems(report),
        _method(report),
        f"## Command\n\n```bash\n{report.command}\n```\n\n{report.versions}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(report: Report) -> str:
    rows = []
    for spec in report.recipe.datasets:
        members = [one for one in report.clips if one.dataset == spec.name]
        speakers = {one.speaker for one in members}
        domain = {"in": "in domain", "out": "out of domain", "": "–"}[spec.domain]
        languages = ", ".join(sorted({one.language for one in members}))
        minutes = sum(one.seconds or 0.0 for one in members) / 60
        task = "into English" if spec.task == "translate" else "transcribed"
        chosen = f"{len(members)} of {report.sizes.get(spec.name, len(members))}"
        known = "unknown" if "" in speakers else str(len(speakers))
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
