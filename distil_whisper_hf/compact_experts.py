"""Compact experts: what an expert adds to Whisper's weights, as products of two thin matrices (LoRA, arXiv 2106.09685).

For `z`, the output of a layer's `final_layer_norm`, Whisper's own `fc1` and `fc2`, and the expert's A1, B1, A2, B2 of
rank r (each pair with an optional bias, b1' and b2'):

    p   = fc1(z)        a_s = act(p)        a_e = act(p + B1 A1 z + b1')
    out = fc2(g·a_e + (1 − g)·a_s) + g·(B2 A2 a_e + b2')

That is g·FFN_expert(z) + (1 − g)·FFN_shared(z), the mixture of `language_experts`, for an expert with the weights
fc1 + B1 A1 and fc2 + B2 A2, because `fc2` is linear. Attention can be adapted too, without a gate: q(x) + B A x.

The large products are plain Whisper's, on the whole batch, and a closed gate adds exact zeros to them: a row without an
expert is plain Whisper's to the bit, whatever the other rows take. Factors are laid out for a batch once (`lay_out`):
one expert's where all rows take it, else each row's own, so that a batch of ten languages costs what one language
costs. Nothing here reads a value on the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .gates import GatedExpert, soft_gate

Activation = Callable[[torch.Tensor], torch.Tensor]
# The projections of a layer that an expert can change, as the layer names them.
ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


class LowRank(nn.Module):
    """What is added to a linear layer: B `(out, rank)` times A `(rank, in)` to its weight, and maybe to its bias.

    A starts uniform by Kaiming, as in PEFT, B and the bias at zero: nothing is added at first.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, *, bias: bool = False) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(torch.empty(rank, in_features))
        self.lora_B = nn.Parameter(torch.empty(out_features, rank))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.lora_A.is_meta:
            # As for a gate.
            return
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @torch.no_grad()
    def scale(self, weight: float) -> None:
        """Add only this share."""
        self.lora_B.mul_(weight)
        if self.bias is not None:
            self.bias.mul_(weight)

    @property
    def delta(self) -> torch.Tensor:
        """B A, `(out, in)`."""
        return self.lora_B @ self.lora_A

    @property
    def width(self) -> int:
        """Numbers between the two products: the rank, and a 1 that carries the bias where there is one."""
        return self.lora_A.shape[0] + (self.bias is not None)

    def down(self, width: int) -> torch.Tensor:
        """A as columns, `(in, width)`, zero past the rank."""
        return nn.functional.pad(self.lora_A, (0, 0, 0, width - self.lora_A.shape[0])).t()

    def constant(self, width: int) -> torch.Tensor:
        """What is added to the first product, `(1, width)`: 1 in the bias's column, 0 elsewhere."""
        constant = self.lora_A.new_zeros(1, width)
        if self.bias is not None:
            constant[:, self.lora_A.shape[0]] = 1.0
        return constant

    def up(self, width: int) -> torch.Tensor:
        """B and the bias as rows, `(width, out)`, zero past them."""
        columns = self.lora_B if self.bias is None else torch.cat([self.lora_B, self.bias.unsqueeze(1)], dim=1)
        return nn.functional.pad(columns, (0, width - columns.shape[1])).t()


