"""Every loss against a reference that is written from its definition, in plain Python floats."""

from __future__ import annotations

import math

import pytest
import torch

from distil_whisper_hf.training.losses import cross_entropy, distillation, gate_budget, mask_from_lengths

BATCH, TOKENS, VOCABULARY = 3, 5, 7


def naive_softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    top = max(row)
    powers = [math.exp((value - top) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def naive_cross_entropy(logits, labels, label_smoothing: float) -> list[float]:
    """One value for each target token."""
    values = []
    for rows, targets in zip(logits.tolist(), labels.tolist(), strict=True):
        for row, target in zip(rows, targets, strict=True):
            if target != -100:
                p = naive_softmax(row)
                smooth = -sum(math.log(value) for value in p) / len(p)
                values.append((1 - label_smoothing) * -math.log(p[target]) + label_smoothing * smooth)
    return values


def naive_divergence(student, teacher, labels, divergence: str, temperature: float) -> list[float]:
    """One value for each target token, before the multiplication by T²."""

    def kl(p, q):
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))

    values = []
    for b in range(labels.shape[0]):
        for i in range(labels.shape[1]):
            if labels[b, i].item() == -100:
                continue
            s = naive_softmax(student[b, i].tolist(), temperature)
            t = naive_softmax(teacher[b, i].tolist(), temperature)
            m = [(x + y) / 2 for x, y in zip(s, t, strict=True)]
            values.append(kl(t, s) if divergence == "kl" else (kl(t, m) + kl(s, m)) / 2)
    return values


