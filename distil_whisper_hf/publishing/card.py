"""Model cards: text for people and metadata for the Hub, from the configuration and the results; no other figures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..languages import hub_language
from .measured_results import OWN_SYSTEM

# In every card made here: a card without it was written by somebody and is never replaced.
MARK = "<!-- Made by distil_whisper_hf from config.json and results.*.json. Remove this line to keep your own text. -->"
PAPER = "https://arxiv.org/abs/2311.01070"

TEMPLATE = Template(
    """---
$metadata
---
$mark

# $title

$summary Whisper itself is frozen: other languages and translation stay as the base model has them. The method is
[Multilingual DistilWhisper]($paper), which is not the English Distil-Whisper.

## Use

```python
$usage
```

## Experts

$experts

## Results

$results

## Gates

$gates

## Bias

$bias

## Training

$training

## Data and licence

$data

## Limits

$limits

## Citation

```bibtex
@inproceedings{ferraz2024distilwhisper,
  title = {Multilingual DistilWhisper: Efficient Distillation of Multi-task Speech Models via Language-Specific
    Experts},
  author = {Ferraz, Thomas Palmeira and Boito, Marcely Zanon and Brun, Caroline and Nikoulina, Vassilina},
  booktitle = {ICASSP},
  year = {2024},
  url = {$paper}
}
```
"""
)


def model_card(
    config: Mapping[str, Any],
    results: Mapping[str, Mapping[str, Any]],
    *,
    repo_id: str,
    sizes: Mapping[str, int],
    whole: bool = False,
) -> str:
    """The README.md of a repository, metadata included.

    Args:
        config: its config.json.
        results: by expert name, as `results.read_results` returns them; experts without any may be missing.
        repo_id: its name on the Hub ("user/whisper-small-ca").
        sizes: bytes of each expert, by name, where known.
        whole: whether it holds the base model too.
    """
    experts = config.get("language_experts", {})
    base = config.get("base_model_name_or_path")
    rows = [row for name in experts for row in results.get(name, {}).get("rows", [])]
    kind = "Whisper with language experts" if whole else "Language experts"
    return TEMPLATE.substitute(
        metadata=_metadata(config, results, repo_id=repo_id, whole=whole).to_yaml().rstrip(),
        mark=MARK,
        title=repo_id.split("/")[-1],
        summary=f"{kind} for {_name(base)}: {', '.join(f'`{_text(name)}`' for name in experts) or 'none'}.",
        paper=PAPER,
        usage=_usage(experts, repo_id),
        experts=_table(
            ("expert", "language", "taken", "size"),
            [
                (
                    f"`{name}`",
                    _spoken(name, entry, results.get(name, {})) or "not stated",
                    "by its language token" if entry.get("language") == name else f'by name (`expert="{name}"`)',
                    _size(entry, sizes.get(name)),
                )
                for name, entry in experts.items()
            ],
        ),
        results=_results(rows),
        gates=_gates({name: results.get(name, {}).get("gates") for name in experts}),
        bias=_bias({name: results.get(name, {}).get("bias", []) for name in experts}),
        training=_training(experts),
        data=_data({name: results.get(name, {}) for name in experts}),
        limits=_limits({name: results.get(name, {}) for name in experts}),
    )


def is_own_card(text: str) -> bool:
    """Whether a card was made here, so that making it again loses nobody's words."""
    return MARK in text


