"""Tokens drawn so that a row's draw is its own: whatever shares its batch, and whatever was drawn before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor


class RowSampler(LogitsProcessor):
    """The last processor of a greedy `generate`: makes the likeliest token of each row one drawn at its temperature.

    The largest of log p / T plus noise of Gumbel's distribution is a draw from softmax(log p / T), and a row's noise is
    that of its seed. On the way it adds up the log-probabilities of what is taken, at temperature 1.

    Args:
        temperatures: of each row; 0 takes the likeliest.
        seeds: of each row.
        end_token_id: behind it nothing counts.

    Attributes:
        sums: `(batch,)`, float64: log-probabilities of the tokens so far, the end included, in nats.
        counts: `(batch,)`, int64: how many tokens these are.
    """

    def __init__(self, temperatures: Sequence[float], seeds: Sequence[int], end_token_id: int) -> None:
        self._temperatures = temperatures
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._end = end_token_id
        self.sums: torch.Tensor | None = None
        self.counts: torch.Tensor | None = None
        self._running: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """`(batch, tokens)` and `(batch, vocabulary)`, the logits -> as the logits, with noise."""
        logprobs = scores.float().log_softmax(dim=-1)
        # As they are where the likeliest is taken, which rounding must not change.
        drawn = scores
        if any(self._temperatures):
            drawn = scores.clone()
            for row, temperature in enumerate(self._temperatures):
                if temperature > 0.0:
                    # On the CPU: the same on every device.
                    uniform = torch.rand(logprobs.shape[-1], generator=self._generators[row], dtype=torch.float64)
                    noise = -(-uniform.clamp_min(1e-300).log()).log()
                    drawn[row] = logprobs[row] / temperature + noise.to(drawn)
        tokens = drawn.argmax(dim=-1)
        taken = logprobs.gather(1, tokens[:, None])[:, 0].double()
        if self.sums is None or self.counts is None or self._running is None:
            self.sums, self.counts = torch.zeros_like(taken), torch.zeros_like(tokens)
            self._running = torch.ones_like(tokens, dtype=torch.bool)
        self.sums += torch.where(self._running, taken, 0.0)
        self.counts += self._running
        self._running &= tokens != self._end
        return drawn
