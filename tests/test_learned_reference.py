"""The oracle of the learned memories against closed forms, other oracles, and loops written out case by case."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from titanlab.memory_modules.reference import (
    deep_memory_by_token,
    delta_rule_by_token,
    gated_delta_rule_by_token,
    learned_memory_by_token,
    linear_attention_by_token,
    momentum_delta_rule_by_token,
)
from titanlab.memory_modules.reference.learned_parts import newton_schulz

BATCH, TIME, HEADS, DIM = 2, 7, 2, 3
Result = tuple[Tensor, list[Tensor], list[Tensor]]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def constant(value: float, *shape: int) -> Tensor:
    return torch.full(shape, value, dtype=torch.float64)


def qkv(batch: int = BATCH, time: int = TIME, heads: int = HEADS, dim: int = DIM) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (random(batch, time, heads, dim, seed=seed) for seed in range(3))
    return q, F.normalize(k, dim=-1), v


def gate(seed: int, low: float = 0.0, width: int | None = None) -> Tensor:
    shape = (BATCH, TIME, HEADS) if width is None else (BATCH, TIME, HEADS, width)
    return low + (1 - low) * random(*shape, seed=seed).sigmoid()


def matrices(*widths: int, heads: int = HEADS) -> list[Tensor]:
    return [random(heads, i, o, seed=9 + i) / 2 for i, o in itertools.pairwise(widths)]


def swiglu_matrices() -> list[Tensor]:
    return [random(HEADS, *shape, seed=30 + i) for i, shape in enumerate([(DIM, 4), (4, DIM), (DIM, 4)])]


def learn(*sequence: Tensor, **options: Any) -> Result:
    """The oracle with usual gates for whatever is not given."""
    usual = {"keep": gate(3, 0.5), "momentum": None, "step": gate(5), "chunk_size": 1}
    return learned_memory_by_token(*sequence, **(usual | options))


def close(actual: Any, expected: Any, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0.0)


def matrix_gradient(w: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """k^T (k W - v), for one token of every sequence and head."""
    return outer(k, read(w, k) - v)


def outer(left: Tensor, right: Tensor) -> Tensor:
    return left[..., :, None] * right[..., None, :]


def mapped(x: Tensor, w: Tensor) -> Tensor:
    """Every token of x through its head's matrix."""
    return torch.einsum("bthi,hio->btho", x, w)


def read(w: Tensor, q: Tensor) -> Tensor:
    return (q[..., None, :] @ w)[..., 0, :]


def scale(values: Tensor) -> Tensor:
    return values[..., None, None]


# Equal to the other oracles


@pytest.mark.parametrize("optimizer", ["gradient", "momentum"])
@pytest.mark.parametrize("chunk_size", [1, 3])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("activation, residual", [("gelu", False), ("tanh", True)])
def test_l2_with_decay_is_the_deep_memory(
    depth: int, chunk_size: int, optimizer: str, activation: str, residual: bool
) -> None:
    weights, keep, step = matrices(DIM, *[4] * (depth - 1), DIM), gate(3, 0.5), gate(5)
    momentum = gate(4) if optimizer == "momentum" else None
    options: dict[str, Any] = {"chunk_size": chunk_size, "activation": activation, "residual": residual}
    expected = deep_memory_by_token(*qkv(), keep, momentum, step, weights, **options)
    gates: dict[str, Any] = {"keep": keep, "momentum": momentum, "step": step}
    close(learn(*qkv(), **gates, weights=weights, optimizer=optimizer, **options), expected)


def test_the_dot_objective_is_linear_attention_with_decay() -> None:
    (q, k, v), keep, step = qkv(), gate(3, 0.5), gate(5)
    y, (state,), _ = learn(q, k, v, weights=[constant(0.0, HEADS, DIM, DIM)], objective="dot", chunk_size=4)
    close((y, state), linear_attention_by_token(q, k, step[..., None] * v, keep.log()))


