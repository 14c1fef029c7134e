"""What each axis does on average, and which axes depend on each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from titanlab.sweeps.conclusions.factors import Effects
from titanlab.sweeps.conclusions.figures.intervals import draw_interval
from titanlab.sweeps.conclusions.figures.style import (
    FAINT,
    INK,
    SERIES,
    VERDICTS,
    caption,
    drawable,
    new_figure,
    plain_grid,
    title,
    wrapped,
)
from titanlab.sweeps.conclusions.summary import Summary
from titanlab.sweeps.inference.effects import Effect
from titanlab.sweeps.inference.intervals import estimate
from titanlab.sweeps.readable import readable_signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_MAINS = 20
MOST_INTERACTIONS = 10
MOST_PANELS = 6


def draw_effects(summary: Summary, found: Effects) -> Figure:
    """Main effects above, the largest interactions below: a dot for the mean, a bar for the interval."""
    mains = [effect for effect in found.effects if not effect.is_interaction][:MOST_MAINS]
    both = _largest(found)
    shown = mains + both
    figure = new_figure(9.0, 2.2 + 0.42 * (len(shown) + bool(both)))
    axes = figure.subplots()
    places = [*range(len(mains)), *(place + 1 for place in range(len(mains), len(shown)))]
    low, high = _limits(shown)
    for place, effect in zip(places, shown, strict=True):
        _draw_effect(axes, effect, place, low, high)
    axes.axvline(0, color=INK, linewidth=1, zorder=1)
    axes.set_yticks(places, [wrapped(found.label(effect)) for effect in shown], fontsize=9)
    if both:
        axes.annotate(
            "interactions: beyond the sum of the two", (0.0, len(mains)), xycoords=("axes fraction", "data"),
            fontsize=8.5, color=FAINT, va="center",
        )  # fmt: skip
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.set_xlim(low, high)
    axes.tick_params(axis="y", length=0)
    plain_grid(axes, "x")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"difference of mean {summary.plan.objective.metric}")
    caption(figure, _explanation(found, len(mains), len(both)))
    title(figure, f"{summary.plan.name}: what each axis does to {summary.plan.objective.metric}, over the whole grid")
    return figure


def draw_interactions(summary: Summary, found: Effects) -> Figure | None:
    """Pairs of axes, those that depend on each other most first; parallel lines mean that they do not."""
    pairs = list(dict.fromkeys((one.levels[0].axis, one.levels[1].axis) for one in _by_size(found)))[:MOST_PANELS]
    if not pairs:
        return None
    columns = min(3, len(pairs))
    lines = -(-len(pairs) // columns)
    figure = new_figure(max(5.0, 3.4 * columns), 1.0 + 3.2 * lines)
    panels = list(figure.subplots(lines, columns, squeeze=False, sharey=True).flat)
    for axes, (first, second) in zip(panels, pairs, strict=False):
        _draw_pair(axes, found, first, second)
    for axes in panels[len(pairs) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel(summary.plan.objective.metric)
    total = found.grid.axes * (found.grid.axes - 1) // 2
    more = f" (the {len(pairs)} strongest of {total} pairs)" if total > len(pairs) else ""
    bars = "; bars: 95 % intervals" if len(found.seeds) > 1 else ""
    title(figure, f"{summary.plan.name}: which axes depend on each other{more}")
    caption(figure, [f"parallel lines: they do not{bars}"])
    return figure


def _by_size(found: Effects) -> list[Effect]:
    both = [effect for effect in found.effects if effect.is_interaction]
    return sorted(both, key=lambda effect: -abs(effect.comparison.difference.mean))


def _largest(found: Effects) -> list[Effect]:
    return _by_size(found)[:MOST_INTERACTIONS]


def _draw_effect(axes: Axes, effect: Effect, place: int, low: float, high: float) -> None:
    mean, (bar_low, bar_high) = drawable([effect.comparison.difference.mean])[0], effect.comparison.difference[1:]
    colour = VERDICTS.get(effect.verdict, FAINT)
    if bar_low is not None and bar_high is not None:
        draw_interval(axes, (bar_low, bar_high), place, (low, high), colour)
    marker = "D" if effect.is_interaction else "o"
    axes.plot(mean, place, marker, color=colour, markersize=7.5, markeredgecolor="white", zorder=4)
    axes.annotate(
        readable_signed(mean, 3), (mean, place), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8,
        color=INK, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
    )  # fmt: skip


def _limits(shown: list[Effect]) -> tuple[float, float]:
    """Room for all means and zero, and for intervals as far as they do not squeeze the means together."""
    means = [0.0, *drawable(effect.comparison.difference.mean for effect in shown)]
    ends = drawable(end for effect in shown for end in effect.comparison.difference[1:] if end is not None)
    spread = (max(means) - min(means)) or max(map(abs, ends), default=0) or 1.0
    low = max(min([*means, *ends]), min(means) - 3 * spread)
    high = min(max([*means, *ends]), max(means) + 3 * spread)
    return low - 0.08 * spread, high + 0.08 * spread


def _explanation(found: Effects, mains: int, both: int) -> list[str]:
    words = ["one seed: no intervals, nothing is sure"]
    if len(found.seeds) > 1:
        words = ["bar: 95 % interval over the seeds"]
        words.append("blue: better; orange: worse; grey: neither is sure after Holm's correction")
    hidden = len(found.effects) - mains - both
    if hidden:
        words.append(f"{hidden} more are in effects.csv")
    return words


def _draw_pair(axes: Axes, found: Effects, first: int, second: int) -> None:
    across, lines = found.factors[first], found.factors[second]
    means = found.grid.marginal(first, second)
    places = range(len(across.levels))
    for index, value in enumerate(lines.values[: len(SERIES)]):
        measured = [estimate(drawable(means[level, index].tolist())) for level in places]
        shift = 0.04 * (index - (len(lines.values) - 1) / 2)
        shifted = [place + shift for place in places]
        colour = SERIES[index]
        for place, (_, low, high) in zip(shifted, measured, strict=True):
            if low is not None and high is not None:
                axes.plot((place, place), (low, high), color=colour, alpha=0.35, linewidth=1.5)
        line = "o-" if index % 2 == 0 else "s--"
        axes.plot(shifted, [one.mean for one in measured], line, color=colour, linewidth=1.6, markersize=5, label=value)
    axes.set_xticks(list(places), [wrapped(value, 14) for value in across.values], fontsize=8.5)
    axes.set_xlabel(across.name)
    axes.margins(x=0.15)
    plain_grid(axes, "y")
    hidden = len(lines.values) - len(SERIES)
    name = f"{lines.name} ({len(SERIES)} of {len(lines.values)})" if hidden > 0 else lines.name
    axes.legend(title=wrapped(name, 24), fontsize=8, title_fontsize=8, frameon=False, loc="best")
