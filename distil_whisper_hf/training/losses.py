"""The three parts of the training loss: cross-entropy, distillation and the gate budget.

Everything here is a pure function of tensors, computed in float32 when the model's precision is lower. Positions whose
label is `IGNORED` are left out before the softmax, so that what a model says there, even `inf` or `nan`, changes
neither the loss nor a gradient.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

# The label of a position that is not a target, as in torch and transformers.
IGNORED = -100

Divergence = Literal["kl", "js"]
BudgetMode = Literal["joint", "separate"]


def cross_entropy(
    logits: Tensor, labels: Tensor, *, label_smoothing: float, normalizer: int | Tensor | None = None
) -> Tensor:
    """Cross-entropy of the target tokens under the model, in nats.

    For a target token `y` and a vocabulary of `V` tokens, with smoothing `e` (Szegedy et al. 2016, arXiv 1512.00567):

        CE = -(1 - e) · log p(y) - e/V · sum_v log p(v)

    The sum over target tokens is divided by `normalizer`; without one, by the number of target tokens in `labels`.

    Breaks down: with smoothing above 0 the minimum is not 0 but the entropy of the smoothed target, and the loss grows
    without bound for a model that is right and very sure, so values of different `label_smoothing` do not compare.

    Args:
        logits: `(batch, tokens, vocabulary)`, finite, of any floating type.
        labels: `(batch, tokens)` token ids; -100 is not a target.
        label_smoothing: 0 (none) to below 1; the paper trains with 0.1.
        normalizer: number of target tokens in the whole optimiser step, over all accumulated batches. With it the
            losses of the accumulated batches add up to the loss of one large batch; without it short batches weigh too
            much.

    Returns:
        A float32 scalar, at least 0; 0 with a gradient path when nothing is a target.

    Raises:
        ValueError: shapes that do not fit, or `label_smoothing` outside [0, 1).
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}.")
    _check_logits(logits, labels, name="logits")
    is_target = labels != IGNORED
    total = functional.cross_entropy(
        _at_least_float32(logits[is_target]), labels[is_target], label_smoothing=label_smoothing, reduction="sum"
    )
    return divided(total, is_target, normalizer)


def distillation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    divergence: Divergence,
    temperature: float,
    normalizer: int | Tensor | None = None,
) -> Tensor:
    """Divergence between the output distributions of teacher and student, in nats.

    With `t = softmax(teacher_logits / T)`, `s = softmax(student_logits / T)` and `m = (t + s) / 2`, for each target
    token:

        kl : KL(t || s)                              = sum_v t(v) · (log t(v) - log s(v))
        js : (KL(t || m) + KL(s || m)) / 2           the mixture is formed in log space

    KL is Hinton et al. 2015 (arXiv 1503.02531), JS for sequence models Wen et al. 2023 (arXiv 2307.15190);
    "Multilingual DistilWhisper" (arXiv 2311.01070) uses JS, KL in its appendix, both at T = 1. The sum is multiplied
    by T², which keeps the size of the gradient, and so the meaning of the loss weight, when T changes; at T = 1 it
    changes nothing. The sum over target tokens is divided by `normalizer`; without one, by the number of target tokens
    in `labels`.

    Breaks down: `kl` is unbounded, and a teacher that is sure of a token which the student all but excludes dominates
    the batch. `js` is bounded by T² · ln 2, and its gradient vanishes exactly there: a student that excludes all the
    teacher's tokens learns nothing from it, so `js` needs the cross-entropy beside it. Identical distributions may
    give a value of rounding size (1e-7) below 0. A logit of -inf gives nan: drop such tokens from both sides first.

    Args:
        student_logits: `(batch, tokens, vocabulary)`, finite, of any floating type.
        teacher_logits: the same shape, already mapped to the student's vocabulary; no gradient flows into it.
        labels: `(batch, tokens)` token ids; only positions that are not -100 count.
        divergence: "kl" or "js".
        temperature: T, above 0.
        normalizer: number of target tokens in the whole optimiser step, over all accumulated batches.

    Returns:
        A float32 scalar; 0 with a gradient path when nothing is a target.

    Raises:
        ValueError: an unknown `divergence`, a temperature that is not above 0, or shapes that do not fit.
    """
    if divergence not in get_args(Divergence):
        raise ValueError(f"divergence must be one of {', '.join(get_args(Divergence))}, got {divergence!r}.")
    if not temperature > 0.0:
        raise ValueError(f"temperature must be above 0, got {temperature}.")
    _check_logits(student_logits, labels, name="student_logits")
    if teacher_logits.shape != student_logits.shape:
        raise ValueError(
            f"teacher_logits must have the student's shape {tuple(student_logits.shape)}, got "
            f"{tuple(teacher_logits.shape)}: map them to the student's vocabulary first."
        )
    is_target = labels != IGNORED
    log_s = functional.log_softmax(_at_least_float32(student_logits[is_target]) / temperature, dim=-1)
    log_t = functional.log_softmax(_at_least_float32(teacher_logits.detach()[is_target]) / temperature, dim=-1)
    return divided(divergence_of(log_t, log_s, divergence) * temperature**2, is_target, normalizer)


