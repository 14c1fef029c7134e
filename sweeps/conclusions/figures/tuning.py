"""What tuning saw: the metric of every point against the setting that was tuned, usually the learning rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from titanlab.sweeps.conclusions.figures.style import (
    BEHIND,
    FAINT,
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
from titanlab.sweeps.language.search_space import Span
from titanlab.sweeps.planning.plan import Plan
from titanlab.sweeps.planning.tuning import Search, Tried, Tuning

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATE = "train.learning_rate"


def draw_tuning(plan: Plan, order: list[str]) -> Figure | None:
    """The points of each cell, the chosen one ringed; None before any has a value, and without a range.

    Args:
        order: the keys of the cells, the best first; the first ones are in colour.
    """
    tuning = plan.tuning
    key = _axis(tuning) if tuning is not None else None
    if tuning is None or key is None:
        return None
    searches = sorted(tuning.searches, key=lambda search: _position(search, order))
    values = [point.value for search in searches for point in search.tried if _has_value(point)]
    if not values:
        return None
    figure = new_figure(9.0, 5.0)
    axes = figure.subplots()
    low, high = robust_limits(drawable(value for value in values if value is not None))
    room = 0.08 * ((high - low) or abs(low) or 1.0)
    axes.set_ylim(low - room, high + room)
    for number, search in reversed(list(enumerate(searches))):
        colour = SERIES[number] if number < len(SERIES) else BEHIND
        _draw(axes, search, key, colour, number < len(SERIES), is_alone=len(tuning.space) == 1)
    _draw_failed(axes, searches, key, tuning)
    if tuning.space[key].scale == "log":
        _scale(axes, tuning.space[key])
    axes.set_xlabel(key)
    axes.set_ylabel(tuning.aim.metric)
    plain_grid(axes)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1], labels[::-1], fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0.0,
    )  # fmt: skip
    caption(figure, ["; ".join(_words(tuning, searches))])
    title(figure, f"{plan.name}: {tuning.aim.metric} against {key.rpartition('.')[2].replace('_', ' ')}, while tuning")
    return figure


def _axis(tuning: Tuning) -> str | None:
    """The setting to draw against: the learning rate, else the first range."""
    ranges = [key for key, span in tuning.space.items() if not span.choices]
    return RATE if RATE in ranges else next(iter(ranges), None)


def _scale(axes: Axes, span: Span) -> None:
    """Powers of ten as plain numbers; where the range holds hardly one, what lies between them too."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    assert span.low is not None and span.high is not None
    axes.set_xscale("log")
    axes.set_xlim(span.low / (span.high / span.low) ** 0.03, span.high * (span.high / span.low) ** 0.03)
    is_wide = span.high / span.low >= 100
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if is_wide else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _position(search: Search, order: list[str]) -> int:
    return order.index(search.cell.key) if search.cell.key in order else len(order)


def _has_value(point: Tried) -> bool:
    return point.value is not None and math.isfinite(point.value)


def _draw(axes: Axes, search: Search, key: str, colour: str, is_named: bool, is_alone: bool) -> None:
    points = sorted((point for point in search.tried if _has_value(point)), key=lambda point: point.values[key])
    order = 3 if is_named else 1
    complete = [point for point in points if point.state == "complete"]
    label = wrapped(search.cell.variant, 34) if is_named else None
    xs, ys = [point.values[key] for point in complete], drawable(point.value or 0.0 for point in complete)
    line = "-" if is_alone else "none"  # with several settings, neighbours on this axis differ in the others too
    axes.plot(
        xs, ys, marker="o", markersize=4.5, linestyle=line, linewidth=1.2, color=colour, label=label, zorder=order
    )
    others = [point for point in points if point.state != "complete"]
    axes.plot(
        [point.values[key] for point in others], drawable(point.value or 0.0 for point in others), marker="o",
        markersize=4.5, linestyle="none", markerfacecolor="none", markeredgecolor=colour, zorder=order,
    )  # fmt: skip
    if search.chosen is not None:
        x, y = search.chosen.values[key], drawable([search.chosen.value or 0.0])
        axes.plot([x], y, marker="o", markersize=11, markerfacecolor="none", markeredgecolor=INK, zorder=4)


def _draw_failed(axes: Axes, searches: list[Search], key: str, tuning: Tuning) -> None:
    """Crosses at the bad end of the picture."""
    failed = [point.values[key] for search in searches for point in search.tried if point.state == "failed"]
    if failed:
        bad = axes.get_ylim()[0 if tuning.aim.direction == "max" else 1]
        axes.plot(failed, [bad] * len(failed), marker="x", linestyle="none", color=FAINT, clip_on=False, zorder=2)


def _words(tuning: Tuning, searches: list[Search]) -> list[str]:
    states = {point.state for search in searches for point in search.tried}
    words = ["a dot: a point of the search, ringed where it was chosen"]
    if "given up" in states:
        words.append("hollow: given up, with its value at that rung")
    if "failed" in states:
        words.append("cross: diverged or failed")
    if len(tuning.space) > 1:
        words.append("points differ in the other tuned settings too")
    if len(searches) > len(SERIES):
        words.append(f"grey: {len(searches) - len(SERIES)} other cells")
    return words