def test_a_matrix_without_gates_is_the_delta_rule() -> None:
    first = random(HEADS, DIM, DIM, seed=8)
    y, (state,), _ = learn(*qkv(), weights=[first], keep=None)
    close((y, state), delta_rule_by_token(*qkv(), gate(5), initial=first.expand(BATCH, -1, -1, -1)))


def test_momentum_on_a_matrix_is_the_momentum_delta_rule() -> None:
    y, state, surprise = learn(*qkv(), weights=[constant(0.0, HEADS, DIM, DIM)], momentum=gate(4), optimizer="momentum")
    expected, (state_t, surprise_t) = momentum_delta_rule_by_token(*qkv(), gate(3, 0.5), gate(4), gate(5))
    close((y, state, surprise), (expected, [state_t], [surprise_t]))


def test_gradients_at_the_decayed_matrix_are_the_gated_delta_rule() -> None:
    first = random(HEADS, DIM, DIM, seed=8)
    y, (state,), _ = learn(*qkv(), weights=[first], gradient_at="decayed")
    close(
        (y, state),
        gated_delta_rule_by_token(*qkv(), gate(3, 0.5).log(), gate(5), initial=first.expand(BATCH, -1, -1, -1)),
    )


def test_in_a_chunk_the_decayed_reference_is_the_start_times_all_decays_so_far() -> None:
    (q, k, v), keep, step = qkv(), gate(3, 0.5), gate(5)
    w = random(HEADS, DIM, DIM, seed=8).expand(BATCH, -1, -1, -1)
    outputs = []
    for t in range(TIME):
        if t % 3 == 0:
            start, decay = w, torch.ones_like(keep[:, 0])
        decay = decay * keep[:, t]
        w = scale(keep[:, t]) * w - scale(step[:, t]) * matrix_gradient(scale(decay) * start, k[:, t], v[:, t])
        outputs.append(read(w, q[:, t]))
    y, (state,), _ = learn(q, k, v, weights=[random(HEADS, DIM, DIM, seed=8)], gradient_at="decayed", chunk_size=3)
    close((y, state), (torch.stack(outputs, 1), w))


# Structures


def test_the_gradients_of_a_swiglu_are_those_of_its_formula() -> None:
    _, k, v = qkv(time=1)
    w_1, w_2, w_3 = weights = swiglu_matrices()
    _, learned, _ = learn(*qkv(time=1), weights=weights, structure="swiglu", objective="dot", keep=None, step=None)
    x = k[:, 0]
    gate_in, value = read(w_1, x), read(w_3, x)
    sigmoid = gate_in.sigmoid()
    hidden = gate_in * sigmoid * value
    back = read(w_2.mT, -v[:, 0])
    expected = [
        w_1 - outer(x, back * value * sigmoid * (1 + gate_in * (1 - sigmoid))),
        w_2 - outer(hidden, -v[:, 0]),
        w_3 - outer(x, back * gate_in * sigmoid),
    ]
    close(learned, expected)


def test_the_gradients_of_a_swiglu_agree_with_finite_differences() -> None:
    _, k, v = qkv(time=1)
    weights = swiglu_matrices()
    _, learned, _ = learn(*qkv(time=1), weights=weights, structure="swiglu", keep=None, step=None)

    def loss(ws: list[Tensor]) -> Tensor:
        x = k[0, 0, 0]
        return (((F.silu(x @ ws[0][0]) * (x @ ws[2][0])) @ ws[1][0] - v[0, 0, 0]) ** 2).sum() / 2

    for index, (row, column) in itertools.product(range(3), [(0, 0), (2, 1)]):
        nudge = torch.zeros_like(weights[index])
        nudge[0, row, column] = 1e-5
        up, down = ([w + sign * nudge if i == index else w for i, w in enumerate(weights)] for sign in (1, -1))
        slope = (loss(up) - loss(down)) / 2e-5
        close(weights[index][0, row, column] - learned[index][0, 0, row, column], slope, 1e-8)