def divergence_of(log_t: Tensor, log_s: Tensor, divergence: Divergence) -> Tensor:
    """Divergence between teacher and student, of their log-probabilities `(targets, tokens)`, summed over targets."""
    if divergence == "kl":
        return _kl(log_t, log_s)
    log_m = torch.logaddexp(log_s, log_t) - math.log(2.0)
    return 0.5 * (_kl(log_t, log_m) + _kl(log_s, log_m))


def divided(total: Tensor, is_target: Tensor, normalizer: int | Tensor | None) -> Tensor:
    """A sum over targets by `normalizer`; without one, by their number in `is_target`."""
    return total / _divisor(is_target, normalizer)


def gate_budget(
    encoder_gate_values: tuple[Tensor, ...],
    decoder_gate_values: tuple[Tensor, ...],
    *,
    budget: float,
    mode: BudgetMode,
    row_mask: Tensor | None = None,
    encoder_mask: Tensor | None = None,
    decoder_mask: Tensor | None = None,
) -> Tensor:
    """Distance of the mean gate value from the budget: the share of frames and tokens that should take the expert.

        joint    : |mean(g over encoder and decoder) - b|     as in arXiv 2311.01070
        separate : (|mean(g over encoder) - b| + |mean(g over decoder) - b|) / 2

    after the routing budget of Zhang et al. 2021 (CLSR, ICLR). A mean divides by the number of counted values, summed
    over the layers; a side without any counted value is left out.

    Breaks down: `joint` counts positions, and a 30 s window has 1500 frames but some 40 tokens, so the decoder's gates
    are 97 % free unless padding is masked or `separate` is chosen. It bounds a mean: all gates at `b` satisfies it as
    well as a share `b` of them at 1. Being the distance of a mean, it does not add up over accumulated batches: divide
    it by the number of batches in the optimiser step, which averages the distances of the batches. Rows of several
    experts share one mean, in which an expert that is always open hides one that never is: to hold each expert to the
    budget, call this once for each with its `row_mask`.

    Args:
        encoder_gate_values: for each encoder layer, `(batch, frames)` in [0, 1], 50 frames per second.
        decoder_gate_values: for each decoder layer, `(batch, tokens)` in [0, 1].
        budget: b, 0 to 1; the paper trains with 0.5.
        mode: "joint" or "separate".
        row_mask: `(batch,)`, true for the rows that have an expert; the gates of the others are not counted.
        encoder_mask: `(batch, frames)`, true for frames that count, e.g. without the silence after the clip.
        decoder_mask: `(batch, tokens)`, true for tokens that count, e.g. `labels != -100`.

    Returns:
        A float32 scalar in [0, 1]; 0 with a gradient path when nothing is counted.

    Raises:
        ValueError: an unknown `mode`, a budget outside [0, 1], no gate values at all, or shapes that do not fit.
    """
    if mode not in get_args(BudgetMode):
        raise ValueError(f"mode must be one of {', '.join(get_args(BudgetMode))}, got {mode!r}.")
    if not 0.0 <= budget <= 1.0:
        raise ValueError(f"budget must be between 0 and 1, got {budget}.")
    if not encoder_gate_values and not decoder_gate_values:
        raise ValueError("Expected the gate values of at least one layer, got none: the model must record them.")
    encoder = _sum_and_count(encoder_gate_values, row_mask, encoder_mask, side="encoder")
    decoder = _sum_and_count(decoder_gate_values, row_mask, decoder_mask, side="decoder")
    sides = [side for side in (encoder, decoder) if side is not None]
    if mode == "joint":
        total, count = (torch.stack(parts).sum() for parts in zip(*sides, strict=True))
        return _distance(total, count, budget)
    distances = torch.stack([_distance(total, count, budget) for total, count in sides])
    counted = torch.stack([count for _, count in sides]) > 0
    return distances.sum() / counted.sum().clamp(min=1)


