"""Where a stream is cut into pieces, and where on its way is told how it goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

EARLIEST = 1024
"""The first place where something is told, unless the stream is shorter; then at every doubling of it."""
EVENLY = 32
"""Places in equal distances from the stream's beginning to its end."""


class Cut(NamedTuple):
    """One piece of a stream, tokens `start` .. `stop` - 1."""

    start: int
    stop: int
    told: bool
    """Whether it ends where something is told."""


def places_told(length: int, also: tuple[int, ...] = ()) -> list[int]:
    """At every doubling and evenly, each once, the stream's end the last: no more of a long stream than some dozens."""
    doublings = {EARLIEST << k for k in range(max(1, length.bit_length())) if EARLIEST << k < length}
    evenly = {length * number // EVENLY for number in range(1, EVENLY)} if length >= EARLIEST * EVENLY else set()
    return sorted(doublings | evenly | {place for place in also if 0 < place < length} | {length})


def cuts(length: int, piece: int, told: list[int]) -> Iterator[Cut]:
    """Pieces of at most `piece` tokens that end at multiples of it, and wherever something is told.

    Args:
        length: of the stream.
        piece: a multiple of chunk and segment lets every piece begin at a chunk's start.
        told: ascending places, the last one `length`.
    """
    start, places = 0, iter(told)
    place = next(places)
    while start < length:
        stop = min(start - start % piece + piece, place, length)
        yield Cut(start, stop, stop == place)
        start = stop
        if stop == place:
            place = next(places, length)
