"""Cutting a sequence into chunks, also when it starts or ends inside one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor


class Piece(NamedTuple):
    """A run of equal chunks; only a single one may be part of a chunk."""

    start: int
    chunks: int
    size: int


def pieces(position: int, length: int, chunk_size: int) -> Iterator[Piece]:
    """The rest of a chunk already under way at `position`, the whole chunks, and the part of one that is left."""
    start = 0
    if position and length:
        start = min(chunk_size - position, length)
        yield Piece(0, 1, start)
    whole = (length - start) // chunk_size
    if whole:
        yield Piece(start, whole, chunk_size)
        start += whole * chunk_size
    if start < length:
        yield Piece(start, 1, length - start)


def to_chunks(x: Tensor, piece: Piece) -> Tensor:
    """[b, t, h, ...] -> [n, b * h, c, ...], the piece's chunks in order: of a gate [b, t, h] a view where its strides
    allow one, of vectors contiguous, since products would copy them each time."""
    n, size = piece.chunks, piece.size
    x = x[:, piece.start : piece.start + n * size].unflatten(1, (n, size))  # b n c h ...
    chunks = x.movedim(3, 1).movedim(2, 0).flatten(1, 2)
    return chunks if chunks.ndim == 3 else chunks.contiguous()


def from_chunks(y: Tensor, batch: int) -> Tensor:
    """[n, b * h, c, ...] -> [b, n * c, h, ...]."""
    y = y.unflatten(1, (batch, -1))  # n b h c ...
    return y.movedim(0, 2).movedim(1, 3).flatten(1, 2)
