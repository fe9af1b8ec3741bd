"""Model cards: text for people and metadata for the Hub, from the configuration and the results; no other figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..expert_form import ExpertForm
from ..languages import hub_language
from ..markdown import one_line, table
from .measured_results import OWN_SYSTEM, BiasFigure, Gates, MeasuredResults, Row

# In every card made here: a card without it was written by somebody and is never replaced.
MARK = "<!-- Made by distil_whisper_hf from config.json and results.*.json. Remove this line to keep your own text. -->"
PAPER = "https://arxiv.org/abs/2311.01070"

# The text around what is measured, with $names for it.
TEMPLATE = Template((files(__package__) / "card.md").read_text(encoding="utf-8"))


def model_card(
    config: Mapping[str, Any],
    results: Mapping[str, MeasuredResults],
    *,
    repo_id: str,
    sizes: Mapping[str, int],
    whole: bool = False,
) -> str:
    """The README.md of a repository, metadata included.

    Args:
        config: its config.json.
        results: by expert name, as `read_results` returns them; experts without any may be missing.
        repo_id: its name on the Hub ("user/whisper-small-ca").
        sizes: bytes of each expert, by name, where known.
        whole: whether it holds the base model too.
    """
    experts = config.get("language_experts", {})
    base = config.get("base_model_name_or_path")
    known = {name: results.get(name, MeasuredResults()) for name in experts}
    kind = "Whisper with language experts" if whole else "Language experts"
    return TEMPLATE.substitute(
        metadata=_metadata(config, known, repo_id=repo_id, whole=whole).to_yaml().rstrip(),
        mark=MARK,
        title=repo_id.split("/")[-1],
        summary=f"{kind} for {_name(base)}: {', '.join(f'`{one_line(name)}`' for name in experts) or 'none'}.",
        paper=PAPER,
        usage=_usage(experts, repo_id),
        experts=table(
            ("expert", "language", "taken", "size"),
            [
                (
                    f"`{name}`",
                    _spoken(entry, known[name]) or "not stated",
                    "by its language token" if entry.get("language") == name else f'by name (`expert="{name}"`)',
                    _size(entry, sizes.get(name)),
                )
                for name, entry in experts.items()
            ],
        ),
        results=_results([row for found in known.values() for row in found.rows]),
        gates=_gates({name: found.gates for name, found in known.items() if found.gates}),
        bias=_bias([(name, figure) for name, found in known.items() for figure in found.bias]),
        training=_training(experts),
        data=_data(known),
        limits=_limits(known),
    )


def is_own_card(text: str) -> bool:
    """Whether a card was made here, so that making it again loses nobody's words."""
    return MARK in text


def _metadata(
    config: Mapping[str, Any], results: Mapping[str, MeasuredResults], *, repo_id: str, whole: bool
) -> ModelCardData:
    experts = config.get("language_experts", {})
    spoken = {_spoken(entry, results[name]) for name, entry in experts.items()} - {None}
    licenses = {found.license for found in results.values() if found.license}
    rows = [row for found in results.values() for row in found.rows if row.system == OWN_SYSTEM]
    used = {
        recording.hub_dataset
        for found in results.values()
        for recording in found.data
        if recording.role == "training" and recording.hub_dataset
    }
    measured = [
        EvalResult(
            task_type="automatic-speech-recognition",
            task_name="Speech recognition",
            dataset_type=row.hub_dataset or row.dataset,
            dataset_name=row.dataset,
            dataset_config=row.language,
            dataset_split=row.split,
            metric_type=row.metric.lower(),
            metric_value=row.value,
            metric_name=f"{row.metric.upper()} (%)",
            metric_args={"normalizer": row.normalizer} if row.normalizer else None,
        )
        for row in rows
    ]
    base = config.get("base_model_name_or_path")
    return ModelCardData(
        language=sorted(hub_language(language) for language in spoken) or None,
        # Several licences have no name of their own on the Hub.
        license=next(iter(licenses)) if len(licenses) == 1 else ("other" if licenses else None),
        license_name="several" if len(licenses) > 1 else None,
        library_name="transformers",
        base_model=base,
        base_model_relation=None if base is None else ("finetune" if whole else "adapter"),
        pipeline_tag="automatic-speech-recognition",
        datasets=sorted(used) or None,
        metrics=sorted({row.metric.lower() for row in rows}) or None,
        tags=["distil-whisper-hf", "language-experts", "whisper"],
        model_name=repo_id.split("/")[-1] if measured else None,
        eval_results=measured or None,
    )


def _size(entry: Mapping[str, Any], size: int | None) -> str:
    said = "not known" if size is None else f"{size / 1e6:.1f} MB"
    form = ExpertForm.from_entry(entry)
    if form.rank is not None:
        ranks = " and ".join(str(rank) for rank in dict.fromkeys(form.rank_of(side) for side in form.stacks))
        said += f", compact (rank {ranks})"
    return said if form.sides == "both" else f"{said}, {form.sides} alone"


