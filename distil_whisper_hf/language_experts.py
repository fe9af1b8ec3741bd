"""Language experts: a second feed-forward network per language, behind a gate that decides for every token.

Multilingual DistilWhisper (arXiv 2311.01070), section 2. For `z`, the output of a layer's `final_layer_norm`:

    CLSR(z) = g(z) · FFN_expert(z) + (1 − g(z)) · FFN_shared(z)

with the gate g of `gates`: in evaluation 0 or 1, so every token takes exactly one of the two paths. An expert is full,
a network of its own, or compact, its difference to Whisper as products of thin matrices (`compact_experts`). A layer
may have both kinds, and a batch may take both.

Nothing here knows Whisper: shapes are `(batch, frames, d_model)` for the encoder, `(batch, tokens, d_model)` for the
decoder, and which row takes which expert is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import nn

from .compact_experts import Activation, CompactExpert, MergedFeedForward
from .gates import GatedExpert, soft_gate
from .routing import ExpertRouting

# Up to this many tokens, a feed-forward network takes about as long as its weights take through memory, whatever their
# number: gathering saves nothing, so paths are computed on all tokens and selected.
FEW_TOKENS = 16
# On a GPU, gathering waits for the host in every layer: it pays from this many tokens on (encoder of whisper-base on an
# H200, benchmarks/RESULTS.md), by bytes of a number.
MANY_TOKENS = {4: 8_192, 2: 32_768}

FeedForward = Callable[[torch.Tensor], torch.Tensor]
# Expert name and its rows, as in `ExpertRouting.groups`.
Groups = tuple[tuple[str, torch.Tensor | None], ...]


class SharedPath(NamedTuple):
    """Whisper's own feed-forward network, operation for operation: `(…, d_model)` -> `(…, d_model)`."""

    fc1: nn.Module
    fc2: nn.Module
    activation: Activation
    activation_dropout: float
    dropout: float
    training: bool

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.activation(self.fc1(hidden_states))
        hidden_states = nn.functional.dropout(hidden_states, p=self.activation_dropout, training=self.training)
        hidden_states = self.fc2(hidden_states)
        return nn.functional.dropout(hidden_states, p=self.dropout, training=self.training)


class LanguageExpert(GatedExpert):
    """A full expert: one language's feed-forward network and gate in one layer.

    A fresh one copies the shared path and leaves the layer's output unchanged.
    """

    def __init__(
        self,
        d_model: int,
        ffn_dim: int,
        *,
        activation: Activation,
        activation_dropout: float,
        expert_dropout: float,
        gate_dim: int,
        gate_dropout: float,
        gate_init_std: float,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d_model, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, d_model)
        self.add_gate(d_model, gate_dim, gate_init_std)
        self.activation = activation
        self.activation_dropout = activation_dropout
        self.expert_dropout = expert_dropout
        self.gate_dropout = gate_dropout

    @torch.no_grad()
    def start_from(self, fc1: nn.Linear, fc2: nn.Linear) -> None:
        """Start from the shared path's weights."""
        for mine, shared in ((self.fc1, fc1), (self.fc2, fc2)):
            mine.weight.copy_(shared.weight)
            mine.bias.copy_(shared.bias)

    @torch.no_grad()
    def interpolate(self, fc1: nn.Linear, fc2: nn.Linear, weight: float) -> None:
        """Become `(1 - weight) · shared + weight · own`, weight by weight; the gate stays."""
        for mine, shared in ((self.fc1, fc1), (self.fc2, fc2)):
            mine.weight.lerp_(shared.weight, 1.0 - weight)
            mine.bias.lerp_(shared.bias, 1.0 - weight)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """FFN_expert: `(…, d_model)` -> `(…, d_model)`."""
        # No calls that do nothing: one token is so little work that they would show.
        if not self.training:
            return self.fc2(self.activation(self.fc1(hidden_states)))
        hidden_states = nn.functional.dropout(self.activation(self.fc1(hidden_states)), p=self.activation_dropout)
        return nn.functional.dropout(self.fc2(hidden_states), p=self.expert_dropout)


Expert = LanguageExpert | CompactExpert


