"""What is claimed of measurements over seeds: against scipy, by hand, and where nothing may be claimed."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from titanlab.sweeps.inference.comparisons import (
    Comparison,
    compare,
    compare_to_zero,
    correct,
    fewest_for_ranks,
    holm,
    seeds_needed,
    verdict,
)
from titanlab.sweeps.inference.effects import Factorial, Level, effects
from titanlab.sweeps.inference.intervals import Estimate, bootstrap_interval, estimate
from titanlab.sweeps.inference.pareto import pareto_front
from titanlab.sweeps.inference.ranking import Places, places


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def judged(values: dict[int, float], baseline: dict[int, float], comparisons: int = 1) -> Comparison:
    """A comparison among so many equal ones."""
    found = correct([compare(values, baseline)] * comparisons)[0]
    assert found is not None
    return found


def test_an_interval_is_students_by_hand() -> None:
    # Values 1, 2, 3: mean 2, s = 1, standard error 1/sqrt(3), t(0.975, 2) = 4.302653.
    mean, low, high = estimate([1.0, 2.0, 3.0])
    assert mean == 2 and low is not None and high is not None
    assert high - mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6) == pytest.approx(mean - low)


def test_two_seeds_give_the_wide_interval_they_deserve() -> None:
    # t(0.975, 1) = 12.706205, standard error |a - b| / 2.
    assert estimate([0.0, 1.0]).high == pytest.approx(0.5 + 12.706205 * 0.5, rel=1e-6)


def test_one_seed_gives_a_mean_and_no_interval() -> None:
    assert estimate([3.0]) == (3, None, None)


def test_values_that_differ_by_rounding_only_have_no_spread() -> None:
    assert estimate([0.1 + 0.2, 0.3, 0.3]) == pytest.approx((0.3, 0.3, 0.3), abs=1e-15)
    assert estimate([1.0, 1.0]) == (1, 1, 1)


@pytest.mark.parametrize("count", [3, 5, 20])
def test_intervals_and_tests_agree_with_scipy(count: int) -> None:
    random = np.random.default_rng(count)
    one, other = random.normal(1, 1, count), random.normal(2, 3, count)
    interval = stats.ttest_1samp(one, 0).confidence_interval(0.95)
    assert estimate(list(one))[1:] == pytest.approx((interval.low, interval.high), rel=1e-12)
    expected = stats.ttest_rel(one, other)
    found = compare(by_seed(*one), by_seed(*other))
    assert found is not None and found.pairs == count and found.test == "paired t"
    assert found.p == pytest.approx(expected.pvalue, rel=1e-10)
    interval = expected.confidence_interval(0.95)
    assert found.difference[1:] == pytest.approx((interval.low, interval.high), rel=1e-10)
    assert found.d_z == pytest.approx(expected.statistic / math.sqrt(count), rel=1e-10)
    assert found.wilcoxon == (None if count < 6 else pytest.approx(stats.wilcoxon(one, other).pvalue))


def test_a_comparison_by_hand() -> None:
    # Differences 1, 2, 3: t = 2 / (1 / sqrt(3)) = 3.4641, two degrees of freedom: p = 1 - t / sqrt(t^2 + 2) = 0.0742.
    found = compare(by_seed(3, 5, 7), by_seed(2, 3, 4))
    assert found is not None
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-12)
    assert found.d_z == pytest.approx(2)
    # J(2) = gamma(1) / (sqrt(1) gamma(1/2)) = 1 / sqrt(pi).
    assert found.hedges_g == pytest.approx(2 / math.sqrt(math.pi), rel=1e-12)


def test_only_the_seeds_that_both_have_are_compared() -> None:
    found = compare({0: 1.0, 1: 2.0, 2: 4.0, 9: 100.0}, {0: 0.0, 1: 0.5, 2: 1.0, 7: -100.0})
    assert found is not None
    assert found.pairs == 3 and found.difference.mean == pytest.approx((1 + 1.5 + 3) / 3)
    assert compare({0: 1.0}, {1: 2.0}) is None


def test_fewer_than_three_pairs_claim_nothing_however_far_apart() -> None:
    found = judged(by_seed(1.0, 1.001), by_seed(0.0, 0.0))
    assert found.p is None and found.test == "none"
    assert verdict(found, "max") == "too few seeds to tell"
    # scipy would call this significant: two equal differences leave t without a denominator.
    assert verdict(judged(by_seed(1.0, 1.0), by_seed(0.0, 0.0)), "max") == "too few seeds to tell"


def test_equal_differences_are_tested_by_their_signs() -> None:
    # 0.3 - 0.1 and 0.7 - 0.5 differ by rounding; t would be about 1e16.
    found = compare(by_seed(0.3, 0.7, 0.9), by_seed(0.1, 0.5, 0.7))
    assert found is not None
    assert (found.test, found.p, found.d_z) == ("sign", 0.25, None)
    assert verdict(judged(by_seed(0.3, 0.7, 0.9), by_seed(0.1, 0.5, 0.7)), "max") == "too few seeds to tell"
    six = judged(by_seed(*[1.0] * 6), by_seed(*[0.5] * 6))
    assert six.p == 2 * 0.5**6 == stats.binomtest(6, 6).pvalue and verdict(six, "max") == "better"


def test_cells_that_are_the_same_on_all_seeds_are_not_told_apart() -> None:
    found = judged(by_seed(1.0, 0.5, 0.2), by_seed(1.0, 0.5, 0.2))
    assert (found.p, found.d_z) == (1.0, 0.0)
    assert verdict(found, "max") == "no clear difference"


def test_what_no_seed_changes_needs_no_test() -> None:
    found = compare({0: 1000.0}, {0: 1200.0}, exact=True)
    assert found is not None and found.p is None
    assert verdict(found, "min") == "better" and verdict(found, "max") == "worse"


def test_holms_correction_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04; no smaller than the one before.
    assert holm([0.03, 0.01, None, 0.04, 0.02]) == pytest.approx([0.06, 0.04, None, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == [] and holm([None]) == [None]


def test_holm_rejects_what_the_step_down_procedure_rejects() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        values = list(random.uniform(0, 0.1, 5))
        rejected = set()
        for step, index in enumerate(sorted(range(5), key=lambda index: values[index])):
            if values[index] >= 0.05 / (5 - step):
                break
            rejected.add(index)
        assert {index for index, p in enumerate(holm(values)) if p is not None and p < 0.05} == rejected


def test_a_difference_that_is_sure_alone_is_not_sure_among_many() -> None:
    values, baseline = by_seed(0.60, 0.62, 0.63), by_seed(0.50, 0.50, 0.50)
    assert verdict(judged(values, baseline), "max") == "better"
    assert verdict(judged(values, baseline), "min") == "worse"
    assert verdict(judged(values, baseline, comparisons=10), "max") == "too few seeds to tell"


def test_what_looks_small_is_no_clear_difference() -> None:
    found = judged(by_seed(0.1, -0.1, 0.1, -0.1, 0.05), by_seed(*[0.0] * 5))
    assert found.d_z is not None and abs(found.d_z) < 0.8
    assert verdict(found, "max") == "no clear difference"


def test_the_seeds_that_would_tell_have_the_power_to() -> None:
    found = compare_to_zero([0.1, 0.3, -0.05, 0.2])
    needed = seeds_needed(found, comparisons=3)
    assert needed is not None and found.hedges_g is not None

    def power(count: int) -> float:
        critical = stats.t.ppf(1 - 0.05 / 3 / 2, count - 1)
        return stats.nct.sf(critical, count - 1, found.hedges_g * math.sqrt(count))

    assert power(needed) >= 0.8 > power(needed - 1)
    assert seeds_needed(compare_to_zero([0.0, 0.0, 0.0]), 1) is None


def test_a_rank_test_needs_six_pairs_and_more_among_many() -> None:
    assert [fewest_for_ranks(count) for count in (1, 2, 11)] == [6, 7, 9]
    assert stats.wilcoxon([1, 2, 3, 4, 5]).pvalue > 0.05 > stats.wilcoxon([1, 2, 3, 4, 5, 6]).pvalue


def test_the_bootstrap_is_scipys_and_always_the_same() -> None:
    values = [0.1, 0.5, 0.2, 0.9, 0.4, 0.3]
    drawn = stats.bootstrap(
        (values,), np.mean, n_resamples=9999, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    assert bootstrap_interval(values) == (drawn.low, drawn.high) == bootstrap_interval(values)
    assert bootstrap_interval([1.0] * 5) == (1.0, 1.0)
    assert bootstrap_interval([1.0, 2.0, 3.0, 4.0]) is None


def test_cells_whose_intervals_overlap_share_their_ranks() -> None:
    measured = [Estimate(9, 8, 10), Estimate(7.5, 6, 9), Estimate(5, 4, 5.5), Estimate(1, 0, 2)]
    assert places(measured, more_is_better=True) == [Places(1, 2), Places(1, 2), Places(3, 3), Places(4, 4)]
    assert places(measured, more_is_better=False) == [Places(3, 4), Places(3, 4), Places(2, 2), Places(1, 1)]
    assert places([Estimate(1, None, None), Estimate(2, 1.5, 2.5)], True) == [None, Places(1, 2)]


def test_the_front_holds_what_nothing_beats() -> None:
    points = [(0.9, 10.0), (0.8, 5.0), (0.8, 7.0), (0.5, 1.0), (0.4, 2.0), (0.95, 10.0)]
    assert pareto_front(points) == [3, 1, 5]
    assert pareto_front([(1.0, 1.0), (1.0, 1.0)]) == [0, 1]
    assert pareto_front([]) == []


def test_the_front_is_what_comparing_everything_finds() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        points = [(float(q), float(c)) for q, c in random.integers(0, 6, (12, 2))]
        unbeaten = {
            index
            for index, (quality, cost) in enumerate(points)
            if not any(q >= quality and c <= cost and (q, c) != (quality, cost) for q, c in points)
        }
        assert set(pareto_front(points)) == unbeaten


def test_effects_of_a_two_by_two_grid_by_hand() -> None:
    # y = 1 + 2a + 3b + 4ab, and a seed that shifts everything: main effects average over the other factor.
    grid = np.array([[[1.0 + 2 * a + 3 * b + 4 * a * b + seed for seed in range(3)] for b in (0, 1)] for a in (0, 1)])
    found = effects(Factorial(grid, (0, 0)), "max")
    assert [effect.comparison.difference.mean for effect in found] == [2 + 4 / 2, 3 + 4 / 2, 4]
    assert [effect.is_interaction for effect in found] == [False, False, True]


def test_effects_are_taken_from_the_reference_levels() -> None:
    grid = np.arange(3.0)[:, None, None] * np.ones((3, 2, 4))
    found = effects(Factorial(grid, (1, 0)), "max")
    mains = {effect.levels[0]: effect.comparison.difference.mean for effect in found if not effect.is_interaction}
    assert mains == {Level(0, 0): -1.0, Level(0, 2): 1.0, Level(1, 1): 0.0}
    assert all(effect.comparison.difference.mean == 0 for effect in found if effect.is_interaction)


def test_effects_agree_with_the_least_squares_of_the_factorial_model() -> None:
    random = np.random.default_rng(1)
    grid = random.normal(size=(2, 2, 2, 5))
    found = {effect.levels: effect.comparison for effect in effects(Factorial(grid, (0, 0, 0)), "max")}
    # Coded -1 and +1, a main effect is twice its coefficient and an interaction four times.
    rows, values = [], []
    for a, b, c, seed in itertools.product(range(2), range(2), range(2), range(5)):
        x, y, z = 2 * a - 1, 2 * b - 1, 2 * c - 1
        rows.append([1, x, y, z, x * y, x * z, y * z])
        values.append(grid[a, b, c, seed])
    solved = np.linalg.lstsq(np.array(rows, dtype=float), np.array(values), rcond=None)[0]
    assert found[Level(0, 1),].difference.mean == pytest.approx(2 * solved[1])
    assert found[Level(1, 1), Level(2, 1)].difference.mean == pytest.approx(4 * solved[6])
    # The test of a main effect is the paired t test of the marginal means.
    expected = stats.ttest_rel(grid[1].mean((0, 1)), grid[0].mean((0, 1)))
    assert found[Level(0, 1),].p == pytest.approx(expected.pvalue)