def _spoken(entry: Mapping[str, Any], results: MeasuredResults) -> str | None:
    """The language that an expert is for: what it was measured on, since the token may be a proxy's."""
    measured = {row.language for row in results.rows if row.system == OWN_SYSTEM}
    return next(iter(measured)) if len(measured) == 1 else entry.get("language")


def _usage(experts: Mapping[str, Any], repo_id: str) -> str:
    name = next(iter(experts), None)
    chosen = ""
    if name is not None:
        routed = experts[name].get("language") == name
        chosen = f', language="{name}"' if routed else f', expert="{name}"'
    return (
        "from transformers import pipeline\n\n"
        f'transcribe = pipeline("automatic-speech-recognition", model="{repo_id}", trust_remote_code=True)\n'
        f'print(transcribe("clip.wav"{chosen})["text"])\n'
        "# With distil_whisper_hf installed and imported, leave trust_remote_code out: its own code is used."
    )


def _results(rows: Sequence[Row]) -> str:
    if not rows:
        return "Not measured."
    commands = list(dict.fromkeys(row.command for row in rows))
    metrics = list(dict.fromkeys(row.metric.upper() for row in rows))
    # A line for what was measured in one go, a column for each metric.
    lines: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for row in rows:
        clips = f" ({row.clips} clips)" if row.clips else ""
        names = (row.system, row.dataset + clips, row.split, row.domain, row.language)
        about = (row.normalizer or "not stated", f"[{commands.index(row.command) + 1}]")
        lines.setdefault(names + about, {}).setdefault(row.metric.upper(), []).append(_figure(row))
    header = ("system", "data", "split", "domain", "language", *(f"{metric} (%)" for metric in metrics))
    body = [
        (*line[:5], *(", ".join(found.get(metric, ())) for metric in metrics), *line[5:])
        for line, found in lines.items()
    ]
    return table((*header, "normaliser", "command"), body) + "\n\n" + _commands(commands)


def _gates(gates: Mapping[str, Gates]) -> str:
    if not gates:
        return "Not measured."
    body = [
        (f"`{name}`", side, " ".join(f"{100 * share:.0f}" for share in shares))
        for name, found in gates.items()
        for side, shares in (("encoder", found.encoder), ("decoder", found.decoder))
    ]
    commands = list(dict.fromkeys(found.command for found in gates.values()))
    header = ("expert", "side", "share of tokens that take the expert, by layer (%)")
    return table(header, body) + "\n\n" + _commands(commands)


def _bias(bias: Sequence[tuple[str, BiasFigure]]) -> str:
    if not bias:
        return "Not measured: how far errors differ between groups of speakers is not known."
    commands = list(dict.fromkeys(figure.command for _, figure in bias))
    body = [
        (
            f"`{name}`",
            f"{figure.attribute}: {figure.group}",
            figure.metric,
            _figure(figure),
            "not stated" if figure.speakers is None else figure.speakers,
            f"[{commands.index(figure.command) + 1}]",
        )
        for name, figure in bias
    ]
    return table(("expert", "group", "metric", "value", "speakers", "command"), body) + "\n\n" + _commands(commands)


def _training(experts: Mapping[str, Any]) -> str:
    parts = []
    for name, entry in experts.items():
        summary = entry.get("training") or {}
        body = [(key, json.dumps(value, ensure_ascii=False)) for key, value in sorted(summary.items())]
        parts.append(f"`{name}`:" + ("\n\n" + table(("argument", "value"), body) if body else " not stated."))
    return "\n\n".join(parts) or "None."


def _data(results: Mapping[str, MeasuredResults]) -> str:
    licences = [f"- Expert `{name}`: {one_line(found.license or 'not stated')}" for name, found in results.items()]
    body = [
        (
            f"`{name}`",
            one.role,
            one.name + (f" (Hub: {one.hub_dataset})" if one.hub_dataset else ""),
            one.license,
            one.source,
            ", ".join(f"{size} {unit}" for size, unit in ((one.clips, "clips"), (one.minutes, "minutes")) if size)
            or "not stated",
            one.notes or "",
        )
        for name, found in results.items()
        for one in found.data
    ]
    header = ("expert", "used for", "data", "licence", "source", "size", "notes")
    recordings = table(header, body) if body else "Which recordings were used is not stated."
    return "Licence of the weights:\n\n" + "\n".join(licences) + "\n\nRecordings:\n\n" + recordings


def _limits(results: Mapping[str, MeasuredResults]) -> str:
    stated = [f"- `{name}`: {one_line(limit)}" for name, found in results.items() for limit in found.limits]
    fixed = (
        "- Whisper's own limits stay: invented text on silence and noise, uneven quality across languages and speakers."
    )
    return "\n".join([*stated, fixed])


def _figure(entry: Row | BiasFigure) -> str:
    interval = entry.interval
    return f"{entry.value:g}" + (f" [{interval[0]:g}, {interval[1]:g}]" if interval else "")


def _commands(commands: Sequence[str]) -> str:
    return "\n".join(f"[{number}] `{one_line(command)}`  " for number, command in enumerate(commands, start=1))


def _name(base: str | None) -> str:
    return "an unnamed Whisper" if base is None else f"[{one_line(base)}](https://huggingface.co/{base})"