class LanguageExperts(nn.ModuleDict):
    """A layer's experts by name, and the mixture of each with the shared path.

    The experts that a call mixes are those of its `routing`, which are these unless they were replaced since.

    Calling it returns `(output, gate_values)`: `(batch, frames, d_model)` and g as `(batch, frames)`, 0 for rows on the
    shared path; None for the gates where no row takes an expert and `record` is not given. Rows that take no expert are
    given exactly what `shared` returns for the batch.

    Args:
        layer_name: the layer, as expert files call it: "encoder.layers.0", ...
    """

    def __init__(
        self,
        experts: dict[str, Expert],
        *,
        layer_name: str,
        skip_probability: float,
        straight_through: bool = False,
    ) -> None:
        super().__init__(experts)
        self.layer_name = layer_name
        self.layer = int(layer_name.rpartition(".")[2])
        self.is_replica = False
        self.skip_probability = skip_probability
        self.straight_through = straight_through

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> Expert: ...

    # What `nn.DataParallel` runs on another device has its experts there.
    def _replicate_for_data_parallel(self) -> LanguageExperts:
        replica: LanguageExperts = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        replica.is_replica = True
        return replica

    @property
    def networks(self) -> dict[str, Expert]:
        """The experts by name, as a dict that is replaced and never changed."""
        return self._modules  # type: ignore[return-value]

    @networks.setter
    def networks(self, networks: dict[str, Expert]) -> None:
        self._modules = networks  # type: ignore[assignment]

    def forward(
        self, hidden_states: torch.Tensor, shared: SharedPath, routing: ExpertRouting | None, record: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        gates: torch.Tensor | None = None
        if routing is None:
            output = shared(hidden_states)
        elif routing.groups == ():
            output, gates = self._shared_and_compact(hidden_states, shared, routing, self.training and self._skips())
        elif routing.groups is None:
            output, gates = self._dense(hidden_states, shared, routing, routing.full)
        elif self.training:
            output, gates = self._soft(hidden_states, shared, routing, routing.groups)
        elif routing.dense or (routing.dense is None and not gathering_pays(hidden_states)):
            taken = dict(routing.groups).keys()
            full = {index: name for index, name in routing.full.items() if name in taken}
            output, gates = self._dense(hidden_states, shared, routing, full)
        else:
            output, gates = self._gather(hidden_states, shared, routing, routing.groups)
        if record:
            closed = hidden_states.new_zeros(hidden_states.shape[:-1])
            gates = closed if gates is None else gates.to(closed.dtype)
        return output, gates

    def _shared_and_compact(
        self, hidden_states: torch.Tensor, shared: SharedPath, routing: ExpertRouting, skip: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """All rows on Whisper's own path, with what their compact experts add to it, and those experts' gates."""
        factors = routing.feed_forward(self.layer)
        if factors is None:
            return shared(hidden_states), None
        own = (shared.fc1, shared.fc2, shared.activation)
        if isinstance(factors, MergedFeedForward) or not self.training:
            return factors.forward(hidden_states, *own)
        gates = factors.soft_gates(hidden_states, routing.gate_noise, self.straight_through)
        if skip:
            return shared(hidden_states), gates
        output = factors.train(
            hidden_states, gates, *own, activation_dropout=shared.activation_dropout, dropout=shared.dropout
        )
        return output, gates

    def _skips(self) -> bool:
        """The skip-gate's draw for a layer call, from torch's generator: gradient checkpointing replays it.

        `torch.compile` divides its graph here: where no layer is skipped, nothing is drawn.
        """
        return self.skip_probability > 0.0 and torch.rand(()).item() < self.skip_probability

    def _soft(
        self, hidden_states: torch.Tensor, shared: SharedPath, routing: ExpertRouting, groups: Groups
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Training: both paths, weighted by the gate. Gate values keep their gradient where the layer is skipped."""
        skip = self._skips()
        output, gates = self._shared_and_compact(hidden_states, shared, routing, skip)
        gate_values = output.new_zeros(output.shape[:-1]) if gates is None else gates
        for name, rows in groups:
            expert = self._full(routing, name)
            tokens = hidden_states if rows is None else hidden_states[rows]
            gates = soft_gate(expert.gate_logits(tokens), routing.gate_noise, self.straight_through)
            gate_values = gates if rows is None else gate_values.index_copy(0, rows, gates.to(gate_values.dtype))
            if not skip:
                base = output if rows is None else output[rows]
                mixed = base + gates.unsqueeze(-1) * (expert(tokens) - base)
                output = mixed if rows is None else output.index_copy(0, rows, mixed.to(output.dtype))
        return output, gate_values

    def _dense(
        self, hidden_states: torch.Tensor, shared: SharedPath, routing: ExpertRouting, full: Mapping[int, str]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Every one of these full experts on every row, mixed by masks: no value decides the control flow, so it traces
        whole."""
        skip = self.training and self._skips()
        output, gate_values = self._shared_and_compact(hidden_states, shared, routing, skip)
        shared_output = output
        for index, name in full.items():
            expert = self._full(routing, name)
            mine = (routing.expert_ids == index).unsqueeze(-1)
            if gate_values is None:
                gate_values = output.new_zeros(output.shape[:-1])
            if self.training:
                gates = soft_gate(expert.gate_logits(hidden_states), routing.gate_noise, self.straight_through)
                mixed = shared_output + gates.unsqueeze(-1) * (expert(hidden_states) - shared_output)
            else:
                opened = expert.gate_logits(hidden_states) >= 0
                gates = opened.to(output.dtype)
                mixed = torch.where(opened.unsqueeze(-1), expert(hidden_states), shared_output)
            gate_values = torch.where(mine, gates.to(gate_values.dtype), gate_values)
            if not skip:
                output = torch.where(mine.unsqueeze(-1), mixed, output)
        return output, gate_values

    def _gather(
        self, hidden_states: torch.Tensor, shared: SharedPath, routing: ExpertRouting, groups: Groups
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluation: each full expert on the tokens that take it, and only on them.

        Where some row takes no full expert, Whisper's own path is computed for the batch as plain Whisper computes it:
        on fewer rows its kernels would round differently.
        """
        name, rows = groups[0]
        if rows is None:
            # The usual case in as few calls as can be: this runs for every layer and every token decoded.
            expert = self._full(routing, name)
            opened = expert.gate_logits(hidden_states) >= 0
            count = int(opened.sum())
            if count in (0, opened.numel()):
                return (expert if count else shared)(hidden_states), opened
            if opened.numel() <= FEW_TOKENS:
                return torch.where(opened.unsqueeze(-1), expert(hidden_states), shared(hidden_states)), opened
            choice = opened.long() - 1
        else:
            choice = self._choose(hidden_states, routing, groups)
        tokens, flat_choice = hidden_states.flatten(0, 1), choice.flatten()
        output: torch.Tensor | None = None
        compact_gates: torch.Tensor | None = None
        paths: list[tuple[int, FeedForward]] = [(i, self._full(routing, name)) for i, (name, _) in enumerate(groups)]
        if rows is not None and (routing.others or tokens.shape[0] <= FEW_TOKENS):
            output, compact_gates = self._shared_and_compact(hidden_states, shared, routing)
            output = output.flatten(0, 1)
        else:
            paths.append((-1, shared.__call__))
        for index, path in paths:
            where = (flat_choice == index).nonzero().squeeze(-1)
            if where.numel() > 0:
                path_output = path(tokens.index_select(0, where))
                output = torch.empty_like(tokens, dtype=path_output.dtype) if output is None else output
                output.index_copy_(0, where, path_output)
        opened = choice >= 0
        if compact_gates is not None:
            opened = opened | compact_gates
        # Some path has tokens, so there is an output.
        return cast(torch.Tensor, output).view_as(hidden_states), opened

    def _choose(self, hidden_states: torch.Tensor, routing: ExpertRouting, groups: Groups) -> torch.Tensor:
        """The path of each token of a mixed batch: index into `groups`, -1 for the shared one."""
        choice = torch.full(hidden_states.shape[:-1], -1, device=hidden_states.device)
        for index, (name, rows) in enumerate(groups):
            choice[rows] = torch.where(self._full(routing, name).gate_logits(hidden_states[rows]) >= 0, index, -1)
        return choice

    def _full(self, routing: ExpertRouting, name: str) -> LanguageExpert:
        return cast(LanguageExpert, routing.layers[self.layer][name])


def gathering_pays(hidden_states: torch.Tensor) -> bool:
    """Whether full experts are faster on the tokens that take them than on all, `(batch, tokens, d_model)`."""
    if hidden_states.device.type == "cpu":
        return True
    return hidden_states.shape[:-1].numel() >= MANY_TOKENS[hidden_states.element_size()]
