"""The deep memory as a function, held against the token-by-token reference in outputs, final states and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from titanlab.memory_modules.functional import deep_memory
from titanlab.memory_modules.reference import deep_memory_by_token

TIME = 13  # no multiple of any chunk size below but 1


class Inputs(NamedTuple):
    """The positional arguments of the rule."""

    q: Tensor
    k: Tensor
    v: Tensor
    keep: Tensor | None
    momentum: Tensor | None
    step: Tensor
    weights: list[Tensor]

    def leaves(self) -> list[Tensor]:
        return [*(x for x in self[:6] if x is not None), *self.weights]

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        first = [None if x is None else change(x) for x in self[:6]]
        return Inputs(*first, [change(w) for w in self.weights])  # type: ignore[arg-type]

    def piece(self, start: int, stop: int) -> Inputs:
        return Inputs(*(None if x is None else x[:, start:stop] for x in self[:6]), self.weights)  # type: ignore[arg-type]


def make(
    depth: int = 2,
    *,
    time: int = TIME,
    batch: int = 2,
    heads: int = 2,
    dim: int = 3,
    width: int = 5,
    gates: str = "both",
) -> Inputs:
    """Unit queries and keys as in the layer, random gates, and weights that keep activations near 1, all in float64."""
    random = torch.Generator().manual_seed(depth + 10 * time)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    def uniform() -> Tensor:
        return torch.rand(batch, time, heads, generator=random, dtype=torch.float64)

    q, k, v = (normal(batch, time, heads, dim) for _ in range(3))
    widths = [dim, *[width] * (depth - 1), dim]
    weights = [normal(heads, i, o) / i**0.5 for i, o in zip(widths, widths[1:], strict=False)]
    keep, momentum = GATES[gates](uniform(), uniform())
    unit = torch.nn.functional.normalize
    return Inputs(unit(q, dim=-1), unit(k, dim=-1), v, keep, momentum, 0.3 * uniform(), weights)


def some(gate: Tensor, value: float) -> Tensor:
    """The gate with two of every three tokens set to the value, so that runs of it and borders occur."""
    chosen = torch.arange(gate.shape[1]) % 3 > 0
    return torch.where(chosen[None, :, None], torch.full_like(gate, value), gate)


GATES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor | None, Tensor | None]]] = {
    "both": lambda a, b: (a, b),
    "keep only": lambda a, b: (a, None),
    "momentum only": lambda a, b: (None, b),
    "neither": lambda a, b: (None, None),
    "momentum far below keep": lambda a, b: (torch.full_like(a, 0.999), torch.full_like(b, 0.001)),
    "keep far below momentum": lambda a, b: (torch.full_like(a, 0.001), torch.full_like(b, 0.999)),
    "momentum 0": lambda a, b: (a, torch.zeros_like(b)),
    "momentum sometimes 0": lambda a, b: (a, some(b, 0.0)),
    "momentum 1e-30": lambda a, b: (a, torch.full_like(b, 1e-30)),
    "keep 1": lambda a, b: (torch.ones_like(a), b),
    "keep sometimes 1": lambda a, b: (some(a, 1.0), b),
    "keep 1e-30": lambda a, b: (torch.full_like(a, 1e-30), b),
    "keep sometimes 0": lambda a, b: (some(a, 0.0), some(b, 0.0)),  # a sigmoid that underflows
}


def close(actual: Any, expected: Any, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0.0)


def momentum_of(state: Any) -> list[Tensor]:
    return list(state.momentum)


def assert_equals_reference(inputs: Inputs, **options: Any) -> None:
    y, state = deep_memory(*inputs, **options)
    expected, weights, momentum = deep_memory_by_token(*inputs, **options)
    close(y, expected, 1e-10)
    close(list(state.weights), weights, 1e-10)
    close(momentum_of(state), momentum if inputs.momentum is not None else [], 1e-10)


def weighted_sum(tensors: list[Tensor]) -> Tensor:
    """A scalar that every entry of every tensor reaches with its own random weight."""
    random = torch.Generator().manual_seed(7)
    terms = [(x * torch.randn(x.shape, generator=random, dtype=torch.float64).to(x.dtype)).sum() for x in tensors]
    return torch.stack(terms).sum()


def gradients(rule: Callable[..., list[Tensor]], inputs: Inputs, **options: Any) -> list[Tensor]:
    """Gradients of outputs, final weights and final momentum together, in q, k, v, keep, momentum, step and weights."""
    leaves = inputs.map(lambda x: x.detach().clone().requires_grad_())
    return list(torch.autograd.grad(weighted_sum(rule(leaves, **options)), leaves.leaves()))


def fast(inputs: Inputs, **options: Any) -> list[Tensor]:
    y, state = deep_memory(*inputs, **options)
    return [y, *state.weights, *state.momentum]


def by_token(inputs: Inputs, **options: Any) -> list[Tensor]:
    y, weights, momentum = deep_memory_by_token(*inputs, **options)
    return [y, *weights, *(momentum if inputs.momentum is not None else [])]


# Agreement with the reference


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 3, 5, 8, TIME, TIME + 7])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_every_depth_and_chunk_size_equals_the_recurrence(depth: int, chunk_size: int, residual: bool) -> None:
    assert_equals_reference(make(depth), chunk_size=chunk_size, residual=residual)


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("chunk_size", [1, 5, 20])
def test_every_kind_of_gate_equals_the_recurrence(gates: str, chunk_size: int) -> None:
    assert_equals_reference(make(gates=gates), chunk_size=chunk_size)


@pytest.mark.parametrize("activation", ["gelu", "silu", "relu", "tanh"])
@pytest.mark.parametrize("residual", [False, True])
def test_every_activation_equals_the_recurrence_in_values_and_gradients(activation: str, residual: bool) -> None:
    options: dict[str, Any] = {"chunk_size": 5, "activation": activation, "residual": residual}
    inputs = make(3)
    assert_equals_reference(inputs, **options)
    close(gradients(fast, inputs, **options), gradients(by_token, inputs, **options), 1e-9)


@pytest.mark.parametrize("batch, heads, dim, width, time", [(1, 1, 1, 1, 1), (3, 1, 2, 7, 4), (1, 3, 5, 2, 7)])
def test_every_size_equals_the_recurrence(batch: int, heads: int, dim: int, width: int, time: int) -> None:
    assert_equals_reference(make(3, batch=batch, heads=heads, dim=dim, width=width, time=time), chunk_size=3)


def test_a_long_chunk_whose_gate_products_underflow_equals_the_recurrence() -> None:
    inputs = make(2, time=70)
    tiny = inputs._replace(keep=0.01 * inputs.keep, momentum=0.01 * inputs.momentum)  # type: ignore[operator]
    assert_equals_reference(tiny, chunk_size=64)
    close(gradients(fast, tiny, chunk_size=64), gradients(by_token, tiny, chunk_size=64), 1e-9)


# Gradients


@pytest.mark.parametrize("chunk_size", [1, 5, 20])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_gradients_of_everything_equal_those_through_the_recurrence(depth: int, chunk_size: int) -> None:
    inputs = make(depth)
    close(gradients(fast, inputs, chunk_size=chunk_size), gradients(by_token, inputs, chunk_size=chunk_size), 1e-9)


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("chunk_size", [1, 5, 20])
def test_gradients_with_every_kind_of_gate_equal_those_through_the_recurrence(gates: str, chunk_size: int) -> None:
    inputs = make(gates=gates)
    close(gradients(fast, inputs, chunk_size=chunk_size), gradients(by_token, inputs, chunk_size=chunk_size), 1e-9)


@pytest.mark.parametrize("gates", ["both", "neither", "momentum 0", "keep 1"])
@pytest.mark.parametrize("depth, residual", [(1, False), (2, True)])
def test_gradients_pass_gradcheck(depth: int, residual: bool, gates: str) -> None:
    inputs = make(depth, time=4, batch=1, heads=1, dim=2, width=2, gates=gates).map(lambda x: x.requires_grad_())
    structure = pytree.tree_structure(inputs)

    def rule(*leaves: Tensor) -> tuple[Tensor, ...]:
        return tuple(fast(pytree.tree_unflatten(leaves, structure), chunk_size=3, residual=residual))

    def one_sided_at_the_border(gate: Tensor | None) -> bool:
        return gate is not None and bool(((gate == 0) | (gate == 1)).any())

    if one_sided_at_the_border(inputs.keep) or one_sided_at_the_border(inputs.momentum):
        # gradcheck perturbs by 1e-6 to both sides, and a gate outside [0, 1] is no gate: hold the border still.
        inputs = inputs._replace(
            keep=inputs.keep.detach() if one_sided_at_the_border(inputs.keep) else inputs.keep,  # type: ignore[union-attr]
            momentum=inputs.momentum.detach() if one_sided_at_the_border(inputs.momentum) else inputs.momentum,  # type: ignore[union-attr]
        )
    assert torch.autograd.gradcheck(rule, tuple(pytree.tree_leaves(inputs)))


def test_gradients_flow_into_a_state_that_is_handed_in() -> None:
    inputs = make(2, time=6, batch=1, heads=1, dim=2, width=2)
    _, state = deep_memory(*inputs.piece(0, 2), chunk_size=3)  # ends inside a chunk
    leaves, structure = pytree.tree_flatten(state)
    tensors = [leaf.detach().requires_grad_() for leaf in leaves if is_float(leaf)]

    def rule(*changed: Tensor) -> tuple[Tensor, ...]:
        replacement = iter(changed)
        handed_in = pytree.tree_unflatten([next(replacement) if is_float(x) else x for x in leaves], structure)
        y, end = deep_memory(*inputs.piece(2, 6), chunk_size=3, state=handed_in)
        return (y, *end.weights, *end.momentum)

    assert len(tensors) >= 6  # weights, momentum and reference of two layers
    assert torch.autograd.gradcheck(rule, tuple(tensors))


@pytest.mark.parametrize("cuts", [(5,), (3, 4, 11)])
def test_gradients_through_a_cut_sequence_equal_those_of_the_whole(cuts: tuple[int, ...]) -> None:
    def in_pieces(inputs: Inputs, **options: Any) -> list[Tensor]:
        y, state = stream(inputs, cuts, **options)
        return [y, *state.weights, *state.momentum]

    inputs = make(3)
    close(gradients(in_pieces, inputs, chunk_size=5), gradients(fast, inputs, chunk_size=5), 1e-10)


@pytest.mark.parametrize("gates", ["both", "neither"])
def test_gradients_are_the_same_where_the_forward_pass_is_too_large_to_keep(
    gates: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = make(3, gates=gates)
    kept = gradients(fast, inputs, chunk_size=5, residual=True)
    monkeypatch.setattr("titanlab.memory_modules.kernels.dual_form.KEEP_BYTES", 0)
    close(gradients(fast, inputs, chunk_size=5, residual=True), kept, 1e-12)


def test_gradients_can_be_taken_twice() -> None:
    leaves = make().map(lambda x: x.requires_grad_())
    loss = weighted_sum(fast(leaves, chunk_size=5, residual=True))
    first = torch.autograd.grad(loss, leaves.leaves(), retain_graph=True)
    close(torch.autograd.grad(loss, leaves.leaves()), first, 0.0)


@pytest.mark.parametrize("name", ["q", "k", "v", "keep", "momentum", "step"])
def test_the_gradient_of_one_input_alone_equals_its_part_of_all(name: str) -> None:
    inputs = make()
    expected = gradients(fast, inputs, chunk_size=5)[Inputs._fields.index(name)]
    alone = getattr(inputs, name).clone().requires_grad_()
    loss = weighted_sum(fast(inputs._replace(**{name: alone}), chunk_size=5))
    close(torch.autograd.grad(loss, alone)[0], expected, 1e-12)


# Streaming


def is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def stream(inputs: Inputs, cuts: tuple[int, ...], **options: Any) -> tuple[Tensor, Any]:
    """The sequence in pieces cut at the given tokens, the state handed on."""
    state, outputs = None, []
    for start, stop in zip((0, *cuts), (*cuts, inputs.q.shape[1]), strict=True):
        y, state = deep_memory(*inputs.piece(start, stop), state=state, **options)
        outputs.append(y)
    return torch.cat(outputs, 1), state


@pytest.mark.parametrize("gates", ["both", "neither", "keep only", "momentum sometimes 0"])
@pytest.mark.parametrize("chunk_size", [1, 5, 20])
@pytest.mark.parametrize("cuts", [(1,), (5,), (10,), (7,), (2, 3, 4, 11), (5, 6, 9, 12), tuple(range(1, TIME))])
def test_a_sequence_cut_anywhere_equals_one_call(cuts: tuple[int, ...], chunk_size: int, gates: str) -> None:
    inputs = make(gates=gates)
    whole, end = deep_memory(*inputs, chunk_size=chunk_size)
    pieces, end_of_pieces = stream(inputs, cuts, chunk_size=chunk_size)
    close(pieces, whole, 1e-12)
    close(pytree.tree_leaves(end_of_pieces), pytree.tree_leaves(end), 1e-12)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("depth", [1, 3, 4])
def test_token_by_token_equals_one_call_at_every_depth(depth: int, residual: bool) -> None:
    inputs = make(depth)
    whole, end = deep_memory(*inputs, chunk_size=4, residual=residual)
    pieces, end_of_pieces = stream(inputs, tuple(range(1, TIME)), chunk_size=4, residual=residual)
    close(pieces, whole, 1e-12)
    close(pytree.tree_leaves(end_of_pieces), pytree.tree_leaves(end), 1e-12)


def test_a_state_handed_in_is_left_as_it_was() -> None:
    inputs = make()
    _, state = deep_memory(*inputs.piece(0, 7), chunk_size=5)
    before = pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, state)
    first, _ = deep_memory(*inputs.piece(7, TIME), chunk_size=5, state=state)
    again, _ = deep_memory(*inputs.piece(7, TIME), chunk_size=5, state=state)
    close(pytree.tree_leaves(state), pytree.tree_leaves(before), 0.0)
    close(again, first, 0.0)


def test_a_state_holds_the_matrices_of_every_sequence_and_head() -> None:
    _, state = deep_memory(*make(3), chunk_size=5)
    shapes = [(2, 2, 3, 5), (2, 2, 5, 5), (2, 2, 5, 3)]
    assert [tuple(w.shape) for w in state.weights] == shapes
    assert [tuple(s.shape) for s in state.momentum] == shapes


def test_a_state_without_momentum_holds_none() -> None:
    _, state = deep_memory(*make(gates="keep only"), chunk_size=5)
    assert len(state.momentum) == 0


# Causality and independence


@pytest.mark.parametrize("token", [0, 3, 4, 5, 12])
def test_future_inputs_do_not_change_past_outputs(token: int) -> None:
    inputs = make()
    changed = inputs.map(lambda x: x.clone())
    for x in changed[:6]:
        x[:, token] = torch.rand_like(x[:, token])
    before, _ = deep_memory(*inputs, chunk_size=5)
    after, _ = deep_memory(*changed, chunk_size=5)
    assert (after - before)[:, :token].abs().sum().item() == 0.0
    assert (after - before)[:, token:].abs().amin() > 0.0


def test_gradients_of_past_outputs_in_future_inputs_are_zero() -> None:
    inputs = make().map(lambda x: x.requires_grad_())
    y, _ = deep_memory(*inputs, chunk_size=5)
    for grad in torch.autograd.grad(y[:, :7].square().sum(), inputs[:6]):
        assert grad[:, 7:].abs().sum().item() == 0.0
        assert grad[:, :7].abs().amax() > 0.0


@pytest.mark.parametrize("axis", [0, 2], ids=["sequences of a batch", "heads"])
def test_one_sequence_or_head_does_not_affect_another(axis: int) -> None:
    inputs = make(batch=3, heads=3)
    changed = inputs.map(lambda x: x.clone())
    for x in changed[:6]:
        x.select(axis, 1).copy_(torch.rand_like(x.select(axis, 1)))
    before, state_before = deep_memory(*inputs, chunk_size=5)
    after, state_after = deep_memory(*changed, chunk_size=5)
    others = torch.tensor([0, 2])
    assert (after - before).index_select(axis, others).abs().sum().item() == 0.0
    assert (after - before).select(axis, 1).abs().amin() > 0.0
    state_axis = min(axis, 1)
    for w_before, w_after in zip(
        [*state_before.weights, *state_before.momentum], [*state_after.weights, *state_after.momentum], strict=True
    ):
        assert (w_after - w_before).index_select(state_axis, others).abs().sum().item() == 0.0


# Types and lengths


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 3e-3)])
def test_lower_precision_comes_back_in_its_own_type_near_the_exact_result(dtype: torch.dtype, tolerance: float) -> None:
    inputs = make(2, time=50).map(lambda x: x.to(dtype))
    y, state = deep_memory(*inputs, chunk_size=16)
    expected, weights, momentum = deep_memory_by_token(*inputs.map(lambda x: x.double()), chunk_size=16)
    assert y.dtype == dtype
    assert all(x.dtype == torch.float32 for x in [*state.weights, *state.momentum])
    close(y.double(), expected, tolerance)
    # The state and its gate products are float32 whatever the type of the inputs.
    close([w.double() for w in state.weights], weights, tolerance)
    close([s.double() for s in state.momentum], momentum, tolerance)


def test_low_precision_inputs_with_float32_gates_and_weights_are_accepted() -> None:
    """What a layer under autocast hands over: projections in bfloat16, parameters and gates in float32."""
    inputs = make(2).map(lambda x: x.float())
    q, k, v = (x.bfloat16() for x in inputs[:3])
    y, state = deep_memory(q, k, v, *inputs[3:], chunk_size=5)
    assert y.dtype == torch.bfloat16 and state.weights[0].dtype == torch.float32


def test_float32_gradients_stay_near_the_exact_ones() -> None:
    inputs = make(2, time=50)
    expected = gradients(fast, inputs, chunk_size=16)
    single = gradients(fast, inputs.map(lambda x: x.float()), chunk_size=16)
    for grad, exact in zip(single, expected, strict=True):
        assert (grad.double() - exact).norm() < 1e-5 * exact.norm()


def test_autocast_changes_neither_values_nor_gradients() -> None:
    inputs = make(2).map(lambda x: x.float())
    plain = fast(inputs, chunk_size=5)
    with torch.autocast("cpu", torch.bfloat16):
        cast = fast(inputs, chunk_size=5)

    def under_autocast(leaves: Inputs, **options: Any) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return fast(leaves, **options)

    close(cast, plain, 0.0)
    close(gradients(under_autocast, inputs, chunk_size=5), gradients(fast, inputs, chunk_size=5), 0.0)


def test_a_backward_pass_inside_autocast_gives_the_same_gradients() -> None:
    inputs = make(2).map(lambda x: x.float())
    expected = gradients(fast, inputs, chunk_size=5)
    with torch.autocast("cpu", torch.bfloat16):
        close(gradients(fast, inputs, chunk_size=5), expected, 0.0)


@pytest.mark.parametrize("start", [0, 4, 5], ids=["at the beginning", "inside a chunk", "between chunks"])
def test_no_tokens_give_no_outputs_and_leave_the_memory_as_it_was(start: int) -> None:
    inputs, state = make(), None
    if start:
        _, state = deep_memory(*inputs.piece(0, start), chunk_size=5)
    y, after = deep_memory(*inputs.piece(start, start), chunk_size=5, state=state)
    assert y.shape == (2, 0, 2, 3)
    rest, _ = deep_memory(*inputs.piece(start, TIME), chunk_size=5, state=after)
    whole, _ = deep_memory(*inputs, chunk_size=5)
    close(rest, whole[:, start:], 1e-12)


def test_32768_tokens_stay_finite_with_their_gradients() -> None:
    inputs = make(2, time=32_768, batch=1, heads=1, dim=4, width=8).map(lambda x: x.float())
    keep, momentum = 0.9 + 0.1 * inputs.keep, 0.2 * inputs.momentum  # type: ignore[operator]
    keep[:, ::100], momentum[:, ::100] = 1.0, 0.0
    inputs = inputs._replace(keep=keep, momentum=momentum, step=0.3 * inputs.step)
    leaves = inputs.map(lambda x: x.requires_grad_())
    y, state = deep_memory(*leaves, chunk_size=128)
    grads = torch.autograd.grad(y.square().mean(), leaves.leaves())
    for x in [y, *state.weights, *state.momentum, *grads]:
        assert torch.isfinite(x).all()
    assert y.abs().amax() < 100.0  # bounded, as values of size 1 were asked for


# Bad input


def bad(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {**make()._asdict(), "chunk_size": 5}
    return {**arguments, **{name: change(arguments.get(name)) for name, change in changes.items()}}


BAD_INPUT: dict[str, tuple[dict[str, Any], str]] = {
    "chunk size 0": (bad(chunk_size=lambda _: 0), r"chunk_size.*0"),
    "negative chunk size": (bad(chunk_size=lambda _: -3), r"chunk_size.*-3"),
    "q without heads": (bad(q=lambda x: x[:, :, 0]), r"q.*2, 13, 3"),
    "k of another length": (bad(k=lambda x: x[:, :-1]), r"2, 12, 2, 3.*\bk\b"),
    "k of another width": (bad(k=lambda x: x[..., :2]), r"2, 13, 2, 2.*\bk\b"),
    "v of another batch": (bad(v=lambda x: x[:1]), r"v.*1, 13, 2, 3"),
    "v of another width": (bad(v=lambda x: x[..., :2]), r"2, 13, 2, 2"),
    "keep without heads": (bad(keep=lambda x: x[..., 0]), r"keep.*2, 13"),
    "momentum with one head": (bad(momentum=lambda x: x[..., :1]), r"momentum.*2, 13, 1"),
    "step of one token": (bad(step=lambda x: x[:, :1]), r"step.*2, 1, 2"),
    "no weights": (bad(weights=lambda _: []), r"weights"),
    "weights of another head count": (bad(weights=lambda w: [x[:1] for x in w]), r"weights.*1, 3, 5"),
    "weights that do not chain": (bad(weights=lambda w: [w[0], w[0]]), r"weights.*2, 3, 5"),
    "weights of another input width": (bad(weights=lambda w: [w[0][:, :2], w[1]]), r"weights.*2, 2, 5"),
    "weights without heads": (bad(weights=lambda w: [x[0] for x in w]), r"weights.*3, 5"),
    "unknown activation": (bad(activation=lambda _: "gleu"), r"activation.*gleu.*gelu"),
    "unknown backend": (bad(backend=lambda _: "trition"), r"backend.*trition"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_with_its_name_and_value(case: str) -> None:
    arguments, message = BAD_INPUT[case]
    with pytest.raises(ValueError, match=message):
        deep_memory(**arguments)


def test_a_state_of_another_batch_is_refused() -> None:
    _, state = deep_memory(*make(batch=3), chunk_size=5)
    with pytest.raises(ValueError, match=r"state.*3, 2, 3, 5"):
        deep_memory(*make(batch=2), chunk_size=5, state=state)


@pytest.mark.parametrize("other", [{"dim": 4}, {"width": 7}, {"depth": 3}], ids=str)
def test_a_state_of_another_shape_than_the_weights_is_refused(other: dict[str, int]) -> None:
    _, state = deep_memory(*make(**other), chunk_size=5)
    with pytest.raises(ValueError, match=r"state"):
        deep_memory(*make(), chunk_size=5, state=state)


def test_a_state_inside_a_chunk_longer_than_chunk_size_is_refused() -> None:
    _, state = deep_memory(*make().piece(0, 4), chunk_size=5)
    with pytest.raises(ValueError, match=r"state\.position.*4.*chunk_size 3"):
        deep_memory(*make(), chunk_size=3, state=state)


def test_a_state_of_another_type_is_refused() -> None:
    _, state = deep_memory(*make(), chunk_size=5)
    with pytest.raises(ValueError, match=r"state.*float64.*float32"):
        deep_memory(*make().map(lambda x: x.float()), chunk_size=5, state=state)


def test_a_state_made_without_momentum_is_refused_where_momentum_is_on() -> None:
    _, state = deep_memory(*make(gates="keep only"), chunk_size=5)
    with pytest.raises(ValueError, match=r"momentum"):
        deep_memory(*make(), chunk_size=5, state=state)
