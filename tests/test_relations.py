"""What the memory rules must equal, and what they must not: cases worked out by hand and known special cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from titanlab.memory_modules.functional import deep_memory, delta_rule
from titanlab.memory_modules.reference import deep_memory_by_token, delta_rule_by_token

TIME, HEADS, DIM = 12, 2, 3


def numbers(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def sequence(*tokens: Any) -> Tensor:
    """One sequence of one head: [1, t, 1, d] from lists, [1, t, 1] from numbers."""
    return numbers(*tokens)[None, :, None]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def qkv() -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (random(2, TIME, HEADS, DIM, seed=seed) for seed in range(3))
    return q, torch.nn.functional.normalize(k, dim=-1), v


def gate(seed: int) -> Tensor:
    return random(2, TIME, HEADS, seed=seed).sigmoid()


def matrices(depth: int) -> list[Tensor]:
    widths = [DIM, *[4] * (depth - 1), DIM]
    return [random(HEADS, i, o, seed=9 + i) / 2 for i, o in zip(widths, widths[1:], strict=False)]


def close(actual: Any, expected: Any, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0.0)


def fast_form(*arguments: Any, **options: Any) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    y, state = deep_memory(*arguments, **options)
    return y, list(state.weights), list(state.momentum)


deep_forms = pytest.mark.parametrize("rule", [fast_form, deep_memory_by_token], ids=["fast", "reference"])


# Worked out by hand, from the equations of the paper


@deep_forms
@pytest.mark.parametrize("chunk_size, momentum, weight", [(1, -0.15, 0.05), (2, -0.75, -0.55)])
def test_two_tokens_of_a_linear_memory_by_hand(
    rule: Callable[..., Any], chunk_size: int, momentum: float, weight: float
) -> None:
    # M(x) = x W with one number W_0 = 1, S_0 = 0.
    # Token 1: k = 1, v = 0, q = 2, keep 0.9, momentum 0.5, step 0.5.
    #   grad = k (k W_0 - v) = 1 (1 - 0) = 1;  S_1 = 0 - 0.5 * 1 = -0.5;  W_1 = 0.9 * 1 - 0.5 = 0.4;  y = 2 W_1 = 0.8
    # Token 2: k = 2, v = 1, q = 1, keep 0.5, momentum 0.5, step 0.25.
    #   chunk 1, gradient at W_1: grad = 2 (2 * 0.4 - 1) = -0.4;  S_2 = -0.25 + 0.1 = -0.15;  W_2 = 0.2 - 0.15 = 0.05
    #   chunk 2, gradient at W_0: grad = 2 (2 * 1 - 1)   = 2;     S_2 = -0.25 - 0.5 = -0.75;  W_2 = 0.2 - 0.75 = -0.55
    y, weights, surprise = rule(
        sequence([2.0], [1.0]),
        sequence([1.0], [2.0]),
        sequence([0.0], [1.0]),
        sequence(0.9, 0.5),
        sequence(0.5, 0.5),
        sequence(0.5, 0.25),
        [numbers([[1.0]])],
        chunk_size=chunk_size,
    )
    close(y.flatten(), numbers(0.8, weight))
    close(weights[0].item(), weight)
    close(surprise[0].item(), momentum)


@deep_forms
@pytest.mark.parametrize("residual, value, read", [(False, 1.0, 0.5), (True, 3.0, -1.5)])
def test_one_token_of_a_two_layer_memory_by_hand(
    rule: Callable[..., Any], residual: bool, value: float, read: float
) -> None:
    # M(x) = relu(x W_1) W_2, W_1 = [1, -1], W_2 = [1, 1]^T. k = 2: relu([2, -2]) = [2, 0], MLP(k) = 2.
    # Without the residual v = 1, with it M(k) = 2 + 2 and v = 3: the error M(k) - v is 1 either way, and so
    #   grad W_2 = [2, 0]^T * 1;  grad W_1 = 2 * ([1, 1] masked by relu' to [1, 0]) = [2, 0]
    # step 0.25 and keep 0.5: W_1 = [0.5, -0.5] - [0.5, 0] = [0, -0.5];  W_2 = [0.5, 0.5]^T - [0.5, 0]^T = [0, 0.5]^T.
    # q = -2: relu([0, 1]) = [0, 1], MLP(q) = 0.5;  with the residual -2 + 0.5 = -1.5.
    y, weights, _ = rule(
        sequence([-2.0]),
        sequence([2.0]),
        sequence([value]),
        sequence(0.5),
        None,
        sequence(0.25),
        [numbers([[1.0, -1.0]]), numbers([[1.0], [1.0]])],
        chunk_size=1,
        residual=residual,
        activation="relu",
    )
    close(y.item(), read)
    close(weights[0].flatten(), numbers(0.0, -0.5))
    close(weights[1].flatten(), numbers(0.0, 0.5))


@deep_forms
def test_momentum_alone_goes_on_writing_after_the_step_is_zero(rule: Callable[..., Any]) -> None:
    # W_0 = 0, k = v = 1 at token 1 with step 1: grad = -1, S_1 = 1, W_1 = 1. Then step 0, momentum 1/2:
    # S = 1/2, 1/4, 1/8 and W = 3/2, 7/4, 15/8.
    ones = sequence([1.0], [1.0], [1.0], [1.0])
    y, _, _ = rule(
        ones,
        ones,
        ones,
        None,
        sequence(0.5, 0.5, 0.5, 0.5),
        sequence(1.0, 0.0, 0.0, 0.0),
        [numbers([[0.0]])],
        chunk_size=3,
    )
    close(y.flatten(), numbers(1.0, 1.5, 1.75, 1.875))


@pytest.mark.parametrize(
    "rule",
    [lambda *x: delta_rule(*x, chunk_size=1), lambda *x: delta_rule(*x, chunk_size=3), delta_rule_by_token],
    ids=["chunk 1", "chunk 3", "reference"],
)
def test_three_tokens_of_the_delta_rule_by_hand(rule: Callable[..., Any]) -> None:
    # S_0 = 0. Token 1: k = (1, 0), v = (4, 8), beta 1/2: S = [[2, 4], [0, 0]];          q = (1, 1) reads (2, 4)
    # Token 2: k = (1, 0), v = (4, 0), beta 1: error (2, -4), S = [[4, 0], [0, 0]];       q = (1, 1) reads (4, 0)
    # Token 3: k = (1, 1), v = (0, 2), beta 1/2: error (-4, 2), half of it to both rows:
    #          S = [[2, 1], [-2, 1]];                                                    q = (1, 1) reads (0, 2)
    y, state = rule(
        sequence([1.0, 1.0], [1.0, 1.0], [1.0, 1.0]),
        sequence([1.0, 0.0], [1.0, 0.0], [1.0, 1.0]),
        sequence([4.0, 8.0], [4.0, 0.0], [0.0, 2.0]),
        sequence(0.5, 1.0, 0.5),
    )
    close(y[0, :, 0], numbers([2.0, 4.0], [4.0, 0.0], [0.0, 2.0]))
    close(state[0, 0], numbers([2.0, 1.0], [-2.0, 1.0]))


# Special cases


@pytest.mark.parametrize("chunk_size", [1, 5, TIME])
def test_a_linear_memory_without_gates_and_with_chunks_of_one_is_the_delta_rule(chunk_size: int) -> None:
    """DeltaNet: W_t = W_{t-1} - step k^T (k W_{t-1} - v), whatever the delta rule's own chunk size."""
    q, k, v = qkv()
    step, (weight,) = gate(3), matrices(1)
    y, state = deep_memory(q, k, v, None, None, step, [weight], chunk_size=1)
    start = weight.expand(2, -1, -1, -1)
    expected, end = delta_rule(q, k, v, step, chunk_size=chunk_size, state=start)
    close(y, expected)
    close(state.weights[0], end)


