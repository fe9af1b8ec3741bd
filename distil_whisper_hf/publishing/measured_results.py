"""Results of an expert: the measured figures that its card states, as JSON, one file per expert.

    license     licence of the expert's weights, by the Hub's name ("cc-by-sa-4.0")
    data        list of {name, role: training or evaluation, license, source;
                language, clips, minutes, hub_dataset, notes}
    rows        list of {system, dataset, split, domain: in or out, language, metric, value (%), command;
                interval, normalizer, clips, hub_dataset, task_id}
                The system "expert" is this one, "base" the plain Whisper; baselines have any other name.
    gates       {command, encoder, decoder: share of open gates per layer, in [0, 1]}
    bias        list of {attribute, group, metric, value, command; interval, clips, speakers}
    limits      list of sentences

Before a semicolon: required. A command is what printed the figure. What is not there, a card calls not known.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.utils import yaml_dump

OWN_SYSTEM = "expert"
# Required fields of each list's entries, then optional ones.
FIELDS = {
    "data": (("name", "role", "license", "source"), ("language", "clips", "minutes", "hub_dataset", "notes")),
    "rows": (
        ("system", "dataset", "split", "domain", "language", "metric", "value", "command"),
        ("interval", "normalizer", "clips", "hub_dataset", "task_id"),
    ),
    "bias": (("attribute", "group", "metric", "value", "command"), ("interval", "clips", "speakers")),
}
CHOICES = {"role": ("training", "evaluation"), "domain": ("in", "out")}


def read_results(source: str | os.PathLike | Mapping[str, Any]) -> dict[str, Any]:
    """Read and check results, from a JSON file or as they would stand in one (fields: see this module's docstring).

    Raises:
        ValueError: a field that is unknown or missing, a figure without a command, a number that is not finite or
            outside its interval.
    """
    found = dict(source) if isinstance(source, Mapping) else json.loads(Path(source).read_text(encoding="utf-8"))
    where = "the results" if isinstance(source, Mapping) else os.fspath(source)
    known = {"license", "gates", "limits", *FIELDS}
    if not isinstance(found, dict) or found.keys() - known:
        unknown = sorted(found.keys() - known) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"{where}: expected the fields {sorted(known)}, got {unknown}. Leave others out.")
    for part, (required, optional) in FIELDS.items():
        for index, entry in enumerate(found.get(part, [])):
            place = f"{where}: {part}[{index}]"
            missing = [key for key in required if entry.get(key) in (None, "")]
            stray = sorted(entry.keys() - {*required, *optional})
            if missing or stray:
                raise ValueError(f"{place}: expected {list(required)}, missing {missing}, unknown {stray}.")
            for key, choices in CHOICES.items():
                if key in entry and entry[key] not in choices:
                    raise ValueError(f"{place}: expected {key} as one of {choices}, got {entry[key]!r}.")
            if "value" in required:
                _check_figure(entry, place)
    gates = found.get("gates")
    if gates is not None:
        shares = [share for side in ("encoder", "decoder") for share in gates.get(side, [math.nan])]
        if not gates.get("command") or not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"{where}: expected gates with a command and shares in [0, 1] per layer, got {gates}.")
    return found


def _check_figure(entry: Mapping[str, Any], place: str) -> None:
    value, interval = entry["value"], entry.get("interval")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{place}: expected a finite number as value, got {value!r}.")
    if interval is not None and (len(interval) != 2 or not interval[0] <= value <= interval[1]):
        raise ValueError(f"{place}: expected an interval [low, high] around {value}, got {interval}.")


def eval_result_file(results: Mapping[str, Any], name: str) -> str | None:
    """Text of `.eval_results/<name>.yaml`; None without rows on Hub benchmarks (`hub_dataset`, `task_id`)."""
    entries = [
        EvalResultEntry(
            dataset_id=row["hub_dataset"],
            task_id=row["task_id"],
            value=row["value"],
            notes=", ".join(
                [f"{row['metric']} in %", f"expert {name}", f"split {row['split']}"]
                + ([f"normaliser {row['normalizer']}"] if row.get("normalizer") else [])
            ),
        )
        for row in results.get("rows", [])
        if row["system"] == OWN_SYSTEM and row.get("hub_dataset") and row.get("task_id")
    ]
    return yaml_dump(eval_result_entries_to_yaml(entries)) if entries else None
