"""The matrix rules as functions: each exact per token for every chunk length, whatever the gates, and causal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from titanlab.memory_modules import functional, reference
from titanlab.memory_modules.kernels import channel_decay

TIME = 19
DOUBLE = torch.float64


class Sizes(NamedTuple):
    """Batch, time, heads, key and value width."""

    b: int = 2
    t: int = TIME
    h: int = 2
    key: int = 3
    value: int = 4


class Random:
    """Arguments in float64."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=DOUBLE)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, dtype=DOUBLE)


class Rule(NamedTuple):
    """A rule, its oracle, and the names and shapes of its arguments after q, k, v."""

    fast: Callable[..., Any]
    exact: Callable[..., Any]
    names: tuple[str, ...]
    make: Callable[[Random, Sizes], list[Tensor]]


def sequence(random: Random, s: Sizes) -> list[Tensor]:
    """Queries, unit keys and values."""
    k = torch.nn.functional.normalize(random.normal(s.b, s.t, s.h, s.key), dim=-1)
    return [random.normal(s.b, s.t, s.h, s.key), k, random.normal(s.b, s.t, s.h, s.value)]


def without_gates(random: Random, s: Sizes) -> list[Tensor]:
    return sequence(random, s)


def with_head_decay(random: Random, s: Sizes) -> list[Tensor]:
    return [*sequence(random, s), random.uniform(s.b, s.t, s.h).log()]


def with_channel_decay(random: Random, s: Sizes) -> list[Tensor]:
    return [*sequence(random, s), random.uniform(s.b, s.t, s.h, s.key).log()]


def gated_delta(random: Random, s: Sizes) -> list[Tensor]:
    return [*with_head_decay(random, s), random.uniform(s.b, s.t, s.h)]


def momentum_delta(random: Random, s: Sizes) -> list[Tensor]:
    gates = random.uniform(3, s.b, s.t, s.h)
    return [*sequence(random, s), gates[0], gates[1] * 0.99, gates[2]]


def goose(random: Random, s: Sizes) -> list[Tensor]:
    """r, log_w, k, v, a, b as the layer makes them, but for a little more freedom of a and b."""
    r, k, v = sequence(random, s)
    removed = torch.nn.functional.normalize(random.normal(s.b, s.t, s.h, s.key), dim=-1)
    written = removed * random.uniform(s.b, s.t, s.h, s.key) + 0.1 * random.normal(s.b, s.t, s.h, s.key)
    return [r, random.uniform(s.b, s.t, s.h, s.key).log(), k, v, -removed, written]


QKV = ("q", "k", "v")
RULES = {
    "linear_attention": Rule(functional.linear_attention, reference.linear_attention_by_token, QKV, without_gates),
    "decay of a head": Rule(
        functional.linear_attention, reference.linear_attention_by_token, (*QKV, "log_decay"), with_head_decay
    ),
    "decay of a channel": Rule(
        functional.linear_attention, reference.linear_attention_by_token, (*QKV, "log_decay"), with_channel_decay
    ),
    "gated_delta_rule": Rule(
        functional.gated_delta_rule, reference.gated_delta_rule_by_token, (*QKV, "log_decay", "beta"), gated_delta
    ),
    "momentum_delta_rule": Rule(
        functional.momentum_delta_rule,
        reference.momentum_delta_rule_by_token,
        (*QKV, "keep", "momentum", "step"),
        momentum_delta,
    ),
    "rwkv7": Rule(functional.rwkv7, reference.rwkv7_by_token, ("r", "log_w", "k", "v", "a", "b"), goose),
}
over_rules = pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
over_chunks = pytest.mark.parametrize("chunk_size", [1, 2, 5, 8, TIME, 64])


def arguments_of(rule: Rule, sizes: Sizes | None = None, seed: int = 0) -> list[Tensor]:
    return rule.make(Random(seed), sizes or Sizes())


def initial_of(rule: Rule, sizes: Sizes | None = None, seed: int = 5) -> Any:
    s, random = sizes or Sizes(), Random(seed)
    shape = (s.b, s.h, s.key, s.value)
    if rule.fast is functional.momentum_delta_rule:
        return random.normal(*shape), random.normal(*shape)
    return random.normal(*shape)


def close(actual: Any, expected: Any, tolerance: float) -> None:
    actual, expected = tree_leaves(actual), tree_leaves(expected)
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=0.0)


