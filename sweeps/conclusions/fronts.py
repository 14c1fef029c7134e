"""The Pareto fronts of a comparison: quality against each cost that differs between cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from titanlab.sweeps.conclusions.summary import Row, Summary
from titanlab.sweeps.inference.pareto import pareto_front

SHOWN = 6
"""Cells of a front that are named."""


class Measure(NamedTuple):
    """A cost of a cell."""

    label: str
    of: Callable[[Row], float | None]
    less_is_better: bool = True


MEASURES = (
    Measure("state, bytes a sequence", lambda row: row.cell.state_bytes),
    Measure("parameters", lambda row: row.cell.parameters),
    Measure("forward FLOPs a token", lambda row: row.cell.flops),
    Measure("tokens per second (more is better)", lambda row: row.metrics.get("cost/tokens_per_second"), False),
)


@dataclass(frozen=True)
class Front:
    """The cells by one cost."""

    measure: Measure
    points: tuple[tuple[Row, float], ...]
    """Every cell with a result and its cost."""
    best: tuple[Row, ...]
    """The front, cheapest first: no other cell has both a better mean and a better cost."""

    def cost_of(self, row: Row) -> float:
        """The cost of one of the cells."""
        return next(cost for other, cost in self.points if other is row)


def fronts(summary: Summary) -> list[Front]:
    """One front a measure that differs between the cells."""
    sign = 1 if summary.plan.objective.direction == "max" else -1
    found = []
    for measure in MEASURES:
        points = [(row, float(cost)) for row in summary.ranked if (cost := measure.of(row)) is not None]
        if len({cost for _, cost in points}) < 2:
            continue
        sides = 1 if measure.less_is_better else -1
        front = pareto_front([(sign * row.estimate.mean, sides * cost) for row, cost in points if row.estimate])
        found.append(Front(measure, tuple(points), tuple(points[index][0] for index in front)))
    return found


def front_lines(summary: Summary) -> list[str]:
    """Each front in words, by rank, cheapest first."""
    return [
        f"Not beaten in quality and {front.measure.label}: "
        + ", ".join(f"{row.rank} ({row.cell.variant})" for row in front.best[:SHOWN])
        + (f" and {len(front.best) - SHOWN} more" if len(front.best) > SHOWN else "")
        + "."
        for front in fronts(summary)
    ]
