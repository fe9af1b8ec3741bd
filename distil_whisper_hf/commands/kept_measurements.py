"""What an evaluation measures once and keeps in its folder, with what was asked for: costs, and use of gates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from ..data.atomic_files import write_json
from ..data.clips import Clip
from ..data.sampling import choose_clips
from ..evaluation.recipes import Recipe
from ..evaluation.systems.costs import Cost, measure_costs
from ..evaluation.systems.gates import GateUse, gate_use, record_decisions
from ..evaluation.systems.hypotheses import Hypothesis, clip_key
from ..evaluation.systems.opening import open_system, system_digest

_Measured = TypeVar("_Measured", Cost, GateUse)


def costs_of(
    recipe: Recipe, clips: Sequence[Clip], answers: dict[str, dict[str, Hypothesis]], path: Path
) -> list[Cost]:
    """Costs of all systems from one run: measured if the file does not have just these systems and clips."""
    first = answers[recipe.systems[0].name]
    usable = [one for one in clips if first[one.full_id].outcome == "ok" and (one.seconds or 0.0) <= 30.0]
    # From all over the sets, and only of as many as are decoded at once.
    step = max(1, len(usable) // recipe.cost_clips)
    batch = [one for one in usable[::step][: recipe.cost_clips] if one.task == usable[0].task]
    if not batch:
        return []
    asked = {
        "systems": [[spec.name, system_digest(spec)] for spec in recipe.systems],
        "clips": [list(clip_key(one)) for one in batch],
        "generation": asdict(recipe.generation),
        "repeats": recipe.cost_repeats,
    }
    kept = _kept(path, asked, "costs", Cost)
    if kept is not None:
        return kept
    costs = measure_costs(recipe.systems, batch, settings=recipe.generation, repeats=recipe.cost_repeats)
    write_json(path, {"asked": asked, "costs": [asdict(cost) for cost in costs]})
    return costs


def gates_of(
    recipe: Recipe, clips: Sequence[Clip], answers: dict[str, dict[str, Hypothesis]], path: Path
) -> list[GateUse]:
    """Gate use of systems with experts, and flips against their float32 model; kept like the costs."""
    specs = [spec for spec in recipe.systems if spec.has_experts]
    if not specs:
        return []
    by_language: dict[str, list[Clip]] = {}
    for clip in clips:
        if clip.task == "transcribe":
            by_language.setdefault(clip.expert_name, []).append(clip)
    clips = [one for group in by_language.values() for one in choose_clips(group, recipe.gate_clips)]
    # Gates are recorded on what the float32 model wrote.
    plain = {spec.name: spec.unquantized().name for spec in specs}
    said = {name: answers[plain[name] if plain[name] in answers else name] for name in plain}
    texts = {
        name: {one.full_id: text for one in clips if (text := some[one.full_id].text) is not None}
        for name, some in said.items()
    }
    asked = {
        "systems": [[spec.name, system_digest(spec)] for spec in specs],
        "clips": [list(clip_key(one)) for one in clips],
        "texts": hashlib.blake2b(json.dumps(texts).encode(), digest_size=16).hexdigest(),
    }
    kept = _kept(path, asked, "gates", GateUse)
    if kept is not None:
        return kept
    rows: list[GateUse] = []
    references: dict[str, Any] = {}
    # Unquantised systems first: the others are compared with them, on their texts.
    for spec in sorted(specs, key=lambda spec: spec.precision != "float32"):
        decisions = record_decisions(open_system(spec), clips, texts[spec.name])
        if spec.name == plain[spec.name]:
            references[spec.name] = decisions
            rows += gate_use(spec.name, decisions)
        else:
            rows += gate_use(spec.name, decisions, references.get(plain[spec.name]))
    stored = [{**asdict(row), "flipped": row.flipped} for row in rows]
    write_json(path, {"asked": asked, "gates": stored})
    return rows


def _kept(path: Path, asked: dict[str, Any], name: str, kind: type[_Measured]) -> list[_Measured] | None:
    """What a file keeps of an earlier evaluation that asked the same; None if it has nothing of the kind."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return [kind(**row) for row in stored[name]] if stored["asked"] == asked else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
