"""What a report is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ...data.clips import Clip
from ...data.rejections import Note, Rejection
from ..recipes import Recipe
from ..scores.metrics import UtteranceScore
from ..systems.costs import Cost
from ..systems.gates import GateUse
from .analysis import Analysis, Answers
from .trends import Trends


@dataclass
class Report:
    """Everything that the report is made of."""

    recipe: Recipe
    clips: list[Clip]
    answers: Answers
    scores: list[UtteranceScore]
    analysis: Analysis
    trends: Trends
    costs: list[Cost] = field(default_factory=list)
    gates: list[GateUse] = field(default_factory=list)
    repeated: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, list[Rejection]] = field(default_factory=dict)
    notes: dict[str, list[Note]] = field(default_factory=dict)
    figures: dict[str, Path] = field(default_factory=dict)
    command: str = ""
    versions: str = ""

    @property
    def normalizers(self) -> str:
        """Every normaliser with the languages that it was used for."""
        found = self.analysis.normalizers.items()
        return "; ".join(f"“{label}” ({', '.join(languages)})" for label, languages in found)

    @property
    def level(self) -> str:
        """Of the intervals: "95 %"."""
        return f"{100 * self.recipe.level:g} %"

    def figure(self, name: str, caption: str) -> str:
        """A picture with its caption, as Markdown; empty if it was not drawn."""
        if name not in self.figures:
            return ""
        path = self.figures[name]
        return f"![{caption}]({path.parent.name}/{path.name})\n\n*{caption}*"
