"""A torch module as a function of its parameters, for many copies of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.overrides import TorchFunctionMode

from titanlab.memory_modules.rules.inner_modules import places, stacked_buffers

Weights: TypeAlias = Mapping[str, Tensor]
"""Tensors by their names in the module, with axes of copies before each one's own."""


class ModuleCalls:
    """Modules of one kind, one a head, called with weights that are handed in: torch.func's functional_call and vmap.

    A module sees one token [1, d] at a time, so it cannot mix tokens, heads or sequences. Its buffers are read. What
    is neither parameter nor buffer is taken from the first head's module.

    Args:
        modules: one for each head, as `inner_modules` returns them.
        batch: sequences; g below is batch * heads copies in this order.
        dtype: the type to compute in.
    """

    def __init__(self, modules: Sequence[nn.Module], batch: int, dtype: torch.dtype) -> None:
        self.module, self.places = modules[0], places(modules[0])
        buffers = stacked_buffers(modules, dtype)
        self.buffers = {name: x.repeat(batch, *[1] * (x.ndim - 1)) for name, x in buffers.items()}

    def answers(self, weights: Weights, x: Tensor) -> Tensor:
        """M(x) [g, n, d] of x [g, n, d]: a copy [g, ...] answers n queries."""
        return self._over_copies(vmap(self._answer, in_dims=(None, None, 0)), weights, x)

    def answers_of_each(self, weights: Weights, x: Tensor) -> Tensor:
        """M(x) [g, n, d] of x [g, n, d]: every query has a copy of its own [g, n, ...]."""
        return self._over_copies(vmap(self._answer, in_dims=(0, None, 0)), weights, x)

    def gradients(self, weights: Weights, k: Tensor, v: Tensor) -> dict[str, Tensor]:
        """Of 1/2 ||M(k) - v||^2 for every single token [g, n, d] at a copy [g, ...]: [g, n, ...] by name."""
        return self._over_copies(vmap(grad(self._loss), in_dims=(None, None, 0, 0)), weights, k, v)

    def _over_copies(self, call: Callable[..., Any], weights: Weights, *x: Tensor) -> Any:
        with explained(), _Decomposed():
            versions = {name: buffer._version for name, buffer in self.buffers.items()}
            results = vmap(call)(dict(weights), self.buffers, *x)
        _refuse_written([name for name, buffer in self.buffers.items() if buffer._version != versions[name]])
        return results

    def _loss(self, weights: Weights, buffers: Weights, k: Tensor, v: Tensor) -> Tensor:
        return 0.5 * (self._answer(weights, buffers, k) - v).square().sum()

    def _answer(self, weights: Weights, buffers: Weights, x: Tensor) -> Tensor:
        named = {**weights, **buffers}
        given = {place: named[name] for place, name in self.places.items()}
        called = dict(given)
        # Not torch's own tying: where a submodule is used twice it leaves a tensor of the call behind in the module.
        y = functional_call(self.module, called, (x.unsqueeze(0),), tie_weights=False)
        _refuse_written([place for place in given if called[place] is not given[place]])  # torch returns what was set
        return checked_answer(y, x.shape[0]).squeeze(0)


def checked_answer(y: object, width: int) -> Tensor:
    """What a module gave for a token [1, width].

    Raises:
        ValueError: it is not [1, width].
    """
    if not isinstance(y, Tensor) or y.shape != (1, width):
        came = f"shape {list(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise ValueError(f"module: gives {came} for a token [1, {width}]; expected [1, {width}]")
    return y


def _refuse_written(names: Sequence[str]) -> None:
    if names:
        raise ValueError(
            f"module: forward writes to {', '.join(names)}; expected it to read its parameters and buffers only: what "
            "changes as a sequence goes by is a parameter, and the memory's rule changes it"
        )


class _Decomposed(TorchFunctionMode):
    """Some functions from simpler ones: of torch's own, vmap gets the second derivative wrong (functorch issue 534)."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _SIMPLER.get(func, func)(*args, **(kwargs or {}))


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    centered = input - input.mean(axes, keepdim=True)
    y = centered * torch.rsqrt(centered.square().mean(axes, keepdim=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _prelu(input: Tensor, weight: Tensor) -> Tensor:
    slope = weight.reshape(1, -1, *[1] * (input.ndim - 2)) if weight.numel() > 1 else weight
    return torch.where(input > 0, input, slope * input)


_SIMPLER: dict[Callable[..., Any], Callable[..., Any]] = {F.layer_norm: _layer_norm, F.prelu: _prelu}


@contextmanager
def explained() -> Iterator[None]:
    """Turns what torch.func cannot do into an error about the module."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "random operation" in text:
            raise ValueError(
                "module: forward draws random numbers; a memory must answer alike however a sequence is cut"
            ) from error
        if "is not implemented" in text and "derivative" in text:
            raise ValueError(
                f"module: {text.splitlines()[0]}; a memory's gradient is differentiated once more in training"
            ) from error
        if "saved tensor hooks" in text:
            raise ValueError(
                "module: cannot be trained with `train.checkpoint_blocks`, nor with `train.wavefront` on a GPU: "
                "torch.func knows no hooks on what is saved for the gradient; leave them out"
            ) from error
        if text.startswith("vmap:") or "atching rule" in text:
            raise ValueError(
                "module: torch.func cannot run forward for many memories at once, as where it looks at numbers "
                "(`.item()`, `if tensor > 0`) or writes in place to a constant; use torch.where and new tensors"
            ) from error
        raise
