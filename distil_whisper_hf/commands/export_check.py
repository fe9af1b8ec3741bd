"""What export measures on speech: how many gates are open, and the error rates of base, expert and what is exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..data.clips import Clip
from ..evaluation.evaluated_clips import read_evaluated_clips
from ..evaluation.recipes import DatasetSpec
from ..evaluation.systems.gates import open_shares, record_decisions
from ..evaluation.systems.hypotheses import GenerationSettings
from ..evaluation.systems.opening import System
from .final_scores import ScoreRow, score_system, table

if TYPE_CHECKING:
    from transformers import PreTrainedModel, WhisperProcessor

    from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration

BASE, GATED, EXPORTED = "base", "expert", "exported"
# Share of the rows that may be unusable, as in evaluate.
MOST_REJECTED = 0.5


@dataclass(frozen=True)
class Checked:
    """Error rates of the systems on the checked speech.

    Attributes:
        rows: of base, expert and, where it is another model, what is exported.
        changed: clips whose transcript differs between expert and what is exported; None where they are one.
    """

    rows: list[ScoreRow]
    changed: int | None

    @property
    def loss(self) -> float:
        """WER of what is exported less that of the expert, in points, the mean over the sets."""
        rates: dict[str, dict[str, float]] = {}
        for row in self.rows:
            rates.setdefault(row.dataset, {})[row.system] = row.wer
        differences = [found[EXPORTED] - found[GATED] for found in rates.values() if EXPORTED in found]
        return sum(differences) / len(differences) if differences else 0.0

    def text(self) -> str:
        """The table, as Markdown."""
        clips = sum(row.clips for row in self.rows if row.system == GATED)
        said = "" if self.changed is None else f" {self.changed} of {clips} transcripts differ from the expert's."
        return f"{table(self.rows)}{said}"


def read_check(
    paths: Sequence[str], *, language: str | None, expert: str, expert_language: str | None, limit: int | None
) -> list[Clip]:
    """The clips to check on, of the expert's language, which they are prompted with.

    Args:
        paths: audio folders, manifests, Common Voice locales.
        language: of all clips; None takes the tables' column.
        expert: its name.
        expert_language: Whisper's code; None for an expert that has none, which takes all clips as they are.
        limit: most clips of a set.

    Raises:
        ValueError: a path that is none of these, or no clip of the language.
    """
    found: list[Clip] = []
    other: set[str] = set()
    for path in paths:
        spec = DatasetSpec(path, language=language, limit=limit, expert=expert)
        for clip in read_evaluated_clips(spec, max_rejected=MOST_REJECTED).clips:
            if clip.seconds is None:
                continue
            if expert_language in (None, clip.language) or clip.language == expert:
                found.append(replace(clip, language=expert_language or clip.language))
            else:
                other.add(clip.language)
    if not found:
        got = f"clips in {', '.join(sorted(other))}" if other else "none"
        raise ValueError(
            f"Expected clips in {expert_language} to check expert {expert!r} on, got {got}: see --check_language."
        )
    return found


def measure_gates(
    model: DistilWhisperForConditionalGeneration, name: str, processor: WhisperProcessor, clips: Sequence[Clip]
) -> dict[str, float]:
    """Layer, as expert files call it -> share of the expert's gates that is open on speech frames and transcripts."""
    texts = {clip.full_id: clip.text for clip in clips}
    shares = open_shares(record_decisions(System(GATED, model, processor), clips, texts))
    if name not in shares:
        raise ValueError("Expected a clip of at most 30 s to see which gates open, got none: check on other speech.")
    return {key: shares[name][key.split(".")[0]][int(key.rpartition(".")[2])] for key, _ in model.expert_layers(name)}


def measure_rates(
    models: Mapping[str, PreTrainedModel],
    processor: WhisperProcessor,
    clips: Sequence[Clip],
    *,
    settings: GenerationSettings,
) -> Checked:
    """Error rates of `models` (by `BASE`, `GATED` and `EXPORTED`) on the clips, each set by itself."""
    sets: dict[str, list[Clip]] = {}
    for clip in clips:
        sets.setdefault(clip.dataset, []).append(clip)
    rows: list[ScoreRow] = []
    texts: dict[str, dict[str, list[str]]] = {}
    for label, model in models.items():
        # Whisper itself has no expert to be named.
        named = {
            name: [clip if label == GATED else replace(clip, expert=None) for clip in one] for name, one in sets.items()
        }
        found, texts[label] = score_system(System(label, model, processor), named, settings)
        rows += found
    changed = None
    if EXPORTED in texts:
        changed = sum(
            before != after
            for name in sets
            for before, after in zip(texts[GATED][name], texts[EXPORTED][name], strict=True)
        )
    return Checked(sorted(rows, key=lambda row: row.dataset), changed)