def mask_from_lengths(lengths: Tensor, *, size: int) -> Tensor:
    """Mask `(batch, size)` that is true for the first `lengths` positions of each row, e.g. frames before padding.

    Args:
        lengths: `(batch,)` integers, 0 to `size`.
        size: number of positions, e.g. 1500 encoder frames.
    """
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(-1)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _check_logits(logits: Tensor, labels: Tensor, *, name: str) -> None:
    if logits.dim() != 3 or logits.shape[:2] != labels.shape:
        raise ValueError(
            f"{name} must be (batch, tokens, vocabulary) for labels (batch, tokens), got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}."
        )


def _divisor(is_target: Tensor, normalizer: int | Tensor | None) -> Tensor:
    """The number that a sum over targets is divided by, at least 1 so that no target at all gives 0."""
    count = is_target.sum() if normalizer is None else torch.as_tensor(normalizer, device=is_target.device)
    return count.clamp(min=1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) in nats, summed over everything, of log-probabilities."""
    return functional.kl_div(log_q, log_p, log_target=True, reduction="sum")


def _sum_and_count(
    layers: tuple[Tensor, ...], row_mask: Tensor | None, position_mask: Tensor | None, *, side: str
) -> tuple[Tensor, Tensor] | None:
    """Sum and number of the counted gate values over the layers of one side; None for a side without layers."""
    if not layers:
        return None
    shape = layers[0].shape
    if len(shape) != 2 or any(gates.shape != shape for gates in layers):
        shapes = sorted({tuple(gates.shape) for gates in layers})
        raise ValueError(f"The {side} gate values of every layer must be one (batch, positions) shape, got {shapes}.")
    mask = torch.ones(shape, dtype=torch.bool, device=layers[0].device)
    if row_mask is not None:
        _check_mask(row_mask, shape[:1], name="row_mask")
        mask = mask & row_mask.bool().unsqueeze(-1)
    if position_mask is not None:
        _check_mask(position_mask, shape, name=f"{side}_mask")
        mask = mask & position_mask.bool()
    total = torch.stack([_at_least_float32(gates[mask]).sum() for gates in layers]).sum()
    return total, mask.sum() * len(layers)


def _check_mask(mask: Tensor, shape: tuple[int, ...], *, name: str) -> None:
    if mask.shape != shape:
        raise ValueError(f"{name} must be {tuple(shape)} like the gate values, got {tuple(mask.shape)}.")


def _distance(total: Tensor, count: Tensor, budget: float) -> Tensor:
    """|total / count - budget|, and 0 that still depends on `total` when nothing was counted."""
    return (total / count.clamp(min=1) - budget * (count > 0)).abs()