def gradients(function: Callable[..., Any], arguments: list[Tensor], keyword: str, start: Any, **options: Any) -> Any:
    """Gradients of a random sum of outputs and final state in every argument and in the initial state."""
    leaves = [x.clone().requires_grad_() for x in arguments]
    start = tree_map(lambda x: x.clone().requires_grad_(), start)
    results = function(*leaves, **{keyword: start}, **options)
    random = Random(7)
    loss = torch.stack([(x * random.normal(*x.shape)).sum() for x in tree_leaves(results)]).sum()
    return torch.autograd.grad(loss, [*leaves, *tree_leaves(start)])


@over_rules
@over_chunks
def test_every_chunk_size_equals_the_recurrence(rule: Rule, chunk_size: int) -> None:
    arguments = arguments_of(rule)
    close(rule.fast(*arguments, chunk_size=chunk_size), rule.exact(*arguments), 1e-10)
    start = initial_of(rule)
    close(rule.fast(*arguments, chunk_size=chunk_size, state=start), rule.exact(*arguments, initial=start), 1e-10)


@over_rules
@pytest.mark.parametrize("chunk_size", [1, 5, 64])
def test_gradients_of_everything_equal_those_through_the_recurrence(rule: Rule, chunk_size: int) -> None:
    arguments, start = arguments_of(rule), initial_of(rule)
    exact = gradients(rule.exact, arguments, "initial", start)
    close(gradients(rule.fast, arguments, "state", start, chunk_size=chunk_size), exact, 1e-10)


@over_rules
def test_gradients_pass_gradcheck(rule: Rule) -> None:
    sizes = Sizes(b=1, t=4, h=1, key=2, value=3)
    arguments = [x.requires_grad_() for x in arguments_of(rule, sizes)]
    starts = [x.requires_grad_() for x in tree_leaves(initial_of(rule, sizes))]

    def run(*leaves: Tensor) -> tuple[Tensor, ...]:
        state = leaves[len(arguments) :]
        y, after = rule.fast(
            *leaves[: len(arguments)], chunk_size=3, state=tuple(state) if len(state) > 1 else state[0]
        )
        return (y, *tree_leaves(after))

    assert torch.autograd.gradcheck(run, (*arguments, *starts))


@over_rules
@pytest.mark.parametrize("chunk_size", [1, 5, 64])
@pytest.mark.parametrize("cuts", [(1,), (7,), (2, 3, 17), tuple(range(1, TIME))])
def test_a_sequence_cut_anywhere_equals_one_call(rule: Rule, cuts: tuple[int, ...], chunk_size: int) -> None:
    arguments = arguments_of(rule)
    whole, end = rule.fast(*arguments, chunk_size=chunk_size)
    state, outputs = None, []
    for start, stop in zip((0, *cuts), (*cuts, TIME), strict=True):
        y, state = rule.fast(*(x[:, start:stop] for x in arguments), chunk_size=chunk_size, state=state)
        outputs.append(y)
    close(torch.cat(outputs, 1), whole, 1e-11)
    close(state, end, 1e-11)


@over_rules
@pytest.mark.parametrize("token", [0, 4, 5, 12])
def test_future_inputs_do_not_change_past_outputs(rule: Rule, token: int) -> None:
    arguments = arguments_of(rule)
    before, _ = rule.fast(*arguments, chunk_size=5)
    other = arguments_of(rule, seed=1)
    edited = [
        torch.cat([x[:, :token], y[:, token : token + 1], x[:, token + 1 :]], 1)
        for x, y in zip(arguments, other, strict=True)
    ]
    change = (rule.fast(*edited, chunk_size=5)[0] - before).abs()
    assert change[:, :token].sum().item() == 0.0
    assert change[:, token].amin() > 0.0 and change[:, token + 1].amax() > 0.0


@over_rules
@pytest.mark.parametrize("axis", [0, 2], ids=["sequences of a batch", "heads"])
def test_one_sequence_or_head_does_not_affect_another(rule: Rule, axis: int) -> None:
    sizes = Sizes(b=3, h=3)
    arguments, other = arguments_of(rule, sizes), arguments_of(rule, sizes, seed=1)
    edited = [x.clone() for x in arguments]
    for x, y in zip(edited, other, strict=True):
        x.select(axis, 1).copy_(y.select(axis, 1))
    before, after = (rule.fast(*x, chunk_size=5) for x in (arguments, edited))
    others = torch.tensor([0, 2])
    for one, two, place in zip(tree_leaves(before), tree_leaves(after), (axis, *[min(axis, 1)] * 2), strict=False):
        assert torch.equal(one.index_select(place, others), two.index_select(place, others))
        assert not torch.equal(one.select(place, 1), two.select(place, 1))


