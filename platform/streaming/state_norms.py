"""How large a memory's state is: Frobenius norms a head, of every layer and part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from titanlab.platform.tensors import State

NOT_MEMORY = frozenset(
    {"convolution", "keys", "values", "window", "segment", "past", "held", "persistent", "reference", "at_start"}
    | {"scale", "decay", "position", "last"}
)
"""Parts of a state that are no memory as it stands: caches of tokens, gates' values, copies of an earlier memory."""


class StateNorm(NamedTuple):
    """One part of one layer's memory."""

    layer: int
    part: str
    """As the state calls it: `weights[0]`, `momentum[1]`, `rule`."""
    mean: float
    """Of the norms of all heads of all sequences."""
    largest: float


def state_norms(states: Sequence[State]) -> list[StateNorm]:
    """Norms of all memories in a model's state, one entry a layer; each in float32 or better.

    A part [b, h, ...] has a norm a head, one [b, m] a norm a sequence. Which parts there are is read off the state's
    own names, so that every memory's are, plug-ins' too.
    """
    names: list[tuple[int, str]] = []
    found: list[Tensor] = []
    for layer, state in enumerate(states):
        for path, leaf in pytree.tree_flatten_with_path(state)[0]:
            words = [_word(key) for key in path]
            if _is_memory(leaf, words):
                names.append((layer, _part(path)))
                found.append(_of_heads(leaf))
    if not found:
        return []
    both = torch.stack([torch.stack([norms.mean(), norms.amax()]) for norms in found]).tolist()
    return [StateNorm(*name, *values) for name, values in zip(names, both, strict=True)]


def _is_memory(leaf: Any, words: Sequence[str]) -> bool:
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf.ndim < 2 or not leaf.numel():
        return False
    return not NOT_MEMORY.intersection(words)


def _of_heads(leaf: Tensor) -> Tensor:
    rows = leaf.flatten(0, 1).flatten(1) if leaf.ndim > 2 else leaf
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.promote_types(leaf.dtype, torch.float32))


def _word(key: Any) -> str:
    match key:
        case pytree.GetAttrKey(name=name):
            return name
        case pytree.MappingKey(key=name):
            return str(name)
        case _:
            return str(key)


def _part(path: Sequence[Any]) -> str:
    """From the last attribute on, or from the last key if there is none: `.memory.rule.memory.weights[0]` is
    `weights[0]`, `.rule.weights['up.bias']` is `weights.up.bias`."""
    for kind in (pytree.GetAttrKey, pytree.MappingKey):
        if places := [place for place, key in enumerate(path) if isinstance(key, kind)]:
            first, *rest = path[places[-1] :]
            return _word(first) + "".join(map(_behind, rest))
    return "state" + "".join(map(_behind, path))


def _behind(key: Any) -> str:
    return f".{_word(key)}" if isinstance(key, pytree.MappingKey) else _word(key)
