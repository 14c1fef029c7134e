"""A trial of a module as a memory, before any batch is seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from titanlab.memory_modules.rules.inner_modules import inner_modules, places, stacked_parameters
from titanlab.memory_modules.rules.module_calls import ModuleCalls, checked_answer, explained

COPIES, TOKENS = 2, 2


def try_module(modules: Sequence[nn.Module], width: int) -> None:
    """Refuses modules, one a head, that cannot be a memory of this width; without storage, what shapes can tell.

    The outer gradient, which goes through the gradients of many copies at once, is held against ordinary autograd one
    copy at a time: where torch has the one wrong (as for layer norm, which `ModuleCalls` mends), training would too.

    Raises:
        ValueError: saying why.
    """
    modules = inner_modules(modules, len(modules))
    own = stacked_parameters(modules, torch.float64)
    first = next(iter(own.values()))
    if first.is_meta:
        x = first.new_zeros(len(modules), TOKENS, width)
        ModuleCalls(modules, 1, torch.float64).gradients(own, x, x)
        return
    with torch.inference_mode(False), torch.enable_grad(), explained():
        _compare(modules[0], width)


def _compare(module: nn.Module, width: int) -> None:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    own = stacked_parameters([module] * COPIES, torch.float64)
    device = next(iter(own.values())).device
    weights = {
        name: (w.detach().clone() + 0.1 * normal(*w.shape).to(device)).requires_grad_() for name, w in own.items()
    }
    k, v = (normal(COPIES, TOKENS, width).to(device).requires_grad_() for _ in range(2))
    leaves = [k, v, *weights.values()]

    def outer(gradients: dict[str, Tensor]) -> tuple[Tensor | None, ...]:
        loss = sum((gradient.sin().sum() for gradient in gradients.values()), start=k.new_zeros(()))
        return torch.autograd.grad(loss, leaves, allow_unused=True)

    slow = outer(_one_by_one(module, weights, k, v))
    fast = outer(ModuleCalls([module] * COPIES, 1, torch.float64).gradients(weights, k, v))
    for one, other in zip(fast, slow, strict=True):
        one, other = (k.new_zeros(()) if gradient is None else gradient for gradient in (one, other))
        if not torch.allclose(one, other, rtol=1e-6, atol=1e-8, equal_nan=True):
            raise ValueError(
                f"module: torch's second derivative of {type(module).__name__} over many copies (torch.func.vmap) "
                f"differs from that of one copy by {float((one - other).abs().max()):.2g}; write it from simpler layers"
            )


def _one_by_one(module: nn.Module, weights: dict[str, Tensor], k: Tensor, v: Tensor) -> dict[str, Tensor]:
    """The inner gradients [copies, tokens, ...] by ordinary autograd."""
    where = places(module)
    buffers = {name: (x.double() if x.is_floating_point() else x).clone() for name, x in module.named_buffers()}
    rows: list[list[tuple[Tensor, ...]]] = []
    for copy in range(COPIES):
        mine = {name: weight[copy].requires_grad_() for name, weight in weights.items()}
        given = {place: {**mine, **buffers}[name] for place, name in where.items()}

        def loss(token: int, given: dict[str, Tensor] = given, copy: int = copy) -> Tensor:
            answer = functional_call(module, given, (k[copy, token : token + 1],), tie_weights=False)
            answer = checked_answer(answer, k.shape[-1])
            return 0.5 * (answer - v[copy, token : token + 1]).square().sum()

        rows.append(
            [
                torch.autograd.grad(loss(token), list(mine.values()), create_graph=True, materialize_grads=True)
                for token in range(TOKENS)
            ]
        )
    return {
        name: torch.stack([torch.stack([of_token[index] for of_token in row]) for row in rows])
        for index, name in enumerate(weights)
    }
