"""Functions whose gradient computes what they do again: equal bit for bit, and less is kept."""

import pytest
import torch
from torch import Tensor

from titanlab.memory_modules.rules import deep_memory as rule
from titanlab.platform.architecture import ARCHITECTURES
from titanlab.platform.fusion import fused, fusing
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.recomputation import KEPT_BYTES, always_again, computed_again


@computed_again
def scaled(x: Tensor, weight: Tensor | None, power: int) -> tuple[Tensor, Tensor]:
    y = x.sigmoid() ** power
    return (y if weight is None else y * weight), x


def kept_by(x: Tensor) -> int:
    """Bytes kept for the gradient of `scaled`."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = scaled(x, torch.ones((), requires_grad=True), 3)
    del y
    return sum(storages.values())


def trained(architecture: str, memory: dict[str, object], lower: bool) -> list[Tensor]:
    """Outputs and all gradients of a block over a row in two calls."""
    torch.manual_seed(0)
    settings = {"heads": 2, "segment": 32} if architecture == "mac" else {}
    config = MEMORY_MODULES.resolve({"heads": 2, "chunk_size": 16, **memory})
    block = ARCHITECTURES.resolve({"type": architecture, **settings}).build(32, config)
    x = torch.randn(2, 75, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=lower):
        first, state = block(x[:, :41], block.initial_state(2))
        second, _ = block(x[:, 41:], state)
    (first.float().square().sum() + second.float().square().sum()).backward()
    gradients = [parameter.grad for parameter in block.parameters() if parameter.grad is not None]
    assert x.grad is not None
    return [first.detach(), second.detach(), x.grad, *gradients]


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize(
    ("architecture", "memory"),
    [
        ("mac", {"type": "titans"}),
        ("mac", {"type": "titans", "momentum": "none", "value_norm": "none", "convolution": 1, "residual": True}),
        ("mag", {"type": "gated_delta"}),
        ("lmm", {"type": "atlas"}),
    ],
)
def test_a_block_trains_to_the_same_bits_whether_it_keeps_or_computes_again(
    architecture: str, memory: dict[str, object], lower: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with always_again():
        again = trained(architecture, memory, lower)
    monkeypatch.setattr(rule, "_whole", lambda _: None)
    kept = trained(architecture, memory, lower)
    assert len(again) == len(kept)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(again, kept, strict=True))


def test_arguments_alone_are_kept_where_they_are_large() -> None:
    numbers = KEPT_BYTES // 4
    small, large = torch.randn(numbers, requires_grad=True), torch.randn(numbers + 1, requires_grad=True)
    assert kept_by(small) > 2 * KEPT_BYTES
    assert kept_by(large) == 4 * (numbers + 1) + 4
    with always_again():
        assert kept_by(small) == KEPT_BYTES + 4


def test_a_missing_argument_a_constant_one_and_one_that_is_handed_back_have_their_gradients() -> None:
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    constant = torch.randn(5, dtype=torch.float64)
    with always_again():
        assert torch.autograd.gradcheck(lambda x: scaled(x, None, 2), (x,))
        assert torch.autograd.gradcheck(lambda x: scaled(x, constant, 2), (x,))
        y, same = scaled(x, None, 2)
        (gradient,) = torch.autograd.grad(same.sum(), x)
    assert torch.equal(gradient, torch.ones_like(x))


def test_what_is_computed_again_meets_the_same_autocast_and_fusion() -> None:
    seen = []

    @computed_again
    def product(x: Tensor, weight: Tensor) -> Tensor:
        seen.append((torch.is_autocast_enabled("cpu"), fusing()))
        return x @ weight

    x, weight = (torch.randn(8, 8, requires_grad=True) for _ in range(2))
    with always_again(), torch.autocast("cpu", torch.bfloat16), fused():
        y = product(x, weight)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16 and seen == [(True, True), (True, True)]


def test_the_state_that_a_call_left_is_handed_on_without_a_copy() -> None:
    weights = [torch.randn(2, 8, 12, requires_grad=True), torch.randn(2, 12, 8, requires_grad=True)]
    q, k, v = (torch.randn(3, 8, 2, 8) for _ in range(3))
    gates = [torch.rand(3, 8, 2) for _ in range(3)]
    _, state = rule.deep_memory(q, k, v, *gates, weights, chunk_size=4)
    for whole, matrix in zip(rule._stacked(state), state.weights, strict=True):
        assert whole.data_ptr() == matrix.data_ptr()
    other = state._replace(momentum=tuple(matrix.clone() for matrix in state.momentum))
    swapped = state._replace(weights=state.momentum, momentum=state.weights)
    for odd in (other, swapped):
        for whole, *parts in zip(rule._stacked(odd), odd.weights, odd.momentum, strict=True):
            assert torch.equal(whole, torch.stack(parts, 2).flatten(0, 1))


def test_the_gradient_of_a_state_in_between_is_whole() -> None:
    weights = [torch.randn(2, 8, 12, requires_grad=True), torch.randn(2, 12, 8, requires_grad=True)]
    q, k, v = (torch.randn(3, 8, 2, 8) for _ in range(3))
    gates = [torch.rand(3, 8, 2) / 8 for _ in range(3)]
    _, state = rule.deep_memory(q, k, v, *gates, weights, chunk_size=4)
    found = []
    for before in (state, rule.DeepMemoryState(*(tuple(x + 0 for x in part) for part in state[:3]), state.position)):
        y, _ = rule.deep_memory(q, k, v, *gates, weights, chunk_size=4, state=before)
        found.append(torch.autograd.grad(y.sum(), [*before.weights, *before.momentum], retain_graph=True))
    # a state whose reference is another tensor has that one's share apart
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found[0][2:], found[1][2:], strict=True))
    assert all(gradient.abs().sum() > 0 for gradient in found[0])