def extreme(rule: Rule, sizes: Sizes | None = None) -> list[Tensor]:
    """Gates at both ends of their range, 0 and 1 among them, from token to token."""
    arguments, random = arguments_of(rule, sizes), Random(3)

    def ends(x: Tensor, values: list[float]) -> Tensor:
        chosen = torch.randint(len(values), x.shape, generator=random.generator)
        return torch.tensor(values, dtype=x.dtype)[chosen]

    values = {
        "log_decay": [0.0, -1e-9, -50.0, -1e4, -1e30, -torch.inf],
        "log_w": [0.0, -1e-9, -50.0, -1e4, -1e30, -torch.inf],
        "keep": [0.0, 1e-30, 1.0],
        "momentum": [0.0, 1e-30, 0.999],
        "step": [0.0, 1.0],
        "beta": [0.0, 1.0],
    }
    return [ends(x, values[name]) if name in values else x for name, x in zip(rule.names, arguments, strict=True)]


@over_rules
@pytest.mark.parametrize("chunk_size", [1, 5, 64])
def test_extreme_gates_are_as_exact_as_any(rule: Rule, chunk_size: int) -> None:
    arguments, start = extreme(rule), initial_of(rule)
    close(rule.fast(*arguments, chunk_size=chunk_size, state=start), rule.exact(*arguments, initial=start), 1e-10)
    exact = gradients(rule.exact, arguments, "initial", start)
    close(gradients(rule.fast, arguments, "state", start, chunk_size=chunk_size), exact, 1e-10)


@over_rules
def test_steadily_strong_decay_neither_overflows_nor_leaks_in_float32(rule: Rule) -> None:
    sizes = Sizes(t=70)
    arguments = [x.float() for x in arguments_of(rule, sizes)]
    for index, name in enumerate(rule.names):
        if name in ("log_decay", "log_w"):
            arguments[index] = torch.full_like(arguments[index], -90.0)
        if name == "keep":
            arguments[index] = torch.full_like(arguments[index], 1e-38)
    y, state = rule.fast(*arguments, chunk_size=64)
    expected, end = rule.exact(*(x.double() for x in arguments))
    for actual, exact in zip(tree_leaves((y, state)), tree_leaves((expected, end)), strict=True):
        assert actual.isfinite().all()
        assert (actual.double() - exact).norm() < 1e-5 * exact.norm()


@over_rules
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_lower_precision_comes_back_in_its_own_type_near_the_exact_result(
    rule: Rule, dtype: torch.dtype, tolerance: float
) -> None:
    arguments = [x.to(dtype) for x in arguments_of(rule, Sizes(t=50))]
    y, state = rule.fast(*arguments, chunk_size=16)
    expected, end = rule.exact(*(x.double() for x in arguments))
    assert y.dtype == dtype and all(x.dtype == torch.float32 for x in tree_leaves(state))
    for actual, exact in zip(tree_leaves((y, state)), tree_leaves((expected, end)), strict=True):
        assert (actual.double() - exact).norm() < tolerance * exact.norm()


@over_rules
def test_autocast_around_the_forward_pass_changes_nothing(rule: Rule) -> None:
    leaves = [x.float().requires_grad_() for x in arguments_of(rule)]
    plain = rule.fast(*leaves, chunk_size=5)
    plain_gradients = torch.autograd.grad(plain[0].square().sum(), leaves)
    with torch.autocast("cpu", torch.bfloat16):
        cast = rule.fast(*leaves, chunk_size=5)
    close(cast, plain, 0.0)
    close(torch.autograd.grad(cast[0].square().sum(), leaves), plain_gradients, 0.0)


