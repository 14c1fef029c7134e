"""Is a cell better than the baseline? Paired tests over common seeds, Holm's correction, effect sizes, a verdict.

Seeds fix data order and initial weights alike for every cell, so differences are taken seed by seed: what seeds share
drops out. The test is the paired t test. With fewer than `FEWEST_PAIRS` common seeds nothing is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from titanlab.sweeps.inference.intervals import LARGE, Estimate, estimate, t_quantile, variance

LEVEL = 0.05
"""Significant is a p-value below this, after the correction."""
FEWEST_PAIRS = 3
LARGE_EFFECT = 0.8
"""Cohen's large effect (Statistical Power Analysis, 1988): what looks this large but is not significant needs seeds."""
POWER = 0.8
MOST_SEEDS = 1000

Direction: TypeAlias = Literal["max", "min"]
Verdict: TypeAlias = Literal[
    "baseline", "better", "worse", "no clear difference", "too few seeds to tell", "no result", ""
]
Test: TypeAlias = Literal["paired t", "sign", "none", "exact"]


@dataclass(frozen=True)
class Comparison:
    """A cell against the baseline over the seeds that both completed."""

    pairs: int
    difference: Estimate
    """Cell minus baseline, with its t interval."""
    test: Test
    """`sign` where all differences are equal and t has no spread to measure by, `none` with too few pairs, `exact`
    for a measure that no seed changes (parameters)."""
    p: float | None = None
    """Two-sided; None without a test."""
    p_holm: float | None = None
    """Corrected for the number of comparisons made at once."""
    wilcoxon: float | None = None
    """p of Wilcoxon's signed-rank test, which assumes no normal distribution; None where it could not reach `LEVEL`."""
    d_z: float | None = None
    """Cohen's d_z: mean over standard deviation of the differences; None without spread."""
    hedges_g: float | None = None
    """d_z without its upward bias in small samples (Hedges 1981)."""


def compare(values: Mapping[int, float], baseline: Mapping[int, float], exact: bool = False) -> Comparison | None:
    """Compares two cells' values by seed; None without a common seed.

    Args:
        exact: the measure does not depend on the seed, so one is enough and there is nothing to test.
    """
    seeds = sorted(values.keys() & baseline.keys())
    if not seeds:
        return None
    # A difference is exact to the rounding of what it was taken from, not to its own.
    rounding = 1e-12 * max(max(abs(values[seed]), abs(baseline[seed])) for seed in seeds)
    differences = [values[seed] - baseline[seed] for seed in seeds]
    differences = [0.0 if abs(difference) <= rounding else difference for difference in differences]
    if max(differences) - min(differences) <= rounding:
        differences = [differences[0]] * len(differences)
    found = compare_to_zero(differences)
    return replace(found, test="exact", p=None, wilcoxon=None) if exact else found


def compare_to_zero(differences: Sequence[float]) -> Comparison:
    """Compares differences, one a seed, to none at all."""
    count, difference = len(differences), estimate(differences)
    if count < FEWEST_PAIRS:
        return Comparison(count, difference, "none")
    scale = max(abs(value) for value in differences)
    scale = scale if scale > LARGE else 1.0
    spread = scale * math.sqrt(variance([value / scale for value in differences]))
    if not spread:
        p = 1.0 if difference.mean == 0 else 2.0 ** (1 - count)
        return Comparison(count, difference, "sign", p, d_z=0.0 if difference.mean == 0 else None)
    d_z = difference.mean / spread
    return Comparison(
        pairs=count,
        difference=difference,
        test="paired t",
        p=_t_test(difference.mean, spread, count),
        wilcoxon=_wilcoxon(differences),
        d_z=d_z,
        hedges_g=d_z * _hedges_factor(count - 1),
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction (Scandinavian Journal of Statistics 6, 1979) of the values that are there."""
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for place, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - place)))
        corrected[index] = largest
    return corrected


def correct(comparisons: Sequence[Comparison | None]) -> list[Comparison | None]:
    """The comparisons, made at once, with Holm's p-values."""
    corrected = holm([found.p if found else None for found in comparisons])
    return [replace(found, p_holm=p) if found else None for found, p in zip(comparisons, corrected, strict=True)]


def verdict(comparison: Comparison, direction: Direction) -> Verdict:
    """What may be claimed of a comparison whose p-values are corrected.

    A difference that is not significant is 'too few seeds to tell' where it looks large against the seeds' spread, and
    'no clear difference' where it does not.
    """
    mean = comparison.difference.mean
    improved: Verdict = "better" if (mean > 0) == (direction == "max") else "worse"
    if comparison.test == "exact":
        return improved if mean else "no clear difference"
    if comparison.p_holm is None:
        return "too few seeds to tell"
    if comparison.p_holm < LEVEL:
        return improved
    small = comparison.d_z is not None and abs(comparison.d_z) < LARGE_EFFECT
    return "no clear difference" if small else "too few seeds to tell"


def seeds_needed(comparison: Comparison, comparisons: int) -> int | None:
    """How many seeds would likely (power 0.8) show a difference as large as the one seen, among so many comparisons.

    Returns:
        At least one more than there are; None where it cannot be said, or beyond `MOST_SEEDS`.
    """
    effect = comparison.hedges_g
    if effect is None or effect == 0 or comparison.pairs < FEWEST_PAIRS:
        return None
    from scipy.special import nctdtr

    level = LEVEL / max(1, comparisons)
    for count in range(comparison.pairs + 1, MOST_SEEDS + 1):
        critical = t_quantile(1 - level / 2, count - 1)
        if 1 - nctdtr(count - 1, abs(effect) * math.sqrt(count), critical) >= POWER:
            return count
    return None


def fewest_for_ranks(comparisons: int) -> int:
    """The number of pairs from which a rank or sign test can be significant at all among so many comparisons."""
    return next(count for count in range(1, 100) if max(1, comparisons) * 2.0 ** (1 - count) < LEVEL)


def _t_test(mean: float, spread: float, count: int) -> float:
    from scipy.special import stdtr

    return float(2 * stdtr(count - 1, -abs(mean) / (spread / math.sqrt(count))))


def _wilcoxon(differences: Sequence[float]) -> float | None:
    counted = [difference for difference in differences if difference != 0]
    if len(counted) < fewest_for_ranks(1):
        return None
    from scipy.stats import wilcoxon

    return float(wilcoxon(counted).pvalue)


def _hedges_factor(freedom: int) -> float:
    """Hedges' exact J (Journal of Educational Statistics 6, 1981) for more than one degree of freedom."""
    return math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2)) / math.sqrt(freedom / 2)
