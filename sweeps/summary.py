"""The numbers of a comparison: means over seeds, intervals, differences to the baseline, ranks.

Intervals are 95 % of Student's t. The difference of two cells that ran with the same seeds is taken seed by seed
(paired), which removes what the seeds share; otherwise it is Welch's interval (Welch, Biometrika 34, 1947).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from titanlab.sweeps.aims import Aim
from titanlab.sweeps.plan import Cell, Plan, Trial
from titanlab.sweeps.trial_record import read_record

CONFIDENCE = 0.95

Verdict: TypeAlias = Literal["baseline", "better", "worse", "too few seeds to tell", "no result", ""]


class Estimate(NamedTuple):
    """A mean with its interval; without an interval where one seed gives none."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Unfinished:
    """A trial without a result, and why."""

    trial: Trial
    variant: str
    status: str
    """`not begun`, `stopped`, `diverged`, `out_of_memory`, `failed`, or `no KEY` for a result without the objective."""
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """What a cell came to."""

    cell: Cell
    values: dict[int, float]
    """The objective by seed, of the complete trials."""
    estimate: Estimate | None
    difference: Estimate | None
    """To the baseline; None for the baseline, and without one."""
    paired: bool
    """Whether the difference was taken seed by seed."""
    verdict: Verdict
    rank: int | None
    """From 1, by the mean; None without a result."""
    seconds: float | None
    """Mean training time of a trial."""
    tokens_per_second: float | None


@dataclass(frozen=True)
class Summary:
    """A whole comparison."""

    plan: Plan
    rows: tuple[Row, ...]
    """Best first; cells without a result at the end."""
    unfinished: tuple[Unfinished, ...] = field(default=())

    @property
    def complete(self) -> int:
        """Number of trials with a result."""
        return len(self.plan.trials) - len(self.unfinished)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and t interval of independent measurements."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Estimate(mean, None, None)
    half = _t_quantile(len(values) - 1) * math.sqrt(_variance(values) / len(values))
    return Estimate(mean, mean - half, mean + half)


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Estimate:
    """Mean and t interval of `values - baseline`, seed by seed; both hold the same seeds."""
    return estimate([values[seed] - baseline[seed] for seed in sorted(values)])


def welch_difference(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """Mean and Welch's interval of `values - baseline` for independent measurements of unequal variance."""
    mean = math.fsum(values) / len(values) - math.fsum(baseline) / len(baseline)
    if min(len(values), len(baseline)) < 2:
        return Estimate(mean, None, None)
    parts = [_variance(sample) / len(sample) for sample in (values, baseline)]
    squared = sum(parts)
    if squared == 0:
        return Estimate(mean, mean, mean)
    # The Welch-Satterthwaite degrees of freedom.
    freedom = squared**2 / sum(
        part**2 / (len(sample) - 1) for part, sample in zip(parts, (values, baseline), strict=True)
    )
    half = _t_quantile(freedom) * math.sqrt(squared)
    return Estimate(mean, mean - half, mean + half)


def summarize(plan: Plan, trials: Path) -> Summary:
    """The comparison of a plan's trials as they stand in `trials`, the folder with one folder a trial."""
    results: dict[str, Mapping[str, float]] = {}
    unfinished = []
    variants = {cell.key: cell.variant for cell in plan.cells}
    for trial in plan.trials:
        record = read_record(trials / trial.key)
        if record is None:
            status, reason = "not begun", ""
        elif record.status != "complete":
            status, reason = record.status, record.reason
        elif not math.isfinite(record.metrics.get(plan.objective.metric, math.nan)):
            status, reason = f"no {plan.objective.metric}", "its result lacks the objective or is not finite"
        else:
            results[trial.key] = record.metrics
            continue
        unfinished.append(Unfinished(trial, variants[trial.cell_key], status, reason))
    return Summary(plan, _ranked(plan, results), tuple(unfinished))


def _ranked(plan: Plan, results: Mapping[str, Mapping[str, float]]) -> tuple[Row, ...]:
    metric = plan.objective.metric
    values = {
        cell.key: {trial.seed: results[trial.key][metric] for trial in cell.trials if trial.key in results}
        for cell in plan.cells
    }
    sign = -1 if plan.objective.direction == "max" else 1
    order = sorted(
        plan.cells,
        key=lambda cell: sign * estimate(list(values[cell.key].values())).mean if values[cell.key] else math.inf,
    )
    baseline = values[plan.baseline.key] if plan.baseline else {}
    rows = []
    for place, cell in enumerate(order, start=1):
        own = [results[trial.key] for trial in cell.trials if trial.key in results]
        rows.append(_row(plan.objective, cell, values[cell.key], baseline, own, place))
    return tuple(rows)


def _row(
    aim: Aim,
    cell: Cell,
    values: dict[int, float],
    baseline: dict[int, float],
    results: list[Mapping[str, float]],
    place: int,
) -> Row:
    compared = bool(values and baseline) and not cell.is_baseline
    paired = compared and values.keys() == baseline.keys()
    difference = None
    if compared:
        difference = (
            paired_difference(values, baseline)
            if paired
            else welch_difference(list(values.values()), list(baseline.values()))
        )
    return Row(
        cell=cell,
        values=values,
        estimate=estimate(list(values.values())) if values else None,
        difference=difference,
        paired=paired,
        verdict=_verdict(aim, cell, values, difference),
        rank=place if values else None,
        seconds=_mean_of("cost/seconds", results),
        tokens_per_second=_mean_of("cost/tokens_per_second", results),
    )


def _verdict(aim: Aim, cell: Cell, values: Mapping[int, float], difference: Estimate | None) -> Verdict:
    if not values:
        return "no result"
    if cell.is_baseline:
        return "baseline"
    if difference is None:
        return ""
    low, high = difference.low, difference.high
    if low is None or high is None or low <= 0 <= high:
        return "too few seeds to tell"
    return "better" if (low > 0) == (aim.direction == "max") else "worse"


def _mean_of(metric: str, results: Sequence[Mapping[str, float]]) -> float | None:
    found = [result[metric] for result in results if metric in result]
    return math.fsum(found) / len(found) if found else None


def _variance(values: Sequence[float]) -> float:
    """The unbiased estimate."""
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _t_quantile(freedom: float) -> float:
    """The factor of a two-sided interval."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
