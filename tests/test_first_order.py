"""Second derivatives, which kernels and hand-written gradients do not have, are refused and never silently 0."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from titanlab.memory_modules.functional import deep_memory, linear_attention
from titanlab.platform.first_order import first_order
from titanlab.platform.recomputation import always_again, computed_again

REFUSED = "cannot be differentiated again"


def rows() -> list[Tensor]:
    make = torch.Generator().manual_seed(0)
    return [torch.randn(1, 6, 1, 4, generator=make, dtype=torch.float64).requires_grad_() for _ in range(3)]


def memory(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    gate = torch.full(k.shape[:3], 0.5, dtype=k.dtype)
    return deep_memory(q, k, v, gate, gate, gate, [torch.eye(4, dtype=k.dtype)[None]], chunk_size=4)[0]


@computed_again
def product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q.sin() * k * v


def channels(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return linear_attention(q, k, v, -k.square(), chunk_size=4)[0]


@pytest.mark.parametrize("function", [memory, product, channels])
def test_a_penalty_on_gradients_is_refused_where_it_would_be_lost(function: Callable[..., Tensor]) -> None:
    q, k, v = rows()
    with always_again():
        loss = (function(q, k, v) + k * k).sum()  # the incoming gradient is a constant
    (plain,) = torch.autograd.grad(loss, k, retain_graph=True)
    (found,) = torch.autograd.grad(loss, k, create_graph=True)
    assert torch.equal(found, plain)
    with pytest.raises(RuntimeError, match=REFUSED):
        torch.autograd.grad(found.square().sum(), k)
    (found,) = torch.autograd.grad(loss, k, create_graph=True)
    with pytest.raises(RuntimeError, match=REFUSED):
        found.square().sum().backward()


def test_gradients_of_all_kinds_pass_as_they_are() -> None:
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, nothing, factor):
            ctx.save_for_backward(x)
            return x * factor, x.detach() + 1

        @staticmethod
        @first_order
        def backward(ctx, d_y, d_other):
            return d_y * 3, None, None

    x = torch.ones(2, requires_grad=True)
    y, _ = Scaled.apply(x, None, 3)
    (found,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert found.tolist() == [3, 3] and found.requires_grad
    y, _ = Scaled.apply(x, None, 3)
    assert not torch.autograd.grad(y.sum(), x)[0].requires_grad
