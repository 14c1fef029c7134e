"""How a metric went over the steps, read from the trials' journals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from titanlab.platform.tracking.journal import read_journal
from titanlab.platform.training.run_directory import METRICS
from titanlab.sweeps.plan import Cell, Plan

Series = dict[int, float]


class Curve(NamedTuple):
    """A metric of a cell by step, over the seeds that have reached the step."""

    steps: list[int]
    mean: list[float]
    low: list[float]
    """The smallest of the seeds."""
    high: list[float]
    """The largest of the seeds."""


def read_curves(plan: Plan, trials: Path) -> tuple[str, dict[str, Curve]]:
    """The metric that the curves show and one curve a cell, by its key; cells without two points have none.

    The objective's own metric on the validation split if it was evaluated on the way, else the training loss.
    """
    lines = {trial.key: read_journal(trials / trial.key / METRICS) for trial in plan.trials}
    wanted = "val/" + plan.objective.metric.partition("/")[2]
    for metric in (wanted, "train/loss"):
        series = {
            key: {point.step: point.metrics[metric] for point in points if metric in point.metrics}
            for key, points in lines.items()
        }
        curves = {cell.key: curve for cell in plan.cells if (curve := _curve(cell, series)) is not None}
        if curves:
            return metric, curves
    return wanted, {}


def _curve(cell: Cell, series: Mapping[str, Series]) -> Curve | None:
    seeds = [series[trial.key] for trial in cell.trials]
    by_step = {
        step: [one[step] for one in seeds if step in one and math.isfinite(one[step])]
        for step in sorted({step for one in seeds for step in one})
    }
    held = {step: values for step, values in by_step.items() if values}
    if len(held) < 2:
        return None
    return Curve(
        steps=list(held),
        mean=[math.fsum(values) / len(values) for values in held.values()],
        low=[min(values) for values in held.values()],
        high=[max(values) for values in held.values()],
    )