@pytest.mark.parametrize("name", ["decay of a channel", "rwkv7"])
def test_channel_decays_are_the_same_however_many_chunks_are_done_at_a_time(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = RULES[name]
    arguments, start = arguments_of(rule, Sizes(t=50)), initial_of(rule, Sizes(t=50))
    together = gradients(rule.fast, arguments, "state", start, chunk_size=4)
    monkeypatch.setattr(channel_decay, "SLICE_ELEMENTS", 500)  # about ten chunks
    close(gradients(rule.fast, arguments, "state", start, chunk_size=4), together, 1e-12)


@over_rules
def test_no_tokens_give_no_outputs_and_leave_the_state_as_it_was(rule: Rule) -> None:
    start = initial_of(rule)
    y, state = rule.fast(*(x[:, :0] for x in arguments_of(rule)), chunk_size=5, state=start)
    assert y.shape == (2, 0, 2, 4)
    close(state, start, 0.0)


@over_rules
def test_the_rule_is_deterministic(rule: Rule) -> None:
    close(*(rule.fast(*arguments_of(rule), chunk_size=5) for _ in range(2)), 0.0)


@over_rules
def test_thousands_of_tokens_stay_finite_with_their_gradients(rule: Rule) -> None:
    sizes = Sizes(b=1, t=8192, h=1, key=4, value=4)
    leaves = [x.float().requires_grad_() for x in arguments_of(rule, sizes)]
    y, state = rule.fast(*leaves, chunk_size=64)
    for x in [y, *tree_leaves(state), *torch.autograd.grad(y.square().mean(), leaves)]:
        assert x.isfinite().all()


@over_rules
@pytest.mark.parametrize("change", ["axis", "time", "width", "type"])
def test_every_misshapen_argument_is_refused_by_its_name(rule: Rule, change: str) -> None:
    for index, name in enumerate(rule.names):
        arguments = arguments_of(rule)
        x = arguments[index]
        if change == "width" and (name == "v" or x.ndim == 3):
            continue  # values may have any width; gates have none
        arguments[index] = {"axis": x[0], "time": x[:, 1:], "width": x[..., :2], "type": x.long()}[change]
        # k is what the others are compared with, so its fault may be blamed on the first of them, naming k
        blamed = (
            rf"^{name}: has shape .*expected" if name != "k" else r"(^k: has shape .*expected|that of k|those of k)"
        )
        with pytest.raises(ValueError, match=blamed):
            rule.fast(*arguments, chunk_size=5)


@over_rules
def test_a_chunk_size_below_1_is_refused(rule: Rule) -> None:
    with pytest.raises(ValueError, match=r"^chunk_size: is 0; expected at least 1"):
        rule.fast(*arguments_of(rule), chunk_size=0)


@over_rules
def test_a_state_of_another_batch_shape_or_type_is_refused(rule: Rule) -> None:
    start = initial_of(rule)
    for wrong in (
        initial_of(rule, Sizes(b=3)),
        initial_of(rule, Sizes(h=1)),
        initial_of(rule, Sizes(value=3)),
        tree_map(lambda x: x.float(), start),
    ):
        with pytest.raises(ValueError, match=r"^state.*: has shape .* and type .*expected \[2, 2, 3, 4\].*float64"):
            rule.fast(*arguments_of(rule), chunk_size=5, state=wrong)


@pytest.mark.parametrize("momentum", [0.99, 0.9, 0.5, 0.1, 1e-2, 1e-3, 1e-4, 0.0])
@pytest.mark.parametrize("chunk_size", [16, 64, 256])
def test_momentum_that_decays_faster_than_the_memory_is_as_exact_in_float32(momentum: float, chunk_size: int) -> None:
    q, k, v, keep, _, step = arguments_of(RULES["momentum_delta_rule"], Sizes(t=300, key=16, value=16))
    gates = [torch.full_like(keep, 0.98), torch.full_like(keep, momentum), step * 0.5]
    exact = reference.momentum_delta_rule_by_token(q, k, v, *gates)
    fast = functional.momentum_delta_rule(*(x.float() for x in (q, k, v, *gates)), chunk_size=chunk_size)
    for actual, expected in zip(tree_leaves(fast), tree_leaves(exact), strict=True):
        assert (actual.double() - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_momentum_none_is_0_and_keep_none_is_1() -> None:
    q, k, v, keep, momentum, step = arguments_of(RULES["momentum_delta_rule"])
    one, zero = torch.ones_like(keep), torch.zeros_like(momentum)
    exact = reference.momentum_delta_rule_by_token(q, k, v, one, zero, step)
    close(functional.momentum_delta_rule(q, k, v, None, None, step, chunk_size=5), exact, 1e-10)


def test_momentum_delta_rule_without_momentum_and_decay_is_the_delta_rule() -> None:
    q, k, v, _, _, step = arguments_of(RULES["momentum_delta_rule"])
    y, state = functional.momentum_delta_rule(q, k, v, None, None, step, chunk_size=5)
    close((y, state.memory), functional.delta_rule(q, k, v, step, chunk_size=7), 1e-11)


def test_momentum_delta_rule_is_the_deep_memory_of_one_matrix_at_a_chunk_length_of_1() -> None:
    q, k, v, keep, momentum, step = arguments_of(RULES["momentum_delta_rule"], Sizes(key=4))
    weights = [torch.zeros(2, 4, 4, dtype=DOUBLE)]
    y, state = functional.momentum_delta_rule(q, k, v, keep, momentum, step, chunk_size=8)
    deep, after = functional.deep_memory(q, k, v, keep, momentum, step, weights, chunk_size=1)
    close((y, state.memory, state.momentum), (deep, after.weights[0], after.momentum[0]), 1e-10)


def test_gated_delta_rule_without_decay_is_the_delta_rule() -> None:
    q, k, v, log_decay, beta = arguments_of(RULES["gated_delta_rule"])
    plain = functional.delta_rule(q, k, v, beta, chunk_size=7)
    close(functional.gated_delta_rule(q, k, v, torch.zeros_like(log_decay), beta, chunk_size=5), plain, 1e-11)


def test_the_decay_of_the_gated_delta_rule_comes_before_the_error_and_that_of_titans_after() -> None:
    q, k, v, log_decay, beta = arguments_of(RULES["gated_delta_rule"])
    before, _ = functional.gated_delta_rule(q, k, v, log_decay, beta, chunk_size=5)
    after, _ = functional.momentum_delta_rule(q, k, v, log_decay.exp(), None, beta, chunk_size=5)
    assert (before - after).norm() > 1e-2 * before.norm()
    # S' = keep S and beta' = beta / keep of Titans' order make the same memory, up to where the error is taken
    close(before[:, 0], after[:, 0], 1e-12)


def test_a_channel_decay_that_is_the_same_for_all_channels_is_the_decay_of_a_head() -> None:
    q, k, v, log_decay = arguments_of(RULES["decay of a head"])
    vector = log_decay.unsqueeze(-1).expand_as(k)
    scalar = functional.linear_attention(q, k, v, log_decay, chunk_size=5)
    close(functional.linear_attention(q, k, v, vector, chunk_size=5), scalar, 1e-11)


def test_rwkv7_that_removes_nothing_is_linear_attention_with_channel_decay() -> None:
    r, log_w, k, v, a, b = arguments_of(RULES["rwkv7"])
    linear = functional.linear_attention(r, k, v, log_w, chunk_size=5)
    close(functional.rwkv7(r, log_w, k, v, torch.zeros_like(a), b, chunk_size=7), linear, 1e-11)
    close(functional.rwkv7(r, log_w, k, v, a, torch.zeros_like(b), chunk_size=7), linear, 1e-11)


def test_rwkv7_that_removes_what_a_key_returned_is_the_gated_delta_rule() -> None:
    q, k, v, log_decay, beta = arguments_of(RULES["gated_delta_rule"])
    decay, rate = log_decay.unsqueeze(-1), beta.unsqueeze(-1)
    goose_form = functional.rwkv7(q, decay.expand_as(k), rate * k, v, decay.exp() * k, -rate * k, chunk_size=5)
    close(goose_form, functional.gated_delta_rule(q, k, v, log_decay, beta, chunk_size=7), 1e-11)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@over_rules
@pytest.mark.parametrize("chunk_size", [16, 64])
def test_float32_on_a_gpu_is_near_float64_on_a_cpu_with_gradients(rule: Rule, chunk_size: int) -> None:
    sizes = Sizes(t=77, key=16, value=16)
    arguments, start = arguments_of(rule, sizes), initial_of(rule, sizes)
    exact = [*tree_leaves(rule.exact(*arguments, initial=start)), *gradients(rule.exact, arguments, "initial", start)]
    moved = [x.float().cuda().requires_grad_() for x in arguments]
    state = tree_map(lambda x: x.float().cuda().requires_grad_(), start)
    results = tree_leaves(rule.fast(*moved, chunk_size=chunk_size, state=state))
    random = Random(7)
    loss = torch.stack([(x.double() * random.normal(*x.shape).cuda()).sum() for x in results]).sum()
    actual = [*results, *torch.autograd.grad(loss, [*moved, *tree_leaves(state)])]
    for one, expected in zip(actual, exact, strict=True):
        assert (one.double().cpu() - expected).norm() < 1e-4 * expected.norm()