def test_ttt_linear_learns_its_matrix_and_its_bias_through_the_layer_norm() -> None:
    q, k, v = qkv(time=2)
    first, norm = random(HEADS, DIM + 1, DIM, seed=8), (random(HEADS, DIM, seed=20), random(HEADS, DIM, seed=21))
    y, (state,), _ = learn(q, k, v, weights=[first], bias=True, norm=norm, keep=None, chunk_size=2)

    def answer(w: Tensor, b: Tensor, x: Tensor) -> Tensor:
        return F.layer_norm(torch.einsum("bhi,bhio->bho", x, w) + b, (DIM,), eps=1e-6) * norm[0] + norm[1]

    w, b = (part.expand(BATCH, *part.shape).clone().requires_grad_() for part in (first[:, :-1], first[:, -1]))
    w_t, b_t = w.detach(), b.detach()
    for t in range(2):  # the residual on both sides makes v - k the target of the norm's answer, as in the paper
        target = v[:, t] - k[:, t]
        slopes = torch.autograd.grad((answer(w, b, k[:, t]) - target).square().sum() / 2, (w, b))
        step = gate(5)[:, t]
        w_t, b_t = w_t - scale(step) * slopes[0], b_t - step[..., None] * slopes[1]
        close(y[:, t], q[:, t] + answer(w_t, b_t, q[:, t]))
    close(state, torch.cat((w_t, b_t[:, :, None]), dim=-2))


def test_the_perceptron_with_biases_adds_one_at_every_matrix() -> None:
    weights = [random(HEADS, DIM + 1, 4, seed=8), random(HEADS, 5, DIM, seed=9)]
    q, k, v = qkv()
    y, _, _ = learn(q, k, v, weights=weights, bias=True, activation="relu", control="frozen")
    (w_1, b_1), (w_2, b_2) = ((w[:, :-1], w[:, -1]) for w in weights)
    hidden = mapped(q, w_1) + b_1
    close(y, mapped(hidden.relu(), w_2) + b_2)


def test_keys_may_be_wider_than_values() -> None:
    _, _, v = qkv()
    q, k = (random(BATCH, TIME, HEADS, 6, seed=seed) for seed in (1, 2))
    y, learned, _ = learn(q, k, v, weights=matrices(6, 4, DIM), chunk_size=2)
    assert y.shape == v.shape
    assert [tuple(w.shape[2:]) for w in learned] == [(6, 4), (4, DIM)]


# Objectives


@pytest.mark.parametrize("chunk_size", [1, 3])
def test_the_objective_of_order_two_and_a_huber_that_is_never_reached_are_l2(chunk_size: int) -> None:
    options: dict[str, Any] = {"weights": matrices(DIM, 4, DIM), "chunk_size": chunk_size}
    expected = learn(*qkv(), **options)
    close(learn(*qkv(), objective="lp", p=2.0, **options), expected)
    close(learn(*qkv(), objective="huber", threshold=constant(1e3, BATCH, TIME, HEADS), **options), expected)


def one_token(value: list[float], **options: Any) -> Tensor:
    """What a matrix of zeros, shown one key (1, 0), holds for that key afterwards, with a step of 0.1."""
    k = torch.tensor([1.0, 0.0], dtype=torch.float64)[None, None, None]
    v = torch.tensor(value, dtype=torch.float64)[None, None, None]
    step, first = constant(0.1, 1, 1, 1), torch.zeros(1, 2, len(value)).double()
    y, _, _ = learned_memory_by_token(
        k, k, v, keep=None, momentum=None, step=step, weights=[first], chunk_size=1, **options
    )
    return y[0, 0, 0]


def test_the_objective_of_order_three_moves_by_the_square_of_every_error() -> None:
    close(one_token([2.0, -3.0], objective="lp", p=3.0), torch.tensor([0.4, -0.9], dtype=torch.float64))


def test_huber_beyond_its_threshold_moves_by_the_threshold_along_the_error() -> None:
    for threshold, expected in ((1.0, [0.06, 0.08]), (5.0, [0.3, 0.4]), (9.0, [0.3, 0.4])):
        delta = constant(threshold, 1, 1, 1)
        close(one_token([3.0, 4.0], objective="huber", threshold=delta), torch.tensor(expected, dtype=torch.float64))


