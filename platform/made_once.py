"""What is made of weights alone is made once for all pieces of a row, its gradient too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

R = TypeVar("R")

_MADE: ContextVar[dict[tuple[Any, ...], Any] | None] = ContextVar("titanlab_made_once", default=None)


@contextmanager
def for_all_pieces() -> Iterator[None]:
    """Within it (in this thread), `made_once` hands out again what it made; weights must not change meanwhile.

    Within another one it is that one.
    """
    if torch.compiler.is_compiling() or _MADE.get() is not None:
        yield
        return
    before = _MADE.set({})
    try:
        yield
    finally:
        _MADE.reset(before)


def made_once(make: Callable[[], R], weights: Sequence[Tensor], *conditions: object) -> R:
    """What `make` returns or, within `for_all_pieces`, what it returned before; all of it is kept until the end.

    Args:
        make: makes it.
        weights: all tensors that it is made of. A parametrized weight is another one each time, so made each time.
        conditions: on which it depends besides, the type for instance.
    """
    made = _MADE.get()
    if made is None or torch.compiler.is_compiling():
        return make()
    key = (torch.is_grad_enabled(), *map(id, weights), *conditions)
    if key not in made:
        made[key] = make(), weights  # kept, so that no other tensor is at their place meanwhile
    return cast(R, made[key][0])
