"""Building modules without storage: for their shapes only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_FILLS = frozenset(
    getattr(torch.Tensor, f"{name}_")
    for name in (
        "normal",
        "uniform",
        "bernoulli",
        "exponential",
        "fill",
        "zero",
        "copy",
        "add",
        "sub",
        "mul",
        "div",
        "clamp",
    )
)
_LIKES = frozenset((torch.zeros_like, torch.ones_like, torch.rand_like, torch.randn_like))


class _NoNumbers(TorchFunctionMode):
    """Skips what would only set numbers: on the meta device it does nothing, but imports torch's compiler (2 s)."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = kwargs or {}
        if func in _FILLS or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else keywords["tensor"]
        if func in _LIKES and args:
            return args[0].new_empty(args[0].shape, dtype=keywords.get("dtype"))
        return func(*args, **keywords)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Within it every new tensor is on the meta device: it has a shape and a type, and no numbers."""
    with torch.device("meta"), _NoNumbers():
        yield