def _metadata(
    config: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]], *, repo_id: str, whole: bool
) -> ModelCardData:
    experts = config.get("language_experts", {})
    spoken = {_spoken(name, entry, results.get(name, {})) for name, entry in experts.items()} - {None}
    licenses = {found["license"] for found in results.values() if found.get("license")}
    rows = [row for name in experts for row in results.get(name, {}).get("rows", []) if row["system"] == OWN_SYSTEM]
    used = {
        entry["hub_dataset"]
        for name in experts
        for entry in results.get(name, {}).get("data", [])
        if entry["role"] == "training" and entry.get("hub_dataset")
    }
    measured = [
        EvalResult(
            task_type="automatic-speech-recognition",
            task_name="Speech recognition",
            dataset_type=row.get("hub_dataset") or row["dataset"],
            dataset_name=row["dataset"],
            dataset_config=row["language"],
            dataset_split=row["split"],
            metric_type=row["metric"].lower(),
            metric_value=row["value"],
            metric_name=f"{row['metric'].upper()} (%)",
            metric_args={"normalizer": row["normalizer"]} if row.get("normalizer") else None,
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
        metrics=sorted({row["metric"].lower() for row in rows}) or None,
        tags=["distil-whisper-hf", "language-experts", "whisper"],
        model_name=repo_id.split("/")[-1] if measured else None,
        eval_results=measured or None,
    )


def _size(entry: Mapping[str, Any], size: int | None) -> str:
    said = "not known" if size is None else f"{size / 1e6:.1f} MB"
    sides = entry.get("sides", "both")
    return said if sides == "both" else f"{said}, {_text(sides)} alone"


def _spoken(name: str, entry: Mapping[str, Any], results: Mapping[str, Any]) -> str | None:
    """The language that an expert is for: what it was measured on, since the token may be a proxy's."""
    measured = {row["language"] for row in results.get("rows", []) if row["system"] == OWN_SYSTEM}
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


def _results(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "Not measured."
    commands = list(dict.fromkeys(row["command"] for row in rows))
    metrics = list(dict.fromkeys(row["metric"].upper() for row in rows))
    # A line for what was measured in one go, a column for each metric.
    lines: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for row in rows:
        clips = f" ({row['clips']} clips)" if row.get("clips") else ""
        names = (row["system"], row["dataset"] + clips, row["split"], row["domain"], row["language"])
        about = (row.get("normalizer") or "not stated", f"[{commands.index(row['command']) + 1}]")
        lines.setdefault(names + about, {}).setdefault(row["metric"].upper(), []).append(_figure(row))
    header = ("system", "data", "split", "domain", "language", *(f"{metric} (%)" for metric in metrics))
    body = [
        (*line[:5], *(", ".join(found.get(metric, ())) for metric in metrics), *line[5:])
        for line, found in lines.items()
    ]
    return _table((*header, "normaliser", "command"), body) + "\n\n" + _commands(commands)


def _gates(gates: Mapping[str, Mapping[str, Any] | None]) -> str:
    known = {name: found for name, found in gates.items() if found}
    if not known:
        return "Not measured."
    body = [
        (f"`{name}`", side, " ".join(f"{100 * share:.0f}" for share in found.get(side, [])))
        for name, found in known.items()
        for side in ("encoder", "decoder")
    ]
    commands = list(dict.fromkeys(found["command"] for found in known.values()))
    table = _table(("expert", "side", "share of tokens that take the expert, by layer (%)"), body)
    return table + "\n\n" + _commands(commands)


def _bias(bias: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    if not any(bias.values()):
        return "Not measured: how far errors differ between groups of speakers is not known."
    entries = [(name, entry) for name, found in bias.items() for entry in found]
    commands = list(dict.fromkeys(entry["command"] for _, entry in entries))
    body = [
        (
            f"`{name}`",
            f"{entry['attribute']}: {entry['group']}",
            entry["metric"],
            _figure(entry),
            entry.get("speakers", "not stated"),
            f"[{commands.index(entry['command']) + 1}]",
        )
        for name, entry in entries
    ]
    return _table(("expert", "group", "metric", "value", "speakers", "command"), body) + "\n\n" + _commands(commands)


def _training(experts: Mapping[str, Any]) -> str:
    parts = []
    for name, entry in experts.items():
        summary = entry.get("training") or {}
        body = [(key, json.dumps(value, ensure_ascii=False)) for key, value in sorted(summary.items())]
        parts.append(f"`{name}`:" + ("\n\n" + _table(("argument", "value"), body) if body else " not stated."))
    return "\n\n".join(parts) or "None."


def _data(results: Mapping[str, Mapping[str, Any]]) -> str:
    licences = [f"- Expert `{name}`: {_text(found.get('license') or 'not stated')}" for name, found in results.items()]
    body = [
        (
            f"`{name}`",
            entry["role"],
            entry["name"] + (f" (Hub: {entry['hub_dataset']})" if entry.get("hub_dataset") else ""),
            entry["license"],
            entry["source"],
            ", ".join(f"{entry[unit]} {unit}" for unit in ("clips", "minutes") if entry.get(unit)) or "not stated",
            entry.get("notes", ""),
        )
        for name, found in results.items()
        for entry in found.get("data", [])
    ]
    header = ("expert", "used for", "data", "licence", "source", "size", "notes")
    table = _table(header, body) if body else "Which recordings were used is not stated."
    return "Licence of the weights:\n\n" + "\n".join(licences) + "\n\nRecordings:\n\n" + table


def _limits(results: Mapping[str, Mapping[str, Any]]) -> str:
    stated = [f"- `{name}`: {_text(limit)}" for name, found in results.items() for limit in found.get("limits", [])]
    fixed = (
        "- Whisper's own limits stay: invented text on silence and noise, uneven quality across languages and speakers."
    )
    return "\n".join([*stated, fixed])


def _figure(entry: Mapping[str, Any]) -> str:
    interval = entry.get("interval")
    return f"{entry['value']:g}" + (f" [{interval[0]:g}, {interval[1]:g}]" if interval else "")


def _commands(commands: Sequence[str]) -> str:
    return "\n".join(f"[{number}] `{_text(command)}`  " for number, command in enumerate(commands, start=1))


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(_text(cell) for cell in row) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def _text(value: Any) -> str:
    """One line that cannot end its cell."""
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|").replace("<", "&lt;")


def _name(base: str | None) -> str:
    return "an unnamed Whisper" if base is None else f"[{_text(base)}](https://huggingface.co/{base})"