def test_an_error_of_nothing_has_gradients_of_nothing() -> None:
    delta = constant(0.5, 1, 1, 1)
    for options in ({"objective": "huber", "threshold": delta}, {"objective": "lp", "p": 3.0}):
        close(one_token([0.0, 0.0], **options), constant(0.0, 2))


# Retentions


def lengths(w: Tensor) -> Tensor:
    return (w * w).sum(-2, keepdim=True).sqrt()


def weights_in_chunk(retention: str, a: Tensor, anchor: Tensor) -> Tensor:
    """What is read from A, when the non-linear part was last taken of `anchor`; the 4-norm to the power 4 - 2."""
    return {"lq": a / scale((anchor**4).sum((-2, -1)) ** 0.5), "softmax": anchor.softmax(-2), "unit": a}[retention]


def test_memora_per_token_is_its_equation() -> None:
    (q, k, v), keep, step = qkv(), gate(3, 0.5), gate(5)
    first = random(HEADS, DIM, DIM, seed=8)
    w = first.softmax(-2).expand(BATCH, -1, -1, -1)
    outputs = []
    for t in range(TIME):
        w = (scale(keep[:, t]) * w.log() - scale(step[:, t]) * matrix_gradient(w, k[:, t], v[:, t])).softmax(-2)
        close(w.sum(-2), constant(1.0, BATCH, HEADS, DIM))
        outputs.append(read(w, q[:, t]))
    y, (stored,), _ = learn(q, k, v, weights=[first], retention="softmax")
    close((y, stored.softmax(-2)), (torch.stack(outputs, 1), w))


def test_moneta_per_token_is_its_equation() -> None:
    (q, k, v), keep, step = qkv(), gate(3, 0.5), gate(5)
    a = first = random(HEADS, DIM, DIM, seed=8).expand(BATCH, -1, -1, -1)
    outputs = []
    for t in range(TIME):
        error = read(weights_in_chunk("lq", a, a), k[:, t]) - v[:, t]
        slope = outer(k[:, t], error.sign() * error.abs() ** 2)
        a = scale(keep[:, t]) * a - scale(step[:, t]) * slope
        outputs.append(read(weights_in_chunk("lq", a, a), q[:, t]))
    y, (stored,), _ = learn(q, k, v, weights=[first[0]], objective="lp", retention="lq")
    close((y, stored), (torch.stack(outputs, 1), a))


@pytest.mark.parametrize("retention", ["lq", "softmax", "unit"])
def test_in_a_chunk_only_what_is_linear_goes_on(retention: str) -> None:
    (q, k, v), keep, step = qkv(), gate(3, 0.5), gate(5)
    a = first = random(HEADS, DIM, DIM, seed=8).expand(BATCH, -1, -1, -1)
    outputs = []
    for t in range(TIME):
        if t % 3 == 0:
            anchor = a
        slope = matrix_gradient(weights_in_chunk(retention, anchor, anchor), k[:, t], v[:, t])
        a = scale(keep[:, t]) * a - scale(step[:, t]) * slope
        if t % 3 == 2 and retention == "unit":
            a = a / lengths(a) * lengths(first)
        outputs.append(read(weights_in_chunk(retention, a, a if t % 3 == 2 else anchor), q[:, t]))
    y, (stored,), _ = learn(q, k, v, weights=[first[0]], retention=retention, chunk_size=3)
    close((y, stored), (torch.stack(outputs, 1), a))


def test_the_norm_of_order_two_changes_nothing() -> None:
    options: dict[str, Any] = {"weights": matrices(DIM, 4, DIM), "chunk_size": 2}
    close(learn(*qkv(), retention="lq", norm_order=2.0, **options), learn(*qkv(), **options))


