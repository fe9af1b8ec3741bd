"""The gate of an expert: for every token, whether the expert's path or Whisper's own is taken.

    G(z) = gate_out(ReLU(gate_in(z)))
    training:   g = σ(G + α·n),  n ~ N(0, 1); or hard, 1[G + α·n ≥ 0], with the gradient of that (straight-through)
    evaluation: g = 1[G ≥ 0], so every token takes exactly one of the two paths

(Multilingual DistilWhisper, arXiv 2311.01070, section 2.)
"""

from __future__ import annotations

import torch
from torch import nn


class GateLinear(nn.Linear):
    """A layer of a gate: weights start at N(0, `init_std`²), the bias at zero."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, init_std: float) -> None:
        self.init_std = init_std
        super().__init__(in_features, out_features, bias=bias)

    def reset_parameters(self) -> None:
        if self.weight.is_meta:
            # Nothing to fill, and filling nothing takes milliseconds.
            return
        nn.init.normal_(self.weight, std=self.init_std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class GatedExpert(nn.Module):
    """What every kind of expert has in a layer: its gate.

    `gate_out` starts at zero and `gate_in` at N(0, `gate_init_std`²): every logit is 0, so at the start the gate is 0.5
    in training and open in evaluation.
    """

    gate_in: GateLinear
    gate_out: GateLinear
    gate_dropout: float

    def add_gate(self, d_model: int, gate_dim: int, init_std: float) -> None:
        self.gate_in = GateLinear(d_model, gate_dim, bias=True, init_std=init_std)
        self.gate_out = GateLinear(gate_dim, 1, bias=False, init_std=0.0)

    @property
    def always_open(self) -> bool:
        """Whether no token can close the gate: no hidden unit pulls a logit below 0."""
        return bool((self.gate_out.weight >= 0).all())

    def gate_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """G: `(…, d_model)` -> `(…)`."""
        if self.training:
            hidden_states = nn.functional.dropout(hidden_states, p=self.gate_dropout)
        return self.gate_out(self.gate_in(hidden_states).relu()).squeeze(-1)


def soft_gate(logits: torch.Tensor, noise: float, straight_through: bool) -> torch.Tensor:
    """g in training, of the logits' shape.

    Args:
        logits: G.
        noise: α.
        straight_through: hard in value, soft in gradient.
    """
    if noise > 0:
        logits = logits + noise * torch.randn_like(logits)
    soft = logits.sigmoid()
    if not straight_through:
        return soft
    return (logits >= 0).to(soft.dtype) + soft - soft.detach()
