"""Ranks, and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from titanlab.sweeps.inference.intervals import Estimate


class Places(NamedTuple):
    """The ranks that a cell may have, from 1."""

    first: int
    last: int


def places(estimates: Sequence[Estimate], more_is_better: bool) -> list[Places | None]:
    """The ranks that each cell's interval allows: cells whose intervals overlap are tied.

    Overlap is a rule of thumb and errs on the side of a tie. A cell without an interval has no places
    itself and may have any.
    """
    sign = 1 if more_is_better else -1
    ends = [
        None if low is None or high is None else (min(sign * low, sign * high), max(sign * low, sign * high))
        for _, low, high in estimates
    ]
    known = [end for end in ends if end is not None]
    found: list[Places | None] = []
    for end in ends:
        if end is None:
            found.append(None)
            continue
        above = sum(other[0] > end[1] for other in known)
        below = sum(other[1] < end[0] for other in known)
        found.append(Places(1 + above, len(ends) - below))
    return found