def test_unit_keeps_every_output_units_length() -> None:
    weights = swiglu_matrices()
    _, learned, _ = learn(*qkv(time=6), weights=weights, structure="swiglu", retention="unit", chunk_size=3)
    for before, after in zip(weights, learned, strict=True):
        close(after.norm(dim=-2), before.norm(dim=-2).expand(BATCH, -1, -1))
        assert (after - before).abs().max() > 0.01


# Optimizers


@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (6, 3)])
def test_newton_schulz_brings_singular_values_near_one_and_keeps_directions(shape: tuple[int, int]) -> None:
    s = random(50, *shape, seed=12)
    left, values, right = torch.linalg.svd(s, full_matrices=False)
    sound = (values[:, -1] / values[:, 0]) > 0.05
    answer = newton_schulz(s)
    rotated = left.mT @ answer @ right.mT
    close(rotated, torch.diag_embed(rotated.diagonal(dim1=-2, dim2=-1)))
    found = rotated.diagonal(dim1=-2, dim2=-1)[sound]
    assert sound.sum() > 25
    assert 0.65 < found.min() < 1.0 < found.max() < 1.3


def test_newton_schulz_of_one_row_is_the_polynomial_of_its_length() -> None:
    """A row has one singular value, so the iteration is one of numbers."""
    x = 1.0 / (1.0 + 1e-7 / 5.0)
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    row = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    close(newton_schulz(row), x * row / 5)
    close(newton_schulz(row.mT), x * row.mT / 5)
    assert math.isclose(x, 1.0, abs_tol=0.35)


def test_muon_steps_once_a_chunk_along_the_orthogonalised_sum() -> None:
    (q, k, v), keep, step = qkv(), gate(3, 0.5), gate(5)
    w = first = random(HEADS, DIM, DIM, seed=8).expand(BATCH, -1, -1, -1)
    outputs = []
    for t in range(TIME):
        if t % 3 == 0:
            start, total = w, torch.zeros_like(w)
        total = total + matrix_gradient(start, k[:, t], v[:, t])
        w = scale(keep[:, t]) * w
        if t % 3 == 2:
            w = w - scale(step[:, t]) * newton_schulz(total)
        outputs.append(read(w, q[:, t]))
    y, state, surprise = learn(q, k, v, weights=[first[0]], optimizer="muon", chunk_size=3)
    close((y, state, surprise), (torch.stack(outputs, 1), [w], [-total]))


# The window and the gates


@pytest.mark.parametrize("chunk_size", [1, 3])
def test_a_window_sums_over_its_tokens_across_chunks_at_the_present_reference(chunk_size: int) -> None:
    (q, k, v), keep, step, share = qkv(), gate(3, 0.5), gate(5), gate(6)
    w = random(HEADS, DIM, DIM, seed=8).expand(BATCH, -1, -1, -1)
    outputs = []
    for t in range(TIME):
        if t % chunk_size == 0:
            start = w
        total = torch.zeros_like(w)
        for i in (t - 3, t - 2, t - 1, t):
            if i >= 0:
                total = total + scale(share[:, i]) * matrix_gradient(start, k[:, i], v[:, i])
        w = scale(keep[:, t]) * w - scale(step[:, t]) * total
        outputs.append(read(w, q[:, t]))
    first = random(HEADS, DIM, DIM, seed=8)
    y, (state,), _ = learn(q, k, v, weights=[first], share=share, window=4, chunk_size=chunk_size)
    close((y, state), (torch.stack(outputs, 1), w))


def test_in_a_window_every_token_has_its_own_threshold() -> None:
    (q, k, v), first = qkv(time=2), random(HEADS, DIM, DIM, seed=8)
    threshold = torch.stack((constant(0.1, BATCH, HEADS), constant(0.7, BATCH, HEADS)), dim=1)
    options: dict[str, Any] = {"weights": [first], "objective": "huber", "keep": None, "step": None, "chunk_size": 2}
    _, (state,), _ = learn(q, k, v, threshold=threshold, window=2, **options)
    expected = first.expand(BATCH, -1, -1, -1)
    for t, times in ((0, 2), (1, 1)):  # the first token is met at both
        error = read(first, k[:, t]) - v[:, t]
        length = error.square().sum(-1, keepdim=True).sqrt()
        expected = expected - times * outer(k[:, t], error * (threshold[:, t, :, None] / length).clamp(max=1.0))
    close(state, expected)


