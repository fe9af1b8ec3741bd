"""What an expert is made of: the layers that it is in, and what it has there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

# What an expert's entry may say under `sides` -> the stacks whose layers it has a network and gate in.
EXPERT_SIDES = {"both": ("encoder", "decoder"), "encoder": ("encoder",), "decoder": ("decoder",)}
# What an expert's entry may say under `targets` -> the parts of a layer that a compact expert changes.
EXPERT_TARGETS = {"ffn": ("ffn",), "all": ("ffn", "q_proj", "k_proj", "v_proj", "out_proj")}
# Stack -> the attentions of its layers.
ATTENTIONS = {"encoder": ("self_attn",), "decoder": ("self_attn", "encoder_attn")}


@dataclass(frozen=True)
class ExpertForm:
    """What an expert is made of: which layers it is in, and what it has there.

    Attributes:
        sides: "both", or the only one of "encoder" and "decoder" that it has layers in.
        rank: of a compact expert, which adds products of this rank to Whisper's weights: one number, or one by side.
            None: a full one, with a feed-forward network of its own.
        targets: what a compact expert changes: "ffn", the feed-forward network; "all", attention's projections too; or
            some of "ffn", "q_proj", "k_proj", "v_proj" and "out_proj" by name.
        bias: whether a compact expert changes biases too.

    Raises:
        ValueError: anything else; the message has what was expected.
    """

    sides: str = "both"
    rank: int | Mapping[str, int] | None = None
    targets: str | Iterable[str] = "ffn"
    bias: bool = False

    def __post_init__(self) -> None:
        check_sides(self.sides)
        if not isinstance(self.bias, bool):
            raise ValueError(f"Expected an expert's bias to be true or false, got {self.bias!r}.")
        if self.rank is None:
            if self.parts != EXPERT_TARGETS["ffn"] or self.bias:
                raise ValueError("Expected targets or a bias for an expert with a rank, got none. Give a rank.")
            return
        by_side = self.rank if isinstance(self.rank, Mapping) else dict.fromkeys(self.stacks, self.rank)
        if set(by_side) != set(self.stacks) or not all(type(rank) is int and rank >= 1 for rank in by_side.values()):
            raise ValueError(
                f"Expected a rank of at least 1, one number or one for each of {', '.join(self.stacks)}, "
                f"got {self.rank!r}."
            )

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> ExpertForm:
        """As an expert's entry in a configuration or file says."""
        return cls(**{f.name: entry[f.name] for f in fields(cls) if f.name in entry})

    @property
    def entry(self) -> dict[str, Any]:
        """What an entry says of it: all that is not a full expert's in both stacks."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        if "targets" in said and not isinstance(said["targets"], str):
            said["targets"] = list(self.parts)
        return said

    @property
    def stacks(self) -> tuple[str, ...]:
        return EXPERT_SIDES[self.sides]

    @property
    def parts(self) -> tuple[str, ...]:
        """The targets by name, in the order of `EXPERT_TARGETS["all"]`."""
        known = EXPERT_TARGETS["all"]
        if isinstance(self.targets, str) and self.targets in EXPERT_TARGETS:
            return EXPERT_TARGETS[self.targets]
        listed = isinstance(self.targets, Iterable) and not isinstance(self.targets, str)
        named = list(self.targets) if listed else [self.targets]
        if not named or not all(isinstance(one, str) and one in known for one in named):
            raise ValueError(
                f"Expected an expert's targets to be 'ffn', 'all' or some of {', '.join(known)}, got {self.targets!r}."
            )
        return tuple(part for part in known if part in named)

    def rank_of(self, side: str) -> int | None:
        """The rank in one stack; None for a full expert."""
        return self.rank[side] if isinstance(self.rank, Mapping) else self.rank


def check_sides(sides: str) -> str:
    """Return `sides` if it says where an expert's layers can be: a key of `EXPERT_SIDES`."""
    if not isinstance(sides, str) or sides not in EXPERT_SIDES:
        raise ValueError(f"Expected an expert's sides to be one of {', '.join(EXPERT_SIDES)}, got {sides!r}.")
    return sides


# What an entry or header says of a form.
FORM_FIELDS = tuple(f.name for f in fields(ExpertForm))
FULL = ExpertForm()
