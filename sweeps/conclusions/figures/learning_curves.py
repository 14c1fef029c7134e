"""How the cells got there: the objective over the steps, with bands over the seeds."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from titanlab.sweeps.conclusions.curves import Curve, Curves
from titanlab.sweeps.conclusions.figures.style import (
    BEHIND,
    INK,
    SERIES,
    caption,
    drawable,
    new_figure,
    plain_grid,
    robust_limits,
    title,
    wrapped,
)
from titanlab.sweeps.conclusions.summary import Row, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY = 40
MOST_CURVES = 300
REACH = 1.0
"""How far beyond the coloured curves, in heights of theirs, the picture may go for the others."""


def draw_curves(summary: Summary, curves: Curves) -> Figure | None:
    """The best cells and the baseline in colour, the others in grey behind them; None without any curve."""
    rows = [row for row in summary.rows if row.cell.key in curves.by_cell]
    if not rows:
        return None
    figure = new_figure(9.0, 5.0)
    axes = figure.subplots()
    coloured = [row for row in rows if not row.cell.is_baseline][: len(SERIES)]
    rows = [*rows[:MOST_CURVES], *(row for row in rows[MOST_CURVES:] if row.cell.is_baseline)]
    faintness = 0.3 if len(rows) > MANY else 1.0
    for row in reversed(rows):  # the best on top
        curve = curves.by_cell[row.cell.key]
        if row.cell.is_baseline:
            _draw(axes, row, curve, curves, INK, (0, (4, 2)))
        elif row in coloured:
            _draw(axes, row, curve, curves, SERIES[coloured.index(row)], "-")
        else:
            axes.plot(curve.steps, drawable(curve.mean), color=BEHIND, linewidth=0.8, alpha=faintness, zorder=1)
    words = [f"line: mean; band: {curves.band}"]
    if any(not all(curves.by_cell[row.cell.key].whole) for row in rows):
        words.append("dotted: not all seeds have got there")
    others = len(rows) - len(coloured) - any(row.cell.is_baseline for row in rows)
    if others:
        words.append(f"grey: {others} other cell{'s' if others > 1 else ''}")
    shown = [row.cell.key for row in coloured] + [row.cell.key for row in rows if row.cell.is_baseline]
    if _limit(axes, curves, shown, [row.cell.key for row in rows]):
        words.append("what is far off leaves the picture")
    axes.set_xlabel("step")
    caption(figure, ["; ".join(words)])
    axes.set_ylabel(curves.metric)
    axes.margins(x=0.01)
    plain_grid(axes)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1], labels[::-1], fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0.0,
    )  # fmt: skip
    title(figure, f"{summary.plan.name}: how {curves.metric} went")
    return figure


def _limit(axes: Axes, curves: Curves, coloured: list[str], drawn: list[str]) -> bool:
    """Keeps cells that are far off from pressing the coloured ones flat; whether there were any."""
    low, high = robust_limits([value for key in coloured for value in drawable(curves.by_cell[key].mean)])
    means = [value for key in drawn for value in drawable(curves.by_cell[key].mean)]
    reach = REACH * ((high - low) or abs(low) or 1.0)
    if low - reach <= min(means) and max(means) <= high + reach:
        return False
    near = [value for value in means if low - reach <= value <= high + reach]
    room = 0.1 * ((max(near) - min(near)) or 1.0)
    axes.set_ylim(min(near) - room, max(near) + room)
    return True


def _draw(axes: Axes, row: Row, curve: Curve, curves: Curves, colour: str, style: object) -> None:
    low, high = (drawable(ends) for ends in zip(*curve.band(curves.band), strict=True))
    axes.fill_between(curve.steps, low, high, color=colour, alpha=0.13, linewidth=0, zorder=2)
    for edge in (low, high):
        axes.plot(curve.steps, edge, color=colour, alpha=0.35, linewidth=0.6, zorder=2)
    name = row.cell.variant + (" (baseline)" if row.cell.is_baseline else "")
    name += f" ({row.lost_words})" if row.lost else ""
    label, mean, start = wrapped(name, 34), drawable(curve.mean), 0
    for whole, points in groupby(curve.whole):
        end = start + len(list(points))
        # A piece starts where the one before ended, so that the line has no gaps.
        piece = slice(max(0, start - 1), end)
        axes.plot(
            curve.steps[piece], mean[piece], color=colour, linestyle=style if whole else ":", linewidth=1.7,
            label=label if start == 0 else None, zorder=3,
        )  # fmt: skip
        start = end
