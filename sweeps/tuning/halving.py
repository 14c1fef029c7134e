"""Successive halving (Jamieson and Talwalkar 2016, Algorithm 1): many points for a few steps, the best ones for more.

It is ASHA's synchronous form: the same rungs, but a rung is judged when all its points have got there. So which points
go on depends on their values alone, not on which of them was faster, and a search that was killed decides the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Rung(NamedTuple):
    """A step at which the points that got there are compared."""

    step: int
    keep: int
    """How many of them go on."""


def rungs(points: int, steps: int, reduction: int) -> list[Rung]:
    """The rungs before the last step, lowest first; none for fewer points than `reduction`.

    Of 9 points, 900 steps and a reduction of 3: 3 go on from step 100 and 1 from step 300.
    """
    found: list[Rung] = []
    levels, left = 0, points
    while left >= reduction and math.ceil(steps / reduction ** (levels + 1)) < steps:
        levels, left = levels + 1, left // reduction
    left = points
    for level in range(levels, 0, -1):
        left //= reduction
        step = math.ceil(steps / reduction**level)
        if found and found[-1].step == step:  # so few steps that two rungs fall together
            found[-1] = Rung(step, left)
        else:
            found.append(Rung(step, left))
    return found


def best(values: Sequence[float], keep: int, more: bool) -> list[int]:
    """The numbers of the `keep` best finite values, in their order; of equal ones the earlier.

    Args:
        more: whether more is better.
    """
    finite = [number for number, value in enumerate(values) if math.isfinite(value)]
    ranked = sorted(finite, key=lambda number: -values[number] if more else values[number])
    return sorted(ranked[:keep])


def steps_taken(points: int, steps: int, reduction: int) -> int:
    """Optimizer steps that a search of so many points takes in all."""
    taken, before, left = 0, 0, points
    for rung in rungs(points, steps, reduction):
        taken, before, left = taken + left * (rung.step - before), rung.step, rung.keep
    return taken + left * (steps - before)
