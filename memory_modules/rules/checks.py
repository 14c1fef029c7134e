"""What every rule asks of its arguments; each error names the argument, its shape and what was expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from titanlab.platform.debugging import refuse_nonfinite


def shape_of(x: Tensor) -> str:
    return str(list(x.shape))


def check_sequence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Mapping[str, Tensor | None],
    chunk_size: int,
    *,
    query: str = "q",
    channels: Mapping[str, Tensor] | None = None,
) -> None:
    """Queries, keys and values [b, t, h, d], gates [b, t, h], and `channels`, which are shaped like the keys.

    Raises:
        ValueError: naming the argument; the queries go by the name `query`.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size: is {chunk_size}; expected at least 1")
    alike = {query: q, **(channels or {})}
    for name, x in {**alike, "k": k, "v": v}.items():
        if x.ndim != 4 or not x.is_floating_point():
            raise ValueError(f"{name}: has shape {shape_of(x)} and type {x.dtype}; expected floating [b, t, h, d]")
    for name, x in alike.items():
        if x.shape != k.shape:
            raise ValueError(f"{name}: has shape {shape_of(x)}; expected {shape_of(k)}, that of k")
    if v.shape[:3] != k.shape[:3]:
        raise ValueError(f"v: has shape {shape_of(v)}; expected its first axes to be {list(k.shape[:3])}, those of k")
    if q.shape[0] < 1:
        raise ValueError(f"{query}: has shape {shape_of(q)}; expected a batch of at least 1")
    for name, gate in gates.items():
        if gate is not None and (gate.shape != q.shape[:3] or not gate.is_floating_point()):
            raise ValueError(
                f"{name}: has shape {shape_of(gate)} and type {gate.dtype}; expected floating {list(q.shape[:3])} "
                f"(b, t, h of {query})"
            )
    refuse_nonfinite({**alike, "k": k, "v": v, **gates})


def check_matrix(name: str, state: Tensor, k: Tensor, v: Tensor, dtype: torch.dtype) -> None:
    """A matrix memory [b, h, key, value] that fits keys and values.

    Raises:
        ValueError: naming it.
    """
    expected = matrix_shape(k, v)
    if tuple(state.shape) != expected or state.dtype != dtype:
        raise ValueError(
            f"{name}: has shape {shape_of(state)} and type {state.dtype}; expected {list(expected)} "
            f"(b, h, key, value) and {dtype}"
        )
    refuse_nonfinite({name: state})


def check_position(position: Tensor, batch: int, chunk_size: int) -> None:
    """The place within a chunk that a state [b] is at, one for all rows.

    Raises:
        ValueError: it is of another batch or chunk length.
    """
    if tuple(position.shape) != (batch,) or int(position.min()) != int(position.max()):
        raise ValueError(f"state.position: is {position.tolist()}; expected one place in the chunk for {batch} rows")
    if not 0 <= int(position[0]) < chunk_size:
        raise ValueError(f"state.position: is {int(position[0])}; expected below chunk_size {chunk_size}")


def matrix_shape(k: Tensor, v: Tensor) -> tuple[int, ...]:
    """[b, h, key, value] of the memory of keys and values."""
    return (k.shape[0], k.shape[2], k.shape[3], v.shape[3])


def matrix_or_zeros(state: Tensor | None, k: Tensor, v: Tensor, dtype: torch.dtype, name: str = "state") -> Tensor:
    """The checked state with batch and heads as one axis, [b * h, key, value]; zeros for None."""
    if state is None:
        return k.new_zeros(matrix_shape(k, v), dtype=dtype).flatten(0, 1)
    check_matrix(name, state, k, v, dtype)
    return state.flatten(0, 1)


def joined(outputs: Sequence[Tensor], like: Tensor, dtype: torch.dtype) -> Tensor:
    """The outputs of a sequence's pieces, in the type asked for; no tokens give an empty tensor shaped as `like`."""
    if not outputs:
        return torch.zeros_like(like).to(dtype)
    return (outputs[0] if len(outputs) == 1 else torch.cat(list(outputs), 1)).to(dtype)
