"""What quality costs: every cell by its cost, and the front that no cell beats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from titanlab.sweeps.conclusions.figures.style import (
    BLUE,
    FAINT,
    INK,
    PUBLISHED,
    caption,
    drawable,
    new_figure,
    plain_grid,
    robust_limits,
    title,
)
from titanlab.sweeps.conclusions.fronts import Front, fronts
from titanlab.sweeps.conclusions.summary import Row, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NAMES = 10
MANY = 40


def draw_trade_offs(summary: Summary) -> Figure | None:
    """One panel a cost that differs between cells; None where none does."""
    found = fronts(summary)
    if not found:
        return None
    columns = len(found) if len(found) < 4 else 2
    lines = -(-len(found) // columns)
    named = {row.rank: row for front in found for row in _named(front)}
    key = [f"{rank}  {row.cell.variant}" for rank, row in sorted(named.items(), key=lambda pair: pair[0] or 0)]
    figure = new_figure(max(5.0, min(10.5, 4.2 * columns)), 1.7 + 3.3 * lines + 0.17 * len(key))
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, front in zip(panels.flat, found, strict=False):
        _draw(axes, summary, front)
    for axes in panels[:, 0]:
        axes.set_ylabel(summary.plan.objective.metric)
    legend = "blue: not beaten in quality and cost at once, numbered by rank; grey: beaten; square: baseline"
    low, high = _limits(found[0])
    beyond = sum(not low <= _mean(row) <= high for row, _ in found[0].points)
    caption(figure, [legend, *([f"{beyond} cells lie beyond the picture"] if beyond else []), *key])
    title(figure, f"{summary.plan.name}: {summary.plan.objective.metric} against cost")
    return figure


def _draw(axes: Axes, summary: Summary, front: Front) -> None:
    from matplotlib.ticker import EngFormatter

    crowded = len(front.points) > MANY
    for row, cost in front.points:
        if not crowded or row in front.best or row.cell.is_baseline:
            _draw_cell(axes, row, cost, on_front=row in front.best)
    if crowded:
        grey = [(cost, _mean(row)) for row, cost in front.points if row not in front.best]
        axes.plot(*zip(*grey, strict=True), "o", color=FAINT, markersize=3.5, zorder=2.5)
    for row in _named(front):
        axes.annotate(
            str(row.rank), (front.cost_of(row), _mean(row)), xytext=(6, 5), textcoords="offset points", fontsize=9,
            color=BLUE, fontweight="bold", zorder=4,
        )  # fmt: skip
    means = [_mean(row) for row in front.best]
    costs = [front.cost_of(row) for row in front.best]
    axes.plot(costs, means, color=BLUE, linewidth=1, alpha=0.7, zorder=2, drawstyle="steps-post")
    if _is_wide(front):
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    low, high = _limits(front)
    axes.set_ylim(low, high)
    for reference in summary.plan.references:
        if reference.metric == summary.plan.objective.metric and low <= reference.value <= high:
            axes.axhline(reference.value, color=PUBLISHED, linewidth=1.0, linestyle=(0, (1, 1.5)), zorder=1)
    axes.margins(x=0.12)
    plain_grid(axes)
    axes.set_xlabel(front.measure.label)


def _draw_cell(axes: Axes, row: Row, cost: float, on_front: bool) -> None:
    assert row.estimate is not None
    mean, low, high = _mean(row), row.estimate.low, row.estimate.high
    colour = BLUE if on_front else FAINT
    if low is not None and high is not None:
        axes.plot((cost, cost), drawable((low, high)), color=colour, alpha=0.3, linewidth=1.5, zorder=1)
    marker = "s" if row.cell.is_baseline else "o"
    axes.plot(cost, mean, marker, color=INK if row.cell.is_baseline else colour, markersize=6, zorder=3)


def _named(front: Front) -> list[Row]:
    """The cells of the front, best first, that are far enough from the better ones to bear a number beside them."""
    low, high = _limits(front)
    places = {row.rank: _horizontal(front, cost) for row, cost in front.points}
    named: list[Row] = []
    for row in sorted(front.best, key=lambda row: row.rank or 0):
        if not low <= _mean(row) <= high:
            continue
        across, up = places[row.rank], _mean(row) / (high - low)
        near = (abs(across - places[one.rank]) < 0.07 and abs(up - _mean(one) / (high - low)) < 0.05 for one in named)
        if not any(near):
            named.append(row)
    return named[:MOST_NAMES]


def _horizontal(front: Front, cost: float) -> float:
    """Where in the panel a cost lies, from 0 to 1."""
    scale = math.log if _is_wide(front) else float
    ends = [scale(other) for _, other in front.points]
    return (scale(cost) - min(ends)) / (max(ends) - min(ends))


def _is_wide(front: Front) -> bool:
    """Whether the costs ask for a logarithmic axis."""
    costs = [cost for _, cost in front.points]
    return min(costs) > 0 and max(costs) / min(costs) > 20


def _limits(front: Front) -> tuple[float, float]:
    """Room for all means; a wide interval runs out of the panel rather than press the others flat."""
    low, high = robust_limits([_mean(row) for row, _ in front.points])
    room = 0.2 * ((high - low) or abs(low) or 1.0)
    return low - room, high + room


def _mean(row: Row) -> float:
    assert row.estimate is not None
    return drawable([row.estimate.mean])[0]
