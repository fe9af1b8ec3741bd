"""A teacher's distributions cut to their likeliest tokens, and the divergence of a student from what is left.

Of each distribution the k likeliest tokens are kept, and the probability of all others together as one more token, the
rest. Without it the cut distribution would have to be scaled up, which teaches a student to be surer than its teacher
(arXiv 2503.16870).

On these k + 1 the divergences are those of `losses.distillation` for distributions that were added up over the rest. By
the data processing inequality neither KL nor JS grows by adding up: what is computed here is a lower bound of the whole
one. What KL lacks is the divergence inside the rest, `p(rest) · KL(teacher within the rest || student within it)`: it
is small where the teacher's rest is, and 0 where k is the vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional

from .losses import IGNORED, Divergence, divergence_of, divided

# A rest as unlikely as this is none; its logarithm stays a number.
LEAST = -40.0


@dataclass(frozen=True)
class TopTokens:
    """Distributions over the student's vocabulary.

    Attributes:
        ids: `(targets, k)`, int64.
        log_probs: `(targets, k)`, float32.
        rest: `(targets,)`, float32, logarithm of the probability of all other tokens; None where there are none.
    """

    ids: Tensor
    log_probs: Tensor
    rest: Tensor | None

    @classmethod
    def of(cls, logits: Tensor, k: int) -> TopTokens:
        """Cut distributions.

        Args:
            logits: `(targets, vocabulary)`.
            k: at least 1; as many as the vocabulary or more keep all.
        """
        log_probs = functional.log_softmax(logits.float(), dim=-1)
        found = log_probs.topk(min(k, log_probs.shape[-1]), dim=-1)
        rest = None if k >= log_probs.shape[-1] else _others(log_probs, found.indices)
        return cls(found.indices, found.values, rest)

    @classmethod
    def joined(cls, parts: list[TopTokens]) -> TopTokens:
        """The targets of several, one after the other."""
        rests = [part.rest for part in parts if part.rest is not None]
        return cls(
            torch.cat([part.ids for part in parts]),
            torch.cat([part.log_probs for part in parts]),
            torch.cat(rests) if rests else None,
        )


def top_distillation(
    student_logits: Tensor,
    teacher: TopTokens,
    labels: Tensor,
    *,
    divergence: Divergence,
    normalizer: int | Tensor | None = None,
) -> Tensor:
    """As `losses.distillation` at T = 1, with a teacher that was cut.

    Args:
        student_logits: `(batch, tokens, vocabulary)`.
        teacher: of all positions whose label is not -100, row after row.
        labels: `(batch, tokens)`.
        divergence: "kl" or "js".
        normalizer: number of target tokens in the whole optimiser step.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: an unknown `divergence`, or a teacher of another number of targets.
    """
    if divergence not in get_args(Divergence):
        raise ValueError(f"divergence must be one of {', '.join(get_args(Divergence))}, got {divergence!r}.")
    is_target = labels != IGNORED
    if len(teacher.ids) != int(is_target.sum()):
        raise ValueError(f"Expected a teacher of {int(is_target.sum())} targets, got one of {len(teacher.ids)}.")
    log_s = functional.log_softmax(student_logits[is_target].float(), dim=-1)
    kept, log_t = log_s.gather(-1, teacher.ids), teacher.log_probs
    if teacher.rest is not None:
        kept = torch.cat([kept, _others(log_s, teacher.ids).unsqueeze(-1)], dim=-1)
        log_t = torch.cat([log_t, teacher.rest.unsqueeze(-1)], dim=-1)
    # What was stored in half precision adds up to 1 again.
    log_t = functional.log_softmax(log_t, dim=-1)
    return divided(divergence_of(log_t, kept, divergence), is_target, normalizer)


def _others(log_probs: Tensor, ids: Tensor) -> Tensor:
    """Logarithm of the probability of all tokens but those, `(targets,)`."""
    return log_probs.scatter(-1, ids, -math.inf).logsumexp(dim=-1).clamp(min=LEAST)