def random_batch(seed: int = 0, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(BATCH, TOKENS, VOCABULARY, generator=generator, dtype=dtype) * 3
    teacher = torch.randn(BATCH, TOKENS, VOCABULARY, generator=generator, dtype=dtype) * 3
    labels = torch.randint(0, VOCABULARY, (BATCH, TOKENS), generator=generator)
    labels[0, 3:] = -100
    labels[2, 1:] = -100
    return student, teacher, labels


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_is_its_definition(label_smoothing: float) -> None:
    """Prevents smoothing spread over the wrong number of tokens, and a mean that counts padding."""
    logits, _, labels = random_batch()
    expected = naive_cross_entropy(logits, labels, label_smoothing)
    assert len(expected) == 9
    loss = cross_entropy(logits, labels, label_smoothing=label_smoothing)
    assert loss.item() == pytest.approx(sum(expected) / 9, rel=1e-12)
    loss = cross_entropy(logits, labels, label_smoothing=label_smoothing, normalizer=40)
    assert loss.item() == pytest.approx(sum(expected) / 40, rel=1e-12)


@pytest.mark.parametrize("divergence", ["kl", "js"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_distillation_is_its_definition(divergence: str, temperature: float) -> None:
    """Prevents KL(student || teacher), a temperature on one side only, a lost T², and counted padding."""
    student, teacher, labels = random_batch()
    expected = naive_divergence(student, teacher, labels, divergence, temperature)
    loss = distillation(student, teacher, labels, divergence=divergence, temperature=temperature)
    assert loss.item() == pytest.approx(temperature**2 * sum(expected) / 9, rel=1e-12)
    loss = distillation(student, teacher, labels, divergence=divergence, temperature=temperature, normalizer=40)
    assert loss.item() == pytest.approx(temperature**2 * sum(expected) / 40, rel=1e-12)


def test_kl_and_js_know_teacher_from_student() -> None:
    """Prevents a reference and a loss that agree only because both are symmetric: KL must not be, JS must be."""
    student, teacher, labels = random_batch()

    def both(divergence: str) -> tuple[float, float]:
        options = {"divergence": divergence, "temperature": 1.0}
        forward = distillation(student, teacher, labels, **options).item()
        return forward, distillation(teacher, student, labels, **options).item()

    forward, backward = both("kl")
    assert abs(forward - backward) > 0.05
    forward, backward = both("js")
    assert forward == pytest.approx(backward, rel=1e-12)


def test_gradients_are_those_of_the_formulas() -> None:
    """Prevents a detach or an in-place step that leaves the value right and the gradient wrong."""
    student, teacher, labels = random_batch()
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, labels, label_smoothing=0.1), student)
    for divergence in ("kl", "js"):
        assert torch.autograd.gradcheck(
            lambda x, name=divergence: distillation(x, teacher, labels, divergence=name, temperature=1.7), student
        )
    encoder, decoder = gate_values()
    gates = [value.requires_grad_() for value in (*encoder, *decoder)]
    for mode in ("joint", "separate"):
        assert torch.autograd.gradcheck(
            lambda a, b, c, d, e, name=mode: gate_budget(
                (a, b), (c, d, e), budget=0.4, mode=name, row_mask=torch.tensor([True, False, True])
            ),
            gates,
        )


def test_teacher_gets_no_gradient() -> None:
    """Prevents a trainable teacher (a teacher that shares the student's weights) being pulled towards the student."""
    student, teacher, labels = random_batch()
    student.requires_grad_()
    teacher.requires_grad_()
    distillation(student, teacher, labels, divergence="js", temperature=1.0).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("part", ["cross_entropy", "kl", "js"])
def test_accumulated_batches_equal_one_large_batch(part: str) -> None:
    """Prevents the mean of means: with rows of 3, 5 and 1 targets it differs from the mean over all targets."""
    student, teacher, labels = random_batch()
    total = int((labels != -100).sum())

    def loss(rows: slice, normalizer: int | torch.Tensor | None) -> torch.Tensor:
        if part == "cross_entropy":
            return cross_entropy(leaf[rows], labels[rows], label_smoothing=0.1, normalizer=normalizer)
        return distillation(
            leaf[rows], teacher[rows], labels[rows], divergence=part, temperature=2.0, normalizer=normalizer
        )

    leaf = student.clone().requires_grad_()
    whole = loss(slice(None), None)
    whole.backward()
    expected, leaf = leaf.grad, student.clone().requires_grad_()
    pieces = [loss(slice(0, 1), torch.tensor(total)), loss(slice(1, 3), total)]
    for piece in pieces:
        piece.backward()
    assert sum(piece.item() for piece in pieces) == pytest.approx(whole.item(), rel=1e-12)
    torch.testing.assert_close(leaf.grad, expected)
    naive_mean = (loss(slice(0, 1), None) + loss(slice(1, 3), None)).item() / 2
    assert abs(naive_mean - whole.item()) > 1e-3


def test_padding_never_matters_even_when_it_is_not_a_number() -> None:
    """Prevents a masked multiplication, where 0 · nan at a padded position poisons the whole gradient."""
    student, teacher, labels = random_batch()
    poisoned = student.clone()
    poisoned[labels == -100] = float("nan")
    poisoned.requires_grad_()
    broken_teacher = teacher.clone()
    broken_teacher[labels == -100] = float("inf")
    loss = cross_entropy(poisoned, labels, label_smoothing=0.1)
    loss = loss + distillation(poisoned, broken_teacher, labels, divergence="js", temperature=1.0)
    expected = cross_entropy(student, labels, label_smoothing=0.1)
    expected = expected + distillation(student, teacher, labels, divergence="js", temperature=1.0)
    assert loss.item() == expected.item()
    loss.backward()
    assert torch.isfinite(poisoned.grad).all()
    assert (poisoned.grad[labels == -100] == 0).all()


def test_nothing_to_learn_gives_zero_with_a_gradient_path() -> None:
    """Prevents 0 / 0 and a backward that fails (or hangs other processes) on a batch without targets."""
    student, teacher, labels = random_batch()
    student.requires_grad_()
    labels = torch.full_like(labels, -100)
    gates = torch.rand(BATCH, TOKENS).requires_grad_()
    nobody = torch.zeros(BATCH, dtype=torch.bool)
    losses = [
        cross_entropy(student, labels, label_smoothing=0.1),
        cross_entropy(student, labels, label_smoothing=0.1, normalizer=torch.tensor(0)),
        distillation(student, teacher, labels, divergence="kl", temperature=1.0),
        distillation(student, teacher, labels, divergence="js", temperature=1.0, normalizer=0),
        gate_budget((gates,), (gates, gates), budget=0.5, mode="joint", row_mask=nobody),
        gate_budget((gates,), (gates, gates), budget=0.5, mode="separate", row_mask=nobody),
    ]
    for loss in losses:
        assert loss.item() == 0.0
        loss.backward()
    assert (student.grad == 0).all()
    assert (gates.grad == 0).all()


def test_extreme_logits_stay_finite_and_right() -> None:
    """Prevents log(0) and 0 · inf: probabilities underflow long before logits of ±1e4."""
    labels = torch.tensor([[0, 1]])
    student = torch.tensor([[[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]]], requires_grad=True)
    opposite = torch.tensor([[[-1e4, 1e4, 0.0], [1e4, -1e4, 0.0]]])
    js = distillation(student, opposite, labels, divergence="js", temperature=1.0)
    assert js.item() == pytest.approx(math.log(2.0), rel=1e-6)
    kl = distillation(student, opposite, labels, divergence="kl", temperature=1.0)
    assert kl.item() == pytest.approx(2e4, rel=1e-6)
    cross = cross_entropy(student, 1 - labels, label_smoothing=0.0)
    assert cross.item() == pytest.approx(2e4, rel=1e-6)
    for divergence in ("kl", "js"):
        same = distillation(student, student.detach(), labels, divergence=divergence, temperature=1.0)
        assert abs(same.item()) < 1e-6
    (js + kl + cross).backward()
    assert torch.isfinite(student.grad).all()


def test_half_precision_logits_are_summed_in_float32() -> None:
    """Prevents a softmax over 51865 tokens in bfloat16, whose three digits lose the loss."""
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(1, 2, 51865, generator=generator).bfloat16()
    teacher = torch.randn(1, 2, 51865, generator=generator).bfloat16()
    labels = torch.tensor([[5, 9]])
    loss = distillation(student, teacher, labels, divergence="js", temperature=1.0)
    exact = distillation(student.double(), teacher.double(), labels, divergence="js", temperature=1.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-4)
    loss = cross_entropy(student, labels, label_smoothing=0.1)
    exact = cross_entropy(student.double(), labels, label_smoothing=0.1)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


def gate_values() -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Two encoder layers of 11 frames and three decoder layers of 4 tokens, for 3 rows."""
    generator = torch.Generator().manual_seed(2)
    encoder = tuple(torch.rand(BATCH, 11, generator=generator, dtype=torch.float64) for _ in range(2))
    decoder = tuple(torch.rand(BATCH, 4, generator=generator, dtype=torch.float64) ** 3 for _ in range(3))
    return encoder, decoder


def test_gate_budget_is_its_definition_with_every_mask() -> None:
    """Prevents rows without an expert, padding frames or padded tokens from being counted, and a wrong divisor."""
    encoder, decoder = gate_values()
    rows = torch.tensor([True, False, True])
    frames = mask_from_lengths(torch.tensor([3, 11, 7]), size=11)
    tokens = mask_from_lengths(torch.tensor([4, 2, 1]), size=4)
    in_encoder = [
        layer[b, i].item() for layer in encoder for b in range(3) for i in range(11) if rows[b] and frames[b, i]
    ]
    in_decoder = [
        layer[b, i].item() for layer in decoder for b in range(3) for i in range(4) if rows[b] and tokens[b, i]
    ]
    assert (len(in_encoder), len(in_decoder)) == (2 * (3 + 7), 3 * (4 + 1))
    masks = {"row_mask": rows, "encoder_mask": frames, "decoder_mask": tokens}
    joint = abs(sum(in_encoder + in_decoder) / 35 - 0.3)
    assert gate_budget(encoder, decoder, budget=0.3, mode="joint", **masks).item() == pytest.approx(joint)
    separate = (abs(sum(in_encoder) / 20 - 0.3) + abs(sum(in_decoder) / 15 - 0.3)) / 2
    assert gate_budget(encoder, decoder, budget=0.3, mode="separate", **masks).item() == pytest.approx(separate)
    assert abs(joint - separate) > 1e-3
    everything = [value for layer in (*encoder, *decoder) for value in layer.flatten().tolist()]
    plain = abs(sum(everything) / len(everything) - 0.3)
    assert gate_budget(encoder, decoder, budget=0.3, mode="joint").item() == pytest.approx(plain)


def test_gate_budget_pulls_towards_the_budget_from_both_sides() -> None:
    """Prevents a squared or one-sided penalty: the gradient is ±1/n at any distance."""
    for start, sign in ((0.9, 1.0), (0.1, -1.0)):
        gates = torch.full((2, 5), start, requires_grad=True)
        gate_budget((gates,), (), budget=0.5, mode="joint").backward()
        torch.testing.assert_close(gates.grad, torch.full((2, 5), sign / 10))


def test_a_side_without_counted_gates_is_left_out() -> None:
    """Prevents an absent side from counting as a mean of 0, which would push the other side above the budget."""
    gates = torch.full((2, 5), 0.9)
    expected = pytest.approx(0.4)
    assert gate_budget((gates,), (), budget=0.5, mode="separate").item() == expected
    nothing = torch.zeros(2, 5, dtype=torch.bool)
    for mode in ("joint", "separate"):
        loss = gate_budget((gates,), (gates * 0,), budget=0.5, mode=mode, decoder_mask=nothing)
        assert loss.item() == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: cross_entropy(x, y, label_smoothing=1.0), "below 1, got 1.0"),
        (lambda x, y: cross_entropy(x, y[:, :2], label_smoothing=0.0), r"\(3, 2\)"),
        (lambda x, y: distillation(x, x, y, divergence="kd", temperature=1.0), "kl, js, got 'kd'"),
        (lambda x, y: distillation(x, x, y, divergence="kl", temperature=0.0), "above 0, got 0.0"),
        (lambda x, y: distillation(x, x[..., 1:], y, divergence="kl", temperature=1.0), r"\(3, 5, 6\): map"),
        (lambda x, y: gate_budget((), (), budget=0.5, mode="joint"), "at least one layer, got none"),
        (lambda x, y: gate_budget((x[..., 0],), (), budget=0.5, mode="both"), "joint, separate, got 'both'"),
        (lambda x, y: gate_budget((x[..., 0],), (), budget=50.0, mode="joint"), "between 0 and 1, got 50.0"),
        (lambda x, y: gate_budget((x,), (), budget=0.5, mode="joint"), r"\(batch, positions\).*\(3, 5, 7\)"),
        (
            lambda x, y: gate_budget((x[..., 0],), (), budget=0.5, mode="joint", row_mask=y != 0),
            r"row_mask must be \(3,\).*got \(3, 5\)",
        ),
    ],
)
def test_misuse_is_named(call, message: str) -> None:
    """Prevents broadcasting from giving a number for shapes that do not belong together."""
    student, _, labels = random_batch()
    with pytest.raises(ValueError, match=message):
        call(student, labels)