class CompactExpert(GatedExpert):
    """One language's low-rank factors and gate in one layer; a fresh one leaves the layer's output unchanged.

    Attributes:
        fc1, fc2: what is added to the feed-forward network, behind the gate.
        self_attn, encoder_attn: "q_proj", ... -> what is added to that projection of the attention, without a gate.

    Args:
        targets: of "ffn" and the names of attention's projections, those that are changed. Without "ffn" there is no
            gate either.
        attentions: "self_attn", and "encoder_attn" where the layer has that too.
        bias: whether biases are changed as well.
    """

    fc1: LowRank | None
    fc2: LowRank | None

    def __init__(
        self,
        d_model: int,
        ffn_dim: int,
        *,
        rank: int,
        targets: Sequence[str],
        attentions: Sequence[str],
        bias: bool,
        expert_dropout: float,
        gate_dim: int,
        gate_dropout: float,
        gate_init_std: float,
    ) -> None:
        super().__init__()
        self.fc1 = self.fc2 = None
        if "ffn" in targets:
            self.fc1 = LowRank(d_model, ffn_dim, rank, bias=bias)
            self.fc2 = LowRank(ffn_dim, d_model, rank, bias=bias)
            self.add_gate(d_model, gate_dim, gate_init_std)
        for attention in attentions:
            adapted = {name: LowRank(d_model, d_model, rank, bias=bias) for name in ATTENTION if name in targets}
            self.add_module(attention, nn.ModuleDict(adapted))
        self.expert_dropout = expert_dropout
        self.gate_dropout = gate_dropout

    @torch.no_grad()
    def interpolate(self, fc1: nn.Linear, fc2: nn.Linear, weight: float) -> None:
        """As a full expert's, which needs Whisper's own for it: here it is this share of what is added to them."""
        for module in self.modules():
            if isinstance(module, LowRank):
                module.scale(weight)

    def start_from(self, fc1: nn.Linear, fc2: nn.Linear) -> None:
        """As a full expert's; a fresh one adds nothing already."""

    @property
    def always_open(self) -> bool:
        """As any expert's; False where it has no gate, and leaves the feed-forward network alone."""
        return self.fc1 is not None and super().always_open

    @torch.no_grad()
    def merge(self, fc1: nn.Linear, fc2: nn.Linear) -> bool:
        """Where the gate is always open, keep Whisper's weights with the products added to them, for batches that take
        this expert alone; returns whether that is so. They are no part of the state."""
        if self.always_open:
            for name, shared, own in (("fc1", fc1, self.fc1), ("fc2", fc2, self.fc2)):
                pair = cast(LowRank, own)
                bias = shared.bias if pair.bias is None else shared.bias + pair.bias
                self.register_buffer(f"merged_{name}_weight", shared.weight + pair.delta, persistent=False)
                self.register_buffer(f"merged_{name}_bias", bias.clone(), persistent=False)
        return self.always_open

    def unmerge(self) -> None:
        for name in [name for name in self._buffers if name.startswith("merged_")]:
            delattr(self, name)

    @property
    def merged(self) -> MergedFeedForward | None:
        if not hasattr(self, "merged_fc1_weight"):
            return None
        names = ("fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias")
        return MergedFeedForward(*(getattr(self, f"merged_{name}") for name in names))

    def attention(self, name: str, projection: str) -> LowRank | None:
        """What is added to a projection of "self_attn" or "encoder_attn"; None for nothing."""
        projections = getattr(self, name, {})
        return cast(LowRank, projections[projection]) if projection in projections else None


