"""The delta rule as a function, exact per token for every chunk length."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from titanlab.memory_modules.functional import delta_rule
from titanlab.memory_modules.reference import delta_rule_by_token

TIME = 13
Arguments = tuple[Tensor, Tensor, Tensor, Tensor]


def make(time: int = TIME, batch: int = 2, heads: int = 2, key: int = 3, value: int = 4) -> Arguments:
    """Queries, unit keys, values and betas between 0 and 1, in float64."""
    random = torch.Generator().manual_seed(time)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    k = torch.nn.functional.normalize(normal(batch, time, heads, key), dim=-1)
    beta = torch.rand(batch, time, heads, generator=random, dtype=torch.float64)
    return normal(batch, time, heads, key), k, normal(batch, time, heads, value), beta


def initial(batch: int = 2, heads: int = 2, key: int = 3, value: int = 4) -> Tensor:
    return torch.randn(batch, heads, key, value, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def close(actual: Any, expected: Any, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0.0)


def gradients(rule: Any, arguments: tuple[Tensor, ...], **options: Any) -> list[Tensor]:
    """Gradients of a random sum of outputs and final state in q, k, v, beta and the initial state."""
    *sequence, start = (x.clone().requires_grad_() for x in arguments)
    name = "initial" if rule is delta_rule_by_token else "state"
    y, end = rule(*sequence, **{name: start}, **options)
    random = torch.Generator().manual_seed(7)
    loss = sum((x * torch.randn(x.shape, generator=random, dtype=x.dtype)).sum() for x in (y, end))
    return list(torch.autograd.grad(loss, [*sequence, start]))


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5, 8, TIME, 64])
def test_every_chunk_size_equals_the_recurrence(chunk_size: int) -> None:
    y, state = delta_rule(*make(), chunk_size=chunk_size)
    expected, end = delta_rule_by_token(*make())
    close(y, expected, 1e-10)
    close(state, end, 1e-10)


@pytest.mark.parametrize("chunk_size", [1, 5, 64])
def test_a_state_handed_in_is_continued_exactly(chunk_size: int) -> None:
    y, state = delta_rule(*make(), chunk_size=chunk_size, state=initial())
    expected, end = delta_rule_by_token(*make(), initial=initial())
    close(y, expected, 1e-10)
    close(state, end, 1e-10)


@pytest.mark.parametrize("chunk_size", [1, 5, 64])
def test_gradients_of_everything_equal_those_through_the_recurrence(chunk_size: int) -> None:
    arguments = (*make(), initial())
    exact = gradients(delta_rule_by_token, arguments)
    close(gradients(delta_rule, arguments, chunk_size=chunk_size), exact, 1e-9)


def test_gradients_pass_gradcheck() -> None:
    arguments = (*make(time=4, batch=1, heads=1, key=2, value=3), initial(1, 1, 2, 3))
    leaves = tuple(x.requires_grad_() for x in arguments)
    assert torch.autograd.gradcheck(lambda q, k, v, b, s: delta_rule(q, k, v, b, chunk_size=3, state=s), leaves)


@pytest.mark.parametrize("chunk_size", [1, 5, 64])
@pytest.mark.parametrize("cuts", [(1,), (5,), (7,), (2, 3, 11), tuple(range(1, TIME))])
def test_a_sequence_cut_anywhere_equals_one_call(cuts: tuple[int, ...], chunk_size: int) -> None:
    whole, end = delta_rule(*make(), chunk_size=chunk_size)
    state, outputs = None, []
    for start, stop in zip((0, *cuts), (*cuts, TIME), strict=True):
        y, state = delta_rule(*(x[:, start:stop] for x in make()), chunk_size=chunk_size, state=state)
        outputs.append(y)
    close(torch.cat(outputs, 1), whole, 1e-12)
    close(state, end, 1e-12)


def test_beta_0_never_writes() -> None:
    q, k, v, beta = make()
    y, state = delta_rule(q, k, v, torch.zeros_like(beta), chunk_size=5, state=initial())
    close(state, initial(), 0.0)
    close(y, torch.einsum("bhkv,bthk->bthv", initial(), q), 1e-12)


def test_beta_1_reads_back_what_was_just_written_at_a_unit_key() -> None:
    _, k, v, beta = make()
    y, _ = delta_rule(k, k, v, torch.ones_like(beta), chunk_size=5, state=initial())
    close(y, v, 1e-12)


def test_beta_0_and_1_mixed_equal_the_recurrence_with_gradients() -> None:
    q, k, v, beta = make()
    hard = (beta > 0.5).double()
    close(delta_rule(q, k, v, hard, chunk_size=5), delta_rule_by_token(q, k, v, hard), 1e-10)
    arguments = (q, k, v, hard, initial())
    close(gradients(delta_rule, arguments, chunk_size=5), gradients(delta_rule_by_token, arguments), 1e-9)


def test_one_key_written_again_and_again_holds_its_last_value() -> None:
    q, k, v, beta = make(time=40)
    same = k[:, :1].expand_as(k)
    y, state = delta_rule(same, same, v, torch.ones_like(beta), chunk_size=16)
    close(y, v, 1e-12)
    close(state, torch.einsum("bhk,bhv->bhkv", k[:, 0], v[:, -1]), 1e-12)


@pytest.mark.parametrize("token", [0, 4, 5, 12])
def test_future_inputs_do_not_change_past_outputs(token: int) -> None:
    changed = tuple(x.clone() for x in make())
    for x in changed:
        x[:, token] = torch.rand_like(x[:, token])
    difference = delta_rule(*changed, chunk_size=5)[0] - delta_rule(*make(), chunk_size=5)[0]
    assert difference[:, :token].abs().sum().item() == 0.0
    assert difference[:, token:].abs().amin() > 0.0


@pytest.mark.parametrize("axis", [0, 2], ids=["sequences of a batch", "heads"])
def test_one_sequence_or_head_does_not_affect_another(axis: int) -> None:
    arguments = make(batch=3, heads=3)
    changed = tuple(x.clone() for x in arguments)
    for x in changed:
        x.select(axis, 1).copy_(torch.rand_like(x.select(axis, 1)))
    (before, state_before), (after, state_after) = (delta_rule(*x, chunk_size=5) for x in (arguments, changed))
    others = torch.tensor([0, 2])
    assert (after - before).index_select(axis, others).abs().sum().item() == 0.0
    assert (after - before).select(axis, 1).abs().amin() > 0.0
    assert (state_after - state_before).index_select(min(axis, 1), others).abs().sum().item() == 0.0


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_lower_precision_comes_back_in_its_own_type_near_the_exact_result(dtype: torch.dtype, tolerance: float) -> None:
    arguments = tuple(x.to(dtype) for x in make(time=50))
    y, state = delta_rule(*arguments, chunk_size=16)
    expected, end = delta_rule_by_token(*(x.double() for x in arguments))
    assert (y.dtype, state.dtype) == (dtype, torch.float32)
    assert (y.double() - expected).norm() < tolerance * expected.norm()
    assert (state.double() - end).norm() < tolerance * end.norm()


def test_autocast_changes_nothing() -> None:
    arguments = tuple(x.float() for x in make())
    plain = delta_rule(*arguments, chunk_size=5)
    with torch.autocast("cpu", torch.bfloat16):
        cast = delta_rule(*arguments, chunk_size=5)
    close(cast, plain, 0.0)


def test_no_tokens_give_no_outputs_and_leave_the_state_as_it_was() -> None:
    y, state = delta_rule(*(x[:, :0] for x in make()), chunk_size=5, state=initial())
    assert y.shape == (2, 0, 2, 4)
    close(state, initial(), 0.0)


def test_32768_tokens_stay_finite_with_their_gradients() -> None:
    leaves = [x.float().requires_grad_() for x in make(time=32_768, batch=1, heads=1, key=4, value=4)]
    y, state = delta_rule(*leaves, chunk_size=128)
    for x in [y, state, *torch.autograd.grad(y.square().mean(), leaves)]:
        assert torch.isfinite(x).all()


@pytest.mark.parametrize(
    "position, change, message",
    [
        (0, lambda x: x[:, :, 0], r"q.*2, 13, 3"),
        (1, lambda x: x[:, :-1], r"2, 12, 2, 3.*\bk\b"),
        (1, lambda x: x[..., :2], r"2, 13, 2, 2.*\bk\b"),
        (2, lambda x: x[:1], r"v.*1, 13, 2, 4"),
        (3, lambda x: x[..., 0], r"beta.*2, 13"),
    ],
)
def test_mismatched_shapes_are_refused_with_their_name(position: int, change: Any, message: str) -> None:
    arguments = list(make())
    arguments[position] = change(arguments[position])
    with pytest.raises(ValueError, match=message):
        delta_rule(*arguments, chunk_size=5)


def test_a_chunk_size_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"chunk_size.*0"):
        delta_rule(*make(), chunk_size=0)


def test_a_state_of_another_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"state.*3, 2, 3, 4"):
        delta_rule(*make(), chunk_size=5, state=initial(batch=3))