def test_a_linear_memory_with_longer_chunks_is_not_the_delta_rule() -> None:
    q, k, v = qkv()
    step, (weight,) = gate(3), matrices(1)
    expected, _ = delta_rule(q, k, v, step, chunk_size=4, state=weight.expand(2, -1, -1, -1))
    y, _ = deep_memory(q, k, v, None, None, step, [weight], chunk_size=4)
    difference = (y - expected).abs().amax(dim=(0, 2, 3))
    assert difference[0] < 1e-12  # the first token's reference is the same
    assert difference[1:].amin() > 1e-3


def test_a_linear_memory_in_one_chunk_is_one_step_of_batch_gradient_descent() -> None:
    """Without gates, W_T = W_0 - sum_t step_t k_t^T (k_t W_0 - v_t)."""
    q, k, v = qkv()
    step, (weight,) = gate(3), matrices(1)
    _, state = deep_memory(q, k, v, None, None, step, [weight], chunk_size=TIME)
    error = torch.einsum("bthi,hio->btho", k, weight) - v
    close(state.weights[0], weight - torch.einsum("bth,bthi,btho->bhio", step, k, error))


def test_a_gradient_at_every_start_of_the_sequence_is_another_rule() -> None:
    """The negative control of one chunk as long as the sequence: all gradients at W_0."""
    q, k, v = qkv()
    exact, _ = deep_memory(q, k, v, gate(4), gate(5), gate(3), matrices(2), chunk_size=1)
    control, _ = deep_memory(q, k, v, gate(4), gate(5), gate(3), matrices(2), chunk_size=TIME)
    close(control[:, 0], exact[:, 0])
    assert (control - exact)[:, 1:].abs().amax(dim=(0, 2, 3)).amin() > 1e-3


