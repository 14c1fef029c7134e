"""A comparison's numbers: every cell's mean, rank and verdict, every trial without a result, effects and fronts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from titanlab.platform.errors import CheckpointError
from titanlab.sweeps.conclusions.factors import Effects, NoEffectsError, effects_of
from titanlab.sweeps.execution.stages import standing
from titanlab.sweeps.execution.trial_record import is_training, read_record
from titanlab.sweeps.inference.comparisons import Comparison, Verdict, compare, correct, verdict
from titanlab.sweeps.inference.intervals import Estimate, bootstrap_interval, estimate, mean_of
from titanlab.sweeps.inference.ranking import Places, places
from titanlab.sweeps.planning.plan import Cell, Plan, Trial

UNDECIDED = ("not begun", "stopped", "running")
"""Trials that are on their way or that a further run completes; every other one without a result is lost."""
EXACT = ("cost/parameters", "memory/state_bytes")
"""Metrics that no seed changes."""


@dataclass(frozen=True)
class Unfinished:
    """A trial without a result, and why."""

    trial: Trial
    variant: str
    status: str
    """`not begun`, `stopped`, `running`, `diverged`, `out of memory`, `failed`, `damaged`, or `no finite KEY` for a
    result without the objective."""
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """What a cell came to."""

    cell: Cell
    values: dict[int, float]
    """The objective by seed, of the complete trials."""
    missing: dict[str, int]
    """How many of its trials have no result, by status."""
    metrics: dict[str, float]
    """Means of all finite metrics of the complete trials."""
    estimate: Estimate | None = None
    bootstrap: tuple[float, float] | None = None
    comparison: Comparison | None = None
    """To the baseline; None for the baseline, without one, and without a common seed."""
    verdict: Verdict = ""
    rank: int | None = None
    """From 1, by the mean; None without a result."""
    places: Places | None = None
    """The ranks that the intervals allow."""

    @property
    def lost(self) -> dict[str, int]:
        """The trials that ended without a result, by status; the mean is of the others only."""
        return {status: count for status, count in self.missing.items() if status not in UNDECIDED}

    @property
    def lost_words(self) -> str:
        """`2 of 5 diverged, 1 of 5 failed`, or nothing."""
        return ", ".join(f"{count} of {len(self.cell.trials)} {status}" for status, count in self.lost.items())


@dataclass(frozen=True)
class Summary:
    """A whole comparison."""

    plan: Plan
    rows: tuple[Row, ...]
    """Best first; cells without a result at the end."""
    unfinished: tuple[Unfinished, ...] = ()

    @property
    def complete(self) -> int:
        """Number of trials with a result."""
        return len(self.plan.trials) - len(self.unfinished)

    @property
    def comparisons(self) -> int:
        """Number of tests against the baseline, for which the p-values are corrected."""
        return sum(row.comparison is not None and row.comparison.p is not None for row in self.rows)

    @property
    def ranked(self) -> tuple[Row, ...]:
        """The cells with a result."""
        return tuple(row for row in self.rows if row.rank is not None)

    @cached_property
    def effects(self) -> Effects | str:
        """What the axes of the full grid do on average, or why that cannot be said."""
        values = {row.cell.key: row.values for row in self.rows}
        try:
            return effects_of(self.plan, values, [row.cell.key for row in self.rows if row.lost])
        except NoEffectsError as error:
            return str(error)


def summarize(plan: Plan, trials: Path) -> Summary:
    """The comparison of a plan's trials as they stand in `trials`, the folder with one folder a trial."""
    plan = standing(plan, trials).plan
    results: dict[str, Mapping[str, float]] = {}
    unfinished = []
    variants = {cell.key: cell.variant for cell in plan.cells}
    for trial in plan.trials:
        metrics, status, reason = _result(trials / trial.key, plan.objective.metric)
        if metrics is None:
            unfinished.append(Unfinished(trial, variants[trial.cell_key], status, reason))
        else:
            results[trial.key] = metrics
    missing: dict[str, Counter[str]] = {cell.key: Counter() for cell in plan.cells}
    for one in unfinished:
        missing[one.trial.cell_key][one.status] += 1
    rows = _ranked(plan, [_row(plan, cell, results, missing[cell.key]) for cell in plan.cells])
    return Summary(plan, tuple(_compared(plan, rows)), tuple(unfinished))


def _result(folder: Path, metric: str) -> tuple[Mapping[str, float] | None, str, str]:
    """A trial's metrics, or None with its status and the reason."""
    try:
        record = read_record(folder)
    except CheckpointError as error:
        return None, "damaged", str(error)
    if record is None:
        return None, "not begun", ""
    if record.status == "stopped" and is_training(folder):
        return None, "running", ""
    if record.error_type == "DamagedCheckpoint":
        return None, "damaged", record.message
    if record.status != "complete":
        return None, record.status.replace("_", " "), record.reason
    value = record.metrics.get(metric)
    if value is None:
        return None, f"no {metric}", "its result lacks the objective"
    if not math.isfinite(value):
        return None, f"no finite {metric}", f"it is {value}"
    return record.metrics, "complete", ""


def _row(plan: Plan, cell: Cell, results: Mapping[str, Mapping[str, float]], missing: Mapping[str, int]) -> Row:
    own = {trial.seed: results[trial.key] for trial in cell.trials if trial.key in results}
    values = {seed: metrics[plan.objective.metric] for seed, metrics in own.items()}
    sample = list(values.values())
    return Row(
        cell=cell,
        values=values,
        missing=dict(missing),
        metrics=_means(list(own.values())),
        estimate=estimate(sample) if sample else None,
        bootstrap=bootstrap_interval(sample),
        verdict="" if sample else "no result",
    )


def _ranked(plan: Plan, rows: Sequence[Row]) -> list[Row]:
    more = plan.objective.direction == "max"
    found = [(row.estimate, row) for row in rows if row.estimate is not None]
    found.sort(key=lambda pair: -pair[0].mean if more else pair[0].mean)
    allowed = places([measured for measured, _ in found], more)
    ranked = [
        replace(row, rank=rank, places=place)
        for rank, ((_, row), place) in enumerate(zip(found, allowed, strict=True), start=1)
    ]
    return ranked + [row for row in rows if row.estimate is None]


def _compared(plan: Plan, rows: Sequence[Row]) -> list[Row]:
    baseline = next((row for row in rows if row.cell.is_baseline), None)
    if baseline is None:
        return list(rows)
    exact = plan.objective.metric in EXACT
    compared = correct([None if row is baseline else compare(row.values, baseline.values, exact=exact) for row in rows])
    judged = []
    for row, comparison in zip(rows, compared, strict=True):
        found = row.verdict
        if row is baseline and row.values:
            found = "baseline"
        elif comparison is not None:
            found = verdict(comparison, plan.objective.direction)
        elif row.values and baseline.values:
            found = "too few seeds to tell"
        judged.append(replace(row, comparison=comparison, verdict=found))
    return judged


def _means(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for result in results:
        for name, value in result.items():
            if math.isfinite(value):
                found.setdefault(name, []).append(value)
    return {name: mean_of(values) for name, values in found.items()}