def test_a_window_of_one_is_none_and_its_share_scales_the_step() -> None:
    options: dict[str, Any] = {"weights": matrices(DIM, 4, DIM), "chunk_size": 3}
    close(learn(*qkv(), window=1, **options), learn(*qkv(), **options))
    close(learn(*qkv(), share=gate(6), **options), learn(*qkv(), step=gate(5) * gate(6), **options))


def test_equal_channel_gates_are_a_scalar_gate() -> None:
    options: dict[str, Any] = {"weights": matrices(DIM, 4, DIM), "chunk_size": 3, "optimizer": "momentum"}
    wide = {
        name: [value[..., None].expand(*value.shape, width) for width in (4, DIM)]
        for name, value in (("keep", gate(3, 0.5)), ("momentum", gate(4)), ("step", gate(5)))
    }
    close(learn(*qkv(), **wide, **options), learn(*qkv(), momentum=gate(4), **options))


@pytest.mark.parametrize("gradient_at", ["undecayed", "decayed"])
def test_the_channels_of_a_matrix_are_memories_of_their_own(gradient_at: str) -> None:
    (q, k, v), first = qkv(), random(HEADS, DIM, DIM, seed=8)
    wide = {"keep": gate(3, 0.5, DIM), "momentum": gate(4, width=DIM), "step": gate(5, width=DIM)}
    options: dict[str, Any] = {"chunk_size": 3, "optimizer": "momentum", "gradient_at": gradient_at}
    y, _, _ = learn(q, k, v, weights=[first], **{name: [value] for name, value in wide.items()}, **options)
    for c in range(DIM):
        narrow = {name: value[..., c] for name, value in wide.items()}
        alone, _, _ = learn(q, k, v[..., c : c + 1], weights=[first[..., c : c + 1]], **narrow, **options)
        close(y[..., c : c + 1], alone)


# Controls


def test_ascent_is_a_negative_step() -> None:
    for optimizer in ("gradient", "momentum", "muon"):
        options: dict[str, Any] = {
            "weights": matrices(DIM, 4, DIM),
            "chunk_size": 3,
            "optimizer": optimizer,
            "momentum": gate(4),
        }
        close(learn(*qkv(), control="ascent", **options), learn(*qkv(), step=-gate(5), **options))


def test_keys_as_queries_reads_with_the_keys() -> None:
    q, k, v = qkv()
    options: dict[str, Any] = {"weights": matrices(DIM, 4, DIM), "chunk_size": 3}
    close(learn(q, k, v, control="keys_as_queries", **options), learn(k, k, v, **options))


@pytest.mark.parametrize("retention", ["decay", "softmax", "lq", "unit"])
def test_a_frozen_memory_answers_from_its_first_weights(retention: str) -> None:
    q, k, v = qkv()
    first = random(HEADS, DIM, DIM, seed=8)
    y, state, surprise = learn(q, k, v, weights=[first], retention=retention, control="frozen", chunk_size=2)
    four = (first**4).sum((-2, -1), keepdim=True) ** 0.5
    w = {"decay": first, "unit": first, "softmax": first.softmax(-2), "lq": first / four}[retention]
    close(y, mapped(q, w))
    close((state, surprise), ([first.expand(BATCH, -1, -1, -1)], [constant(0.0, BATCH, HEADS, DIM, DIM)]))


def test_initial_gradients_are_those_of_one_chunk() -> None:
    options: dict[str, Any] = {"weights": matrices(DIM, 4, DIM), "momentum": gate(4), "optimizer": "momentum"}
    expected = learn(*qkv(), chunk_size=TIME, **options)
    close(learn(*qkv(), chunk_size=2, control="initial_gradients", **options), expected)