def test_keep_decays_beside_the_delta_step_and_not_before_it_as_gated_deltanet_does() -> None:
    """Titans, W_t = keep W_{t-1} - step k^T (k W_{t-1} - v), takes its gradient at the undecayed memory.

    Gated DeltaNet, W_t = keep (I - step k^T k) W_{t-1} + step k^T v, takes it at the decayed one.
    """
    q, k, v = qkv()
    keep, step, (weight,) = gate(4), gate(3), matrices(1)
    titans = gated = weight.expand(2, -1, -1, -1)
    for t in range(TIME):
        keep_t, step_t = keep[:, t, :, None, None], step[:, t, :, None, None]
        k_t, v_t = k[:, t, :, None, :], v[:, t, :, None, :]  # rows
        titans = keep_t * titans - step_t * k_t.mT @ (k_t @ titans - v_t)
        gated = keep_t * (gated - step_t * k_t.mT @ (k_t @ gated)) + step_t * k_t.mT @ v_t
    _, state = deep_memory(q, k, v, keep, None, step, [weight], chunk_size=1)
    close(state.weights[0], titans)
    assert (titans - gated).norm() > 0.01 * titans.norm()


@pytest.mark.parametrize("chunk_size", [1, 5, TIME])
@pytest.mark.parametrize("depth", [1, 3])
def test_momentum_0_is_no_momentum(depth: int, chunk_size: int) -> None:
    q, k, v = qkv()
    zeros = torch.zeros(2, TIME, HEADS, dtype=torch.float64)
    off, state_off = deep_memory(q, k, v, gate(4), None, gate(3), matrices(depth), chunk_size=chunk_size)
    zero, state_zero = deep_memory(q, k, v, gate(4), zeros, gate(3), matrices(depth), chunk_size=chunk_size)
    close(zero, off)
    close(list(state_zero.weights), list(state_off.weights))


@pytest.mark.parametrize("momentum", [None, gate(5)], ids=["no momentum", "momentum"])
def test_keep_1_is_no_keep(momentum: Tensor | None) -> None:
    q, k, v = qkv()
    ones = torch.ones(2, TIME, HEADS, dtype=torch.float64)
    off, state_off = deep_memory(q, k, v, None, momentum, gate(3), matrices(2), chunk_size=5)
    one, state_one = deep_memory(q, k, v, ones, momentum, gate(3), matrices(2), chunk_size=5)
    close(one, off)
    close(list(state_one.weights), list(state_off.weights))
    close(list(state_one.momentum), list(state_off.momentum))


@pytest.mark.parametrize("momentum", [None, gate(5)], ids=["no momentum", "momentum"])
def test_step_0_reads_the_initial_memory_and_never_writes(momentum: Tensor | None) -> None:
    q, k, v = qkv()
    first, second = matrices(2)
    zeros = torch.zeros(2, TIME, HEADS, dtype=torch.float64)
    y, state = deep_memory(q, k, v, None, momentum, zeros, [first, second], chunk_size=5)
    hidden = torch.nn.functional.gelu(torch.einsum("bthi,him->bthm", q, first), approximate="tanh")
    close(y, torch.einsum("bthm,hmo->btho", hidden, second))
    close(state.weights[0], first.expand(2, -1, -1, -1))
    close(state.weights[1], second.expand(2, -1, -1, -1))


def test_the_residual_of_a_linear_memory_is_an_identity_added_to_its_matrix() -> None:
    """x + x W = x (W + I); without a keep gate the identity does not decay."""
    q, k, v = qkv()
    (weight,), identity = matrices(1), torch.eye(DIM, dtype=torch.float64)
    plain, state_plain = deep_memory(q, k, v, None, gate(5), gate(3), [weight + identity], chunk_size=5)
    residual, state = deep_memory(q, k, v, None, gate(5), gate(3), [weight], chunk_size=5, residual=True)
    close(residual, plain)
    close(state.weights[0] + identity, state_plain.weights[0])


def test_values_that_the_memory_already_gives_leave_it_unchanged() -> None:
    q, k, _ = qkv()
    weights = matrices(2)
    hidden = torch.nn.functional.gelu(torch.einsum("bthi,him->bthm", k, weights[0]), approximate="tanh")
    known = torch.einsum("bthm,hmo->btho", hidden, weights[1])
    _, state = deep_memory(q, k, known, None, gate(5), gate(3), weights, chunk_size=5)
    close(state.weights[0], weights[0].expand(2, -1, -1, -1))
    close(state.weights[1], weights[1].expand(2, -1, -1, -1))
