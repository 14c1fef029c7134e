"""How a metric went over the steps, read from the trials' journals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from titanlab.platform.errors import TitanlabError
from titanlab.platform.tracking.journal import Point, read_journal
from titanlab.platform.training.run_directory import METRICS
from titanlab.sweeps.inference.intervals import estimate, mean_of
from titanlab.sweeps.planning.plan import Cell, Plan

Series = dict[int, float]
Band: TypeAlias = Literal["95 % interval of the mean", "range of the seeds"]
FEWEST_FOR_INTERVALS = 3


@dataclass(frozen=True)
class Curve:
    """A metric of a cell by step, over the seeds that have reached the step."""

    steps: list[int]
    values: list[list[float]]
    """One list a step, one finite value a seed."""
    seeds: int
    """How many trials the cell has; where fewer have values, the others ended or are still on their way."""

    @property
    def mean(self) -> list[float]:
        """Over the seeds that are there."""
        return [mean_of(values) for values in self.values]

    @property
    def whole(self) -> list[bool]:
        """Where every seed is there."""
        return [len(values) == self.seeds for values in self.values]

    def band(self, kind: Band) -> list[tuple[float, float]]:
        """Its ends by step; of no width where too few seeds are left."""
        if kind == "range of the seeds":
            return [(min(values), max(values)) for values in self.values]
        return [_ends(values) for values in self.values]


@dataclass(frozen=True)
class Curves:
    """What the learning curves of a sweep show."""

    metric: str
    by_cell: dict[str, Curve]
    """By cell key; a cell without two points has none."""
    unreadable: tuple[str, ...] = ()
    """Journals that are damaged, and how."""

    @property
    def band(self) -> Band:
        """The same for all cells: intervals where all have the seeds for it, else the range."""
        enough = all(curve.seeds >= FEWEST_FOR_INTERVALS for curve in self.by_cell.values())
        return "95 % interval of the mean" if enough else "range of the seeds"


def read_curves(plan: Plan, trials: Path) -> Curves:
    """One curve a cell.

    The objective's own metric on the validation split if it was evaluated on the way, else the training loss.
    """
    lines: dict[str, list[Point]] = {}
    unreadable = []
    for trial in plan.trials:
        try:
            lines[trial.key] = read_journal(trials / trial.key / METRICS)
        except TitanlabError as error:
            lines[trial.key] = []
            unreadable.append(str(error))
    wanted = "val/" + plan.objective.metric.partition("/")[2]
    for metric in (wanted, "train/loss"):
        series = {
            key: {point.step: point.metrics[metric] for point in points if metric in point.metrics}
            for key, points in lines.items()
        }
        curves = {cell.key: curve for cell in plan.cells if (curve := _curve(cell, series)) is not None}
        if curves:
            return Curves(metric, curves, tuple(unreadable))
    return Curves(wanted, {}, tuple(unreadable))


def _curve(cell: Cell, series: Mapping[str, Series]) -> Curve | None:
    seeds = [series[trial.key] for trial in cell.trials]
    by_step = {
        step: [one[step] for one in seeds if step in one and math.isfinite(one[step])]
        for step in sorted({step for one in seeds for step in one})
    }
    held = {step: values for step, values in by_step.items() if values}
    return Curve(list(held), list(held.values()), len(seeds)) if len(held) >= 2 else None


def _ends(values: list[float]) -> tuple[float, float]:
    mean, low, high = estimate(values)
    # The interval of two values would hide every other curve behind it.
    too_few = len(values) < FEWEST_FOR_INTERVALS or low is None or high is None
    return (mean, mean) if too_few else (low, high)  # type: ignore[return-value]
