"""Which row of a batch takes which expert: read from decoder prompts, or chosen by name and carried in them.

The prompt is the one thing that stays with its row. Whisper's `generate` cuts long audio into windows, drops rows that
are finished, retries rows at higher temperature and multiplies rows for beams, so a list of experts given once would
soon belong to other rows. A row's expert is therefore read from its prompt (`route_by_prompt`); where a caller chooses
experts by name, the choice is written into the prompt's start token, and read and removed again just before the
encoder runs (`mark_experts`, `read_marks`). What the layers get is an `ExpertRouting`, worked out once a pass.

What an index means is said by `LoadedExperts`: the experts of one moment, which a call keeps until it ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from .compact_experts import CompactExpert, FeedForwardFactors, LayerFactors, LinearFactors, MergedFeedForward, lay_out

# What stands for plain Whisper where an expert is named.
SHARED = "shared"


@dataclass(frozen=True, eq=False)
class LoadedExperts:
    """The experts of a model at one moment: replaced as a whole when one comes, goes or changes, never changed itself.

    A pass or a `generate` works with the one that it began with. Its ids mean the same experts, of the same tensors, in
    every layer and until it ends, whatever other threads do to the model meanwhile.

    Attributes:
        entries: name -> the expert's entry in the configuration; an id is a position here.
        networks: layer, as expert files call it ("encoder.layers.0") -> name -> the expert's network and gate there.
        routings: of one call, "encoder" and "decoder" -> the ids that were routed last and what came of it; None where
            every pass works it out anew.
    """

    entries: Mapping[str, Mapping[str, Any]]
    networks: Mapping[str, Mapping[str, Any]]
    routings: dict[str, tuple[torch.Tensor, ExpertRouting | None]] | None = None

    def for_one_call(self) -> LoadedExperts:
        """The same experts for passes that belong together: what rows take is worked out before the first of them."""
        return replace(self, routings={})

    def routing(
        self,
        expert_ids: torch.Tensor,
        layers: Sequence[Any],
        *,
        dtype: torch.dtype,
        mode: str,
        gate_noise: float = 0.0,
    ) -> ExpertRouting | None:
        """What the rows of a batch take in a stack of layers, as `ExpertRouting.build`.

        Args:
            expert_ids: `(batch,)`, int64.
            layers: the `LanguageExperts` of each.
            dtype: in which the layers compute.
            mode: `DistilWhisperConfig.expert_routing`.
            gate_noise: α.
        """
        side = layers[0].layer_name.partition(".")[0]
        if self.routings is not None and side in self.routings:
            known, routing = self.routings[side]
            if known is expert_ids:
                return routing
        routing = ExpertRouting.build(
            expert_ids,
            self.names,
            [layer.networks if layer.is_replica else self.networks[layer.layer_name] for layer in layers],
            dtype=dtype,
            on_host=not (mode == "dense" or torch.compiler.is_compiling()),
            dense={"dense": True, "gather": False, "auto": None}[mode],
            gate_noise=gate_noise,
        )
        if self.routings is not None:
            self.routings[side] = (expert_ids, routing)
        return routing

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.entries)

    @property
    def language_tokens(self) -> dict[int, int]:
        """Id of a language token -> id of the expert that its rows take: of those that are called by their language."""
        return {
            entry["language_token_id"]: index
            for index, (name, entry) in enumerate(self.entries.items())
            if entry.get("language_token_id") is not None and entry.get("language") == name
        }

    def index(self, name: str) -> int:
        """Id of an expert; -1 for "shared", the shared path.

        Raises:
            KeyError: an expert that is not loaded.
        """
        if name == SHARED:
            return -1
        if name not in self.entries:
            raise KeyError(
                f"Expected a loaded expert, got {name!r}. Loaded: {', '.join(self.names) or 'none'}. "
                f"Call model.load_expert({name!r}, ...) first."
            )
        return self.names.index(name)


def route_by_prompt(
    decoder_input_ids: torch.Tensor,
    language_tokens: dict[int, int],
    *,
    start_token_id: int,
    translate_token_id: int | None,
) -> torch.Tensor:
    """The expert of each row, read from its decoder prompt.

    The language token is the one right behind `<|startoftranscript|>`, wherever a prompt of earlier text puts that. A
    row whose next token is `<|translate|>`, without a language token, or of a language without an expert gets -1.

    Args:
        decoder_input_ids: `(batch, tokens)`, int64.
        language_tokens: id of a language token -> index of the expert it routes to.
        start_token_id: id of `<|startoftranscript|>`.
        translate_token_id: id of `<|translate|>`; None for a vocabulary without it.

    Returns:
        `(batch,)`, int64, on the same device; no value is read on the host.
    """
    batch, length = decoder_input_ids.shape
    expert_ids = decoder_input_ids.new_full((batch,), -1)
    if length < 2 or not language_tokens:
        return expert_ids
    after_start = decoder_input_ids[:, :-1] == start_token_id
    if translate_token_id is not None and length > 2:
        after_start[:, :-1] &= decoder_input_ids[:, 2:] != translate_token_id
    for token_id, index in language_tokens.items():
        spoken = (after_start & (decoder_input_ids[:, 1:] == token_id)).any(dim=1)
        expert_ids = torch.where(spoken, index, expert_ids)
    return expert_ids


def mark_experts(decoder_input_ids: torch.Tensor, choices: list[int | None], vocab_size: int) -> torch.Tensor:
    """Write each row's chosen expert into its first token.

    Args:
        decoder_input_ids: `(batch, tokens)`, int64, beginning with `<|startoftranscript|>`.
        choices: per row: index of an expert, -1 for the shared path, None to let the language token decide.
        vocab_size: marks are multiples of it, so that a marked token is none of the vocabulary.
    """
    marks = torch.tensor([0 if choice is None else (choice + 2) * vocab_size for choice in choices])
    marked = decoder_input_ids.clone()
    marked[:, 0] += marks.to(marked)
    return marked


def read_marks(decoder_input_ids: torch.Tensor, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Undo `mark_experts`: the plain prompt, and per row index + 2 of the chosen expert (1: shared, 0: not chosen)."""
    return decoder_input_ids % vocab_size, (decoder_input_ids // vocab_size).amax(dim=1)


@dataclass(frozen=True)
class ExpertRouting:
    """Which rows of a batch take which expert, worked out once per encoder or decoder pass, handed to every layer.

    Attributes:
        expert_ids: `(batch,)`, int64: index into the model's expert names, -1 for the shared path.
        layers: the experts of each layer, by name.
        full: index -> name of the full experts among them.
        groups: name and row indices `(rows,)` of each full expert that has a row, with None for the indices where it
            has the whole batch. None as a whole: decide by masks, without looking at values on the host.
        dense: how full experts are computed in evaluation (`DistilWhisperConfig.expert_routing`): True by masks, on all
            tokens, False on the tokens that take them, None by device and size.
        others: whether some row may take no full expert.
        factors: by layer, what the batch's compact experts add there; empty where no row takes one.
        gate_noise: α, standard deviation of the noise on the gate's logit in training.
    """

    expert_ids: torch.Tensor
    layers: Sequence[Mapping[str, nn.Module]]
    full: Mapping[int, str]
    groups: tuple[tuple[str, torch.Tensor | None], ...] | None
    dense: bool | None = True
    others: bool = True
    factors: tuple[LayerFactors, ...] = ()
    gate_noise: float = 0.0

    @classmethod
    def build(
        cls,
        expert_ids: torch.Tensor,
        names: Sequence[str],
        layers: Sequence[Mapping[str, nn.Module]],
        *,
        dtype: torch.dtype,
        on_host: bool,
        dense: bool | None,
        gate_noise: float = 0.0,
    ) -> ExpertRouting | None:
        """Route a batch through a stack of layers. Returns None where all rows are known to take the shared path.

        Args:
            expert_ids: `(batch,)`, int64: index into `names`, -1 for the shared path.
            names: the model's experts.
            layers: the experts of each layer, by name; rows of those that are not there take the shared path.
            dtype: in which the layers compute.
            on_host: whether values of `expert_ids` may be read on the host.
            dense: as the attribute.
            gate_noise: α.
        """
        here = {index: name for index, name in enumerate(names) if name in layers[0]}
        compact = [index for index, name in here.items() if isinstance(layers[0][name], CompactExpert)]
        full = {index: name for index, name in here.items() if index not in compact}
        if not on_host:
            # Each row's own factors out of those of all experts; the last, -1, is Whisper itself.
            table = [*range(len(names)), -1]
            factors = _lay_out(layers, names, compact, table, expert_ids, dtype) if compact else ()
            return cls(expert_ids, layers, full, None if full else (), factors=factors, gate_noise=gate_noise)
        ids = expert_ids.tolist()
        taken = sorted(set(ids))
        if not here.keys() & set(taken):
            return None
        groups = []
        for index in sorted(full.keys() & set(taken)):
            rows = None if len(taken) == 1 else torch.tensor([i for i, one in enumerate(ids) if one == index])
            groups.append((full[index], None if rows is None else rows.to(expert_ids.device)))
        factors = ()
        if not set(compact).isdisjoint(taken):
            order = None if len(taken) == 1 else torch.tensor([taken.index(one) for one in ids])
            factors = _lay_out(layers, names, compact, taken, order, dtype)
        others = not full.keys() >= set(taken)
        return cls(expert_ids, layers, full, tuple(groups), dense, others, factors, gate_noise)

    def feed_forward(self, layer: int) -> FeedForwardFactors | MergedFeedForward | None:
        """What compact experts add to a layer's feed-forward network; None for nothing."""
        return self.factors[layer].feed_forward if self.factors else None

    def attention(self, layer: int, name: str) -> Mapping[str, LinearFactors]:
        """What they add to the projections of its "self_attn" or "encoder_attn"."""
        return self.factors[layer].attention.get(name, {}) if self.factors else {}


def _lay_out(
    layers: Sequence[Mapping[str, nn.Module]],
    names: Sequence[str],
    compact: Sequence[int],
    indices: Sequence[int],
    rows: torch.Tensor | None,
    dtype: torch.dtype,
) -> tuple[LayerFactors, ...]:
    taken = [names[index] if index in compact else None for index in indices]
    experts = [[None if name is None else cast(CompactExpert, layer[name]) for name in taken] for layer in layers]
    return tuple(lay_out(row, rows, dtype) for row in experts)