@dataclass(frozen=True)
class LinearFactors:
    """What is added to one projection of a batch; as columns, so that tokens stand on the left of each product.

    Attributes:
        down: `(in, width)` for all rows, or `(batch, in, width)`, a row's own; likewise the others.
        constant: `(1, width)` or `(batch, 1, width)`, added to the first product.
        up: `(width, out)` or `(batch, width, out)`.
    """

    down: torch.Tensor
    constant: torch.Tensor
    up: torch.Tensor

    def add_to(self, output: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """`output + x · down · up`: `(batch, tokens, out)` from `(batch, tokens, in)`."""
        flat, projected = _by_row(x, self.up), _by_row(output, self.up)
        return _accumulate(projected, _product(flat, self.down, self.constant), self.up).view_as(output)


@dataclass(frozen=True)
class FeedForwardFactors:
    """What a batch's compact experts add to one layer's feed-forward network, and their gates.

    Attributes:
        down1: A1 and `gate_in` side by side, `(d_model, width + gate_dim)`, or with a leading `batch`; likewise the
            others.
        constant1: added to that product.
        gate_out: `(gate_dim, 1)`.
        up1: `(width, ffn_dim)`.
        fc2: the second pair.
        zero: a scalar on the device: what a closed gate lets through.
        gate_dropout: on the gate's input, in training.
        expert_dropout: on the input of A1 and of A2, as LoRA has it, in training.
    """

    down1: torch.Tensor
    constant1: torch.Tensor
    gate_out: torch.Tensor
    up1: torch.Tensor
    fc2: LinearFactors
    zero: torch.Tensor
    gate_dropout: float
    expert_dropout: float

    def forward(
        self, hidden_states: torch.Tensor, fc1: nn.Module, fc2: nn.Module, activation: Activation
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluation, with hard gates, in nine operations more than plain Whisper's.

        Args:
            hidden_states: z, `(batch, tokens, d_model)`.
            fc1, fc2, activation: Whisper's own.

        Returns:
            The layer's feed-forward output, of the same shape, and whether each gate is open, `(batch, tokens)`.
        """
        x, width = _by_row(hidden_states, self.up1), self.up1.shape[-2]
        low = _product(x, self.down1, self.constant1)
        opened = _product(low[..., width:].relu_(), self.gate_out) >= 0
        projected = _accumulate(fc1(x), torch.where(opened, low[..., :width], self.zero), self.up1)
        activated = activation(projected)
        low = torch.where(opened, _product(activated, self.fc2.down, self.fc2.constant), self.zero)
        output = _accumulate(fc2(activated), low, self.fc2.up)
        return output.view_as(hidden_states), opened.view(hidden_states.shape[:-1])

    def soft_gates(self, hidden_states: torch.Tensor, noise: float, straight_through: bool) -> torch.Tensor:
        """The gates in training, `(batch, tokens)`, 0 for rows without an expert; `noise` and `straight_through` as
        `gates.soft_gate` takes them."""
        x, width = nn.functional.dropout(_by_row(hidden_states, self.up1), self.gate_dropout), self.up1.shape[-2]
        hidden = _product(x, self.down1[..., width:], self.constant1[..., width:]).relu()
        gates = soft_gate(_product(hidden, self.gate_out), noise, straight_through)
        return gates.view(hidden_states.shape[:-1])

    def train(
        self,
        hidden_states: torch.Tensor,
        gates: torch.Tensor,
        fc1: nn.Module,
        fc2: nn.Module,
        activation: Activation,
        *,
        activation_dropout: float,
        dropout: float,
    ) -> torch.Tensor:
        """The feed-forward output in training. `gates` are those of `soft_gates`, the dropouts Whisper's own.

        Both activations are computed again in the backward pass: of all that is as wide as the feed-forward network,
        only `fc1`'s output is kept.
        """
        x, width = _by_row(hidden_states, self.up1), self.up1.shape[-2]
        dropped = nn.functional.dropout(x, self.expert_dropout)
        low1 = _product(dropped, self.down1[..., :width], self.constant1[..., :width])
        weights = _by_row(gates.unsqueeze(-1), self.up1)

        def mix(
            projected: torch.Tensor, low1: torch.Tensor, weights: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            expert = activation(projected + _product(low1, self.up1))
            dropped = nn.functional.dropout(expert, self.expert_dropout)
            low2 = _product(dropped, self.fc2.down, self.fc2.constant)
            return torch.lerp(activation(projected), expert, weights.to(expert.dtype)), low2

        drawn = self.expert_dropout > 0
        mixed, low2 = checkpoint(mix, fc1(x), low1, weights, use_reentrant=False, preserve_rng_state=drawn)
        output = nn.functional.dropout(fc2(nn.functional.dropout(mixed, activation_dropout)), dropout)
        return (output + weights * _product(low2, self.fc2.up)).view_as(hidden_states)


@dataclass(frozen=True)
class LayerFactors:
    """What a batch's compact experts add to one layer.

    Attributes:
        feed_forward: None where no expert changes it; in evaluation merged, where that is exact.
        attention: "self_attn" or "encoder_attn" -> "q_proj", ... -> what is added to that projection.
    """

    feed_forward: FeedForwardFactors | MergedFeedForward | None
    attention: Mapping[str, Mapping[str, LinearFactors]]


def lay_out(experts: Sequence[CompactExpert | None], rows: torch.Tensor | None, dtype: torch.dtype) -> LayerFactors:
    """Lay the factors of a layer's experts out for a batch.

    Args:
        experts: those that the batch takes; None is Whisper itself.
        rows: `(batch,)`, int64: index into `experts`. None: every row takes the first.
        dtype: in which the layer computes.
    """

    def by_row(parts: Sequence[torch.Tensor | None]) -> torch.Tensor:
        missing = torch.zeros_like(next(part for part in parts if part is not None))
        filled = [missing if part is None else part for part in parts]
        return (filled[0] if rows is None else torch.stack(filled)[rows.to(missing.device)]).to(dtype)

    def linear(pairs: Sequence[LowRank | None]) -> LinearFactors:
        width = max(pair.width for pair in pairs if pair is not None)
        return LinearFactors(
            by_row([None if pair is None else pair.down(width) for pair in pairs]),
            by_row([None if pair is None else pair.constant(width) for pair in pairs]),
            by_row([None if pair is None else pair.up(width) for pair in pairs]),
        )

    gated = [None if expert is None or expert.fc1 is None else expert for expert in experts]
    some = next((expert for expert in gated if expert is not None), None)
    feed_forward: FeedForwardFactors | MergedFeedForward | None = None
    if some is not None and rows is None and some.merged is not None and not some.training:
        feed_forward = some.merged
    elif some is not None:
        first, second = (
            linear([None if expert is None else getattr(expert, name) for expert in gated]) for name in ("fc1", "fc2")
        )
        # The gate of Whisper itself: closed for every token, in training too, where a logit this low makes it 0.
        closed = torch.zeros_like(some.gate_in.bias)
        closed[0] = 1.0
        gate_in = [None if expert is None else expert.gate_in.weight.t() for expert in gated]
        gate_bias = [closed.unsqueeze(0) if expert is None else expert.gate_in.bias.unsqueeze(0) for expert in gated]
        gate_out = [-1e4 * closed.unsqueeze(1) if expert is None else expert.gate_out.weight.t() for expert in gated]
        feed_forward = FeedForwardFactors(
            torch.cat([first.down, by_row(gate_in)], dim=-1),
            torch.cat([first.constant, by_row(gate_bias)], dim=-1),
            by_row(gate_out),
            first.up,
            second,
            torch.zeros((), dtype=dtype, device=closed.device),
            some.gate_dropout,
            some.expert_dropout,
        )
    attention: dict[str, dict[str, LinearFactors]] = {}
    for name in ("self_attn", "encoder_attn"):
        for projection in ATTENTION:
            pairs = [None if expert is None else expert.attention(name, projection) for expert in experts]
            if any(pair is not None for pair in pairs):
                attention.setdefault(name, {})[projection] = linear(pairs)
    return LayerFactors(feed_forward, attention)


@dataclass(frozen=True)
class MergedFeedForward:
    """The feed-forward network of a batch whose rows all take one expert that is always open, of one product each."""

    fc1_weight: torch.Tensor
    fc1_bias: torch.Tensor
    fc2_weight: torch.Tensor
    fc2_bias: torch.Tensor

    def forward(
        self, hidden_states: torch.Tensor, fc1: nn.Module, fc2: nn.Module, activation: Activation
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `FeedForwardFactors.forward`, with as many operations as plain Whisper."""
        activated = activation(nn.functional.linear(hidden_states, self.fc1_weight, self.fc1_bias))
        output = nn.functional.linear(activated, self.fc2_weight, self.fc2_bias)
        return output, torch.ones((), dtype=torch.bool, device=output.device).expand(hidden_states.shape[:-1])


def _by_row(x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """`(batch, tokens, …)` where each row has its own factors, else `(batch · tokens, …)`: one product for all."""
    return x if factors.dim() == 3 else x.flatten(0, 1)


def _product(x: torch.Tensor, weight: torch.Tensor, constant: torch.Tensor | None = None) -> torch.Tensor:
    """`x · weight + constant`, for all rows or by row."""
    if weight.dim() == 2:
        return torch.mm(x, weight) if constant is None else torch.addmm(constant, x, weight)
    return torch.bmm(x, weight) if constant is None else torch.baddbmm(constant, x, weight)


def _accumulate(output: torch.Tensor, low: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """`output + low · up` in one product. Where `low` is zero, `output` stays as it is, to the bit."""
    if torch.is_autocast_enabled(output.device.type):
        # Autocast leaves operations in place alone: their types would differ.
        return torch.addmm(output, low, up) if up.dim() == 2 else torch.baddbmm(output, low, up)
    return output.addmm_(low, up) if up.dim() == 2 else output.baddbmm_(low, up)
