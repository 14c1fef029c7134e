"""What decides which operations a call of a model runs: the shapes of its state, and the numbers that Python looks at.

A memory's place in its chunk is such a number (int64 on the CPU): a chunk ends at one place and at no other. Two calls
of one signature run the same operations on the same shapes, so that what was recorded of the one can stand in for the
other; with chunks of 64 there are 64 signatures, one after another and again from the first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from titanlab.platform.tensors import Ids, State


class Leaf(NamedTuple):
    """One leaf of a state."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    same_as: int
    """The first leaf that is the very same tensor; its own number if there is none before."""
    constant: Any = None
    """What Python may look at: a tensor's numbers if it lies on the CPU, or what is no tensor at all."""


class Signature(NamedTuple):
    """Of one call."""

    ids: tuple[int, ...]
    """Shape of the token ids."""
    structure: str
    """Of the state."""
    leaves: tuple[Leaf, ...]


def signature(ids: Ids, state: State) -> Signature:
    """The signature of `model(ids, state)`."""
    leaves, structure = pytree.tree_flatten(state)
    places: dict[int, int] = {}
    told = []
    for number, leaf in enumerate(leaves):
        first = places.setdefault(id(leaf), number) if isinstance(leaf, Tensor) else number
        told.append(_leaf(leaf, first, ids.device))
    return Signature(tuple(ids.shape), repr(structure), tuple(told))


def is_constant(leaf: Any, device: torch.device) -> bool:
    """Whether a leaf is a part of the signature and no operand: no tensor, or one on the CPU that no GPU sees."""
    if not isinstance(leaf, Tensor):
        return True
    return leaf.device.type == "cpu" and (device.type != "cpu" or not leaf.is_floating_point())


def _leaf(leaf: Any, same_as: int, device: torch.device) -> Leaf:
    if not isinstance(leaf, Tensor):
        return Leaf((), None, same_as, leaf)
    seen = repr(leaf.tolist()) if is_constant(leaf, device) else None
    return Leaf(tuple(leaf.shape), leaf.dtype, same_as, seen)