def test_last_matrix_learns_the_last_matrix_on_features_that_stay() -> None:
    (q, k, v), (w_1, w_2) = qkv(), matrices(DIM, 4, DIM)
    y, learned, surprise = learn(q, k, v, weights=[w_1, w_2], control="last_matrix", chunk_size=2, optimizer="muon")
    features = [F.gelu(mapped(x, w_1), approximate="tanh") for x in (q, k)]
    expected = learn(*features, v, weights=[w_2], chunk_size=2, optimizer="muon")
    close((y, learned[1:], surprise[1:]), expected)
    close((learned[0], surprise[0]), (w_1.expand(BATCH, -1, -1, -1), constant(0.0, BATCH, *w_1.shape)))


def test_the_last_matrix_of_a_swiglu_is_its_second() -> None:
    (q, k, v), (w_1, w_2, w_3) = qkv(), swiglu_matrices()
    y, learned, _ = learn(q, k, v, weights=[w_1, w_2, w_3], structure="swiglu", control="last_matrix", chunk_size=2)
    features = [F.silu(mapped(x, w_1)) * mapped(x, w_3) for x in (q, k)]
    close((y, [learned[1]]), learn(*features, v, weights=[w_2], chunk_size=2)[:2])
    close([learned[0], learned[2]], [w.expand(BATCH, -1, -1, -1) for w in (w_1, w_3)])


# Promises of the whole


WHOLE = [
    {"structure": "swiglu", "objective": "dot", "retention": "unit", "optimizer": "muon"},
    {"objective": "lp", "retention": "lq"},
    {"objective": "huber", "optimizer": "momentum", "window": 3},
    {"retention": "softmax", "gradient_at": "decayed"},
]


def whole(options: dict[str, Any]) -> dict[str, Any]:
    weights = swiglu_matrices() if options.get("structure") == "swiglu" else matrices(DIM, 4, DIM)
    return {"weights": weights, "momentum": gate(4), "threshold": gate(7), "share": gate(6)} | options


@pytest.mark.parametrize("options", WHOLE, ids=str)
def test_what_comes_later_changes_nothing_before(options: dict[str, Any]) -> None:
    q, k, v = qkv()
    later = [torch.cat((x[:, :4], random(*x[:, 4:].shape, seed=40)), dim=1) for x in (q, k, v)]
    before, _, _ = learn(q, k, v, chunk_size=3, **whole(options))
    after, _, _ = learn(*later, chunk_size=3, **whole(options))
    assert (before[:, :4] - after[:, :4]).abs().max() == 0.0
    assert (before[:, 4:] - after[:, 4:]).abs().min() > 0.0


@pytest.mark.parametrize("options", WHOLE, ids=str)
def test_gradients_flow_to_every_input_through_every_update(options: dict[str, Any]) -> None:
    gates: dict[str, Any] = {
        name: 0.5 + random(1, 3, 1, seed=50 + i).sigmoid() / 2 for i, name in enumerate(("keep", "step", "threshold"))
    }
    first = [random(1, *shape, seed=60) for shape in ([(2, 2)] * (3 if options.get("structure") == "swiglu" else 2))]
    inputs = [random(1, 3, 1, 2, seed=70 + i) for i in range(3)] + list(gates.values()) + first

    def outputs(*tensors: Tensor) -> Tensor:
        named: dict[str, Any] = dict(zip(gates, tensors[3:6], strict=True))
        momentum = constant(0.3, 1, 3, 1)
        q, k, v = tensors[:3]
        y, state, _ = learned_memory_by_token(
            q, k, v, **named, momentum=momentum, weights=tensors[6:], chunk_size=2, **options
        )
        return torch.cat([y.flatten(), *(w.flatten() for w in state)])

    assert torch.autograd.gradcheck(outputs, [x.requires_grad_() for x in inputs], atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"structure": "tree"},
        {"objective": "l7"},
        {"retention": "none"},
        {"optimizer": "adam"},
        {"gradient_at": "half"},
        {"control": "off"},
        {"objective": "huber"},
    ],
    ids=str,
)
def test_an_unknown_name_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        learn(*qkv(), weights=matrices(DIM, DIM), **options)
