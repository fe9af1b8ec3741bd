"""Language experts: a second feed-forward network per language, behind a gate that decides for every token.

Multilingual DistilWhisper (arXiv 2311.01070), section 2. For `z`, the output of a layer's `final_layer_norm`:

    CLSR(z) = g(z) · FFN_expert(z) + (1 − g(z)) · FFN_shared(z)
    G(z)    = gate_out(ReLU(gate_in(z)))
    training:   g = σ(G + α·n),  n ~ N(0, 1); or hard, 1[G + α·n ≥ 0], with the gradient of that (straight-through)
    evaluation: g = 1[G ≥ 0], so every token takes exactly one of the two paths

Nothing here knows Whisper: shapes are `(batch, frames, d_model)` for the encoder, `(batch, tokens, d_model)` for the
decoder, and which row takes which expert is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from .routing import ExpertRouting

# Up to this many tokens, a feed-forward network takes about as long as its weights take through memory, whatever their
# number: gathering saves nothing, so paths are computed on all tokens and selected. And rows without an expert stay on
# the kernel that plain Whisper uses for the batch: kernels for few rows round differently from one count to the next.
FEW_TOKENS = 16

FeedForward = Callable[[torch.Tensor], torch.Tensor]
# Expert name and its rows, as in `ExpertRouting.groups`.
Groups = tuple[tuple[str, torch.Tensor | None], ...]


class GateLinear(nn.Linear):
    """A layer of a gate: weights start at N(0, `init_std`²), the bias at zero."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, init_std: float) -> None:
        self.init_std = init_std
        super().__init__(in_features, out_features, bias=bias)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.init_std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class LanguageExpert(nn.Module):
    """One language's feed-forward network and gate in one layer.

    `gate_out` starts at zero and `gate_in` at N(0, `gate_init_std`²): every logit is 0, so at the start the gate is 0.5
    in training and open in evaluation; a fresh expert that copies the shared path leaves the layer's output unchanged.
    """

    def __init__(
        self,
        d_model: int,
        ffn_dim: int,
        *,
        gate_dim: int,
        activation: Callable[[torch.Tensor], torch.Tensor],
        activation_dropout: float,
        expert_dropout: float,
        gate_dropout: float,
        gate_init_std: float,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d_model, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, d_model)
        self.gate_in = GateLinear(d_model, gate_dim, bias=True, init_std=gate_init_std)
        self.gate_out = GateLinear(gate_dim, 1, bias=False, init_std=0.0)
        self.activation = activation
        self.activation_dropout = activation_dropout
        self.expert_dropout = expert_dropout
        self.gate_dropout = gate_dropout

    @torch.no_grad()
    def copy_feed_forward(self, fc1: nn.Linear, fc2: nn.Linear) -> None:
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

    def gate_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """G: `(…, d_model)` -> `(…)`."""
        if self.training:
            hidden_states = nn.functional.dropout(hidden_states, p=self.gate_dropout)
        return self.gate_out(self.gate_in(hidden_states).relu()).squeeze(-1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """FFN_expert: `(…, d_model)` -> `(…, d_model)`."""
        # No calls that do nothing: one token is so little work that they would show.
        if not self.training:
            return self.fc2(self.activation(self.fc1(hidden_states)))
        hidden_states = nn.functional.dropout(self.activation(self.fc1(hidden_states)), p=self.activation_dropout)
        return nn.functional.dropout(self.fc2(hidden_states), p=self.expert_dropout)


class LanguageExperts(nn.ModuleDict):
    """A layer's experts by name, and the mixture of each with the shared path.

    Calling it returns `(output, gate_values)`: `(batch, frames, d_model)` and g as `(batch, frames)`, 0 for rows on the
    shared path. Rows that take no expert are given exactly what `shared` returns for them.
    """

    def __init__(
        self, experts: dict[str, LanguageExpert], *, skip_probability: float, straight_through: bool = False
    ) -> None:
        super().__init__(experts)
        self.skip_probability = skip_probability
        self.straight_through = straight_through

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> LanguageExpert: ...

    def forward(
        self, hidden_states: torch.Tensor, shared: FeedForward, routing: ExpertRouting | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if routing is None:
            return shared(hidden_states), hidden_states.new_zeros(hidden_states.shape[:-1])
        if routing.groups is None:
            return self._dense(hidden_states, shared, routing)
        if self.training:
            return self._soft(hidden_states, shared, routing.groups, routing.gate_noise)
        return self._gather(hidden_states, shared, routing.groups)

    def _soft_gate(self, expert: LanguageExpert, hidden_states: torch.Tensor, gate_noise: float) -> torch.Tensor:
        logits = expert.gate_logits(hidden_states)
        if gate_noise > 0:
            logits = logits + gate_noise * torch.randn_like(logits)
        soft = logits.sigmoid()
        if not self.straight_through:
            return soft
        # Hard in value, soft in gradient.
        return (logits >= 0).to(soft.dtype) + soft - soft.detach()

    def _keep(self) -> bool:
        """The skip-gate's draw for a layer call, from torch's generator: gradient checkpointing replays it."""
        return torch.rand(()).item() >= self.skip_probability

    def _soft(
        self, hidden_states: torch.Tensor, shared: FeedForward, groups: Groups, gate_noise: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Training: both paths, weighted by the gate. Gate values keep their gradient where the layer is skipped."""
        output = shared(hidden_states)
        gate_values = output.new_zeros(output.shape[:-1])
        keep = self._keep()
        for name, rows in groups:
            expert = self[name]
            tokens = hidden_states if rows is None else hidden_states[rows]
            gates = self._soft_gate(expert, tokens, gate_noise)
            gate_values = gates if rows is None else gate_values.index_copy(0, rows, gates.to(gate_values.dtype))
            if keep:
                base = output if rows is None else output[rows]
                mixed = base + gates.unsqueeze(-1) * (expert(tokens) - base)
                output = mixed if rows is None else output.index_copy(0, rows, mixed.to(output.dtype))
        return output, gate_values

    def _dense(
        self, hidden_states: torch.Tensor, shared: FeedForward, routing: ExpertRouting
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Every loaded expert on every row, mixed by masks: no value decides the control flow, so it traces whole."""
        shared_output = output = shared(hidden_states)
        gate_values = output.new_zeros(output.shape[:-1])
        keep = self._keep() if self.training else True
        for index, name in routing.experts.items():
            expert = self[name]
            mine = (routing.expert_ids == index).unsqueeze(-1)
            if self.training:
                gates = self._soft_gate(expert, hidden_states, routing.gate_noise)
                mixed = shared_output + gates.unsqueeze(-1) * (expert(hidden_states) - shared_output)
            else:
                opened = expert.gate_logits(hidden_states) >= 0
                gates = opened.to(output.dtype)
                mixed = torch.where(opened.unsqueeze(-1), expert(hidden_states), shared_output)
            gate_values = torch.where(mine, gates.to(gate_values.dtype), gate_values)
            if keep:
                output = torch.where(mine.unsqueeze(-1), mixed, output)
        return output, gate_values

    def _gather(
        self, hidden_states: torch.Tensor, shared: FeedForward, groups: Groups
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluation: each path on the tokens that take it, and only on them."""
        name, rows = groups[0]
        if rows is None:
            # The usual case in as few calls as can be: this runs for every layer and every token decoded.
            opened = self[name].gate_logits(hidden_states) >= 0
            count = int(opened.sum())
            if count in (0, opened.numel()):
                return (self[name] if count else shared)(hidden_states), opened.to(hidden_states.dtype)
            if opened.numel() <= FEW_TOKENS:
                selected = torch.where(opened.unsqueeze(-1), self[name](hidden_states), shared(hidden_states))
                return selected, opened.to(hidden_states.dtype)
            choice = opened.long() - 1
        else:
            choice = self._choose(hidden_states, groups)
        tokens, flat_choice = hidden_states.flatten(0, 1), choice.flatten()
        output: torch.Tensor | None = None
        paths: list[tuple[int, FeedForward]] = [(index, self[name]) for index, (name, _) in enumerate(groups)]
        if rows is not None and tokens.shape[0] <= FEW_TOKENS:
            output = shared(tokens)
        else:
            paths.append((-1, shared))
        for index, path in paths:
            where = (flat_choice == index).nonzero().squeeze(-1)
            if where.numel() > 0:
                path_output = path(tokens.index_select(0, where))
                output = torch.empty_like(tokens, dtype=path_output.dtype) if output is None else output
                output.index_copy_(0, where, path_output)
        # Some path has tokens, so there is an output.
        return output.view_as(hidden_states), (choice >= 0).to(hidden_states.dtype)  # type: ignore[union-attr]

    def _choose(self, hidden_states: torch.Tensor, groups: Groups) -> torch.Tensor:
        """The path of each token of a mixed batch: index into `groups`, -1 for the shared one."""
        choice = torch.full(hidden_states.shape[:-1], -1, device=hidden_states.device)
        for index, (name, rows) in enumerate(groups):
            choice[rows] = torch.where(self[name].gate_logits(hidden_states[rows]) >= 0, index, -1)
        return choice
