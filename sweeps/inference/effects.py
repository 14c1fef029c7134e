"""What each axis of a full grid does on average, and which two depend on each other.

With every combination of levels measured over the same seeds, a main effect is the difference of two marginal means
(the mean over all other axes) and a two-way interaction the difference of two such differences. Each is taken seed by
seed, so its t interval needs no assumption about the spread within cells and lets cells share their seeds' luck.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from titanlab.sweeps.inference.comparisons import (
    Comparison,
    Direction,
    Verdict,
    compare_to_zero,
    correct,
    verdict,
)


class Level(NamedTuple):
    """One value of an axis."""

    axis: int
    """Number of the axis."""
    number: int
    """Number of the value."""


@dataclass(frozen=True)
class Effect:
    """A contrast of levels against their axes' reference levels."""

    levels: tuple[Level, ...]
    """One for a main effect, two for an interaction."""
    comparison: Comparison
    """To zero, corrected over all effects of its kind."""
    verdict: Verdict

    @property
    def is_interaction(self) -> bool:
        """Whether two axes take part."""
        return len(self.levels) == 2


@dataclass(frozen=True)
class Factorial:
    """A complete and balanced grid."""

    values: np.ndarray
    """One dimension an axis, the last one the seeds; no NaN."""
    references: tuple[int, ...]
    """The level of each axis that the others are compared to."""

    @property
    def axes(self) -> int:
        """Number of axes."""
        return self.values.ndim - 1

    def marginal(self, *axes: int) -> np.ndarray:
        """Means by the levels of the named axes (in rising order) and the seed."""
        others = tuple(axis for axis in range(self.axes) if axis not in axes)
        return self.values.mean(axis=others)

    def main(self, level: Level) -> list[float]:
        """A main effect, seed by seed."""
        means = self.marginal(level.axis)
        return (means[level.number] - means[self.references[level.axis]]).tolist()

    def interaction(self, first: Level, second: Level) -> list[float]:
        """By how much `first`'s effect is larger at `second` than at its axis' reference level, seed by seed."""
        means = self.marginal(first.axis, second.axis)
        at, other = self.references[first.axis], self.references[second.axis]
        with_second = means[first.number, second.number] - means[at, second.number]
        return (with_second - (means[first.number, other] - means[at, other])).tolist()


def effects(grid: Factorial, direction: Direction) -> list[Effect]:
    """All main effects and two-way interactions; Holm's correction is made over the mains, and over the others."""
    levels = [
        [Level(axis, number) for number in range(grid.values.shape[axis]) if number != grid.references[axis]]
        for axis in range(grid.axes)
    ]
    mains = [((level,), grid.main(level)) for own in levels for level in own]
    pairs = [
        ((one, other), grid.interaction(one, other))
        for first, second in itertools.combinations(levels, 2)
        for one, other in itertools.product(first, second)
    ]
    return _judged(mains, direction) + _judged(pairs, direction)


def fill(
    levels: Sequence[Sequence[str]], cells: Mapping[tuple[str, ...], Mapping[int, float]], seeds: Sequence[int]
) -> np.ndarray:
    """The values as `Factorial.values`; every combination of levels is in `cells`, with every seed."""
    combinations = itertools.product(*levels)
    flat = [[cells[combination][seed] for seed in seeds] for combination in combinations]
    return np.array(flat).reshape(*(len(own) for own in levels), len(seeds))


def _judged(contrasts: Sequence[tuple[tuple[Level, ...], list[float]]], direction: Direction) -> list[Effect]:
    compared: list[Any] = correct([compare_to_zero(_rounded(values)) for _, values in contrasts])
    return [
        Effect(levels, comparison, verdict(comparison, direction))
        for (levels, _), comparison in zip(contrasts, compared, strict=True)
    ]


def _rounded(values: list[float]) -> list[float]:
    """Without the dust that averaging leaves where nothing differs."""
    return [0.0 if abs(value) < 1e-12 else value for value in values]
