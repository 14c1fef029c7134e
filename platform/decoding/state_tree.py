"""What is done with a model's state as a whole, whatever pytree it is: bytes, copies without ballast, more rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from titanlab.platform.tensors import State

BALLAST = 2
"""A tensor is copied where its storage is more than so many times as large as the tensor."""


def map_tensors(change: Callable[[Tensor], Tensor], state: State) -> State:
    """The state with every tensor changed once: leaves that are one tensor stay one tensor."""
    changed: dict[int, Tensor] = {}

    def once(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) not in changed:
            changed[id(leaf)] = change(leaf)
        return changed[id(leaf)]

    return pytree.tree_map(once, state)


def without_ballast(state: State) -> State:
    """The state, its tensors copied where they are a small view of something large.

    A window's last keys are a view of the keys of the whole piece, which would be held as long as they are.
    """

    def slim(leaf: Tensor) -> Tensor:
        own = leaf.numel() * leaf.element_size()
        return leaf.clone() if leaf.untyped_storage().nbytes() > BALLAST * own else leaf

    return map_tensors(slim, state)


def copied(state: State) -> State:
    """The same values in memory of their own."""
    return map_tensors(torch.clone, state)


def rows_repeated(state: State, times: int) -> State:
    """A state of `times` as many sequences: the given ones, again and again."""
    return map_tensors(lambda leaf: leaf.repeat(times, *[1] * (leaf.ndim - 1)), state)


def state_bytes(state: State) -> int:
    """Bytes of the state's values; what several leaves share counts once."""
    tensors = {id(leaf): leaf for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor)}
    return sum(leaf.numel() * leaf.element_size() for leaf in tensors.values())


def first_not_finite(state: State) -> str | None:
    """Where in the state a number is NaN or infinite: `[1].memory.rule.memory.weights[0]`; None: nowhere."""
    named = [
        (pytree.keystr(path), leaf)
        for path, leaf in pytree.tree_flatten_with_path(state)[0]
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel()
    ]
    if not named:
        return None
    by_device: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, leaf in named:
        low, high = leaf.aminmax()  # takes no room beside a large cache; a NaN is both
        by_device.setdefault(leaf.device, []).append((name, low.isfinite() & high.isfinite()))
    for answers in by_device.values():
        finite = torch.stack([answer for _, answer in answers]).tolist()  # one wait for the device
        for (name, _), fine in zip(answers, finite, strict=True):
            if not fine:
                return name
    return None
