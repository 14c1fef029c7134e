"""The picture of a comparison: every cell with its seeds and interval, and how the runs got there."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titanlab.sweeps.curves import Curve
from titanlab.sweeps.readable import readable
from titanlab.sweeps.summary import Row, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CELLS = 40
MOST_CURVES = 6
TALL = 8.0
"""Inches from which on the curves do not stretch to the height of the cells beside them."""

# Okabe and Ito's colours, which people with any colour vision tell apart.
INK, FAINT, GRID = "#222222", "#8a8a8a", "#e6e6e6"
COLOURS = {"better": "#0072B2", "worse": "#D55E00", "baseline": INK}
CURVE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MEANINGS = {
    "baseline": "baseline",
    "better": "better than the baseline",
    "worse": "worse than the baseline",
    "too few seeds to tell": "too few seeds to tell",
}
STYLE: Any = {
    "font.size": 10.0,
    "font.family": "sans-serif",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
}


def draw_report(summary: Summary, metric: str, curves: Mapping[str, Curve], path: Path) -> None:
    """Saves the picture as a PNG.

    Args:
        metric: what the curves show.
        curves: by cell key; without any, the picture is the comparison alone.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = _shown_rows(summary)
    with mpl.rc_context(STYLE):
        height = max(3.6, 1.9 + 0.42 * len(rows))
        room = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.1)
        figure = Figure(figsize=(13.5 if curves else 8.5, height), dpi=150, layout=room)
        if curves:
            left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
            if height > TALL:
                right.set_box_aspect(1.0)
                right.set_anchor("N")
            _draw_curves(right, summary, metric, curves)
        else:
            left = figure.subplots()
        _draw_cells(left, summary, rows)
        figure.suptitle(_title(summary), x=0.01, ha="left", fontsize=12, fontweight="bold")
        figure.savefig(path, facecolor="white")


def _shown_rows(summary: Summary) -> list[Row]:
    """The best cells with a result, and the baseline wherever it ranks."""
    found = [row for row in summary.rows if row.estimate is not None]
    return found[:MOST_CELLS] + [row for row in found[MOST_CELLS:] if row.cell.is_baseline]


def _title(summary: Summary) -> str:
    plan, seeds = summary.plan, len(summary.plan.seeds)
    better = "higher is better" if plan.objective.direction == "max" else "lower is better"
    return f"{plan.name}: {plan.objective.metric} ({better}), {seeds} seed{'s' if seeds > 1 else ''}"


def _draw_cells(axes: Axes, summary: Summary, rows: Sequence[Row]) -> None:
    """One line a cell, best on top: a large dot for the mean, a bar for the interval, a small dot a seed."""
    low, high = _limits(rows)
    for place, row in enumerate(rows):
        _draw_cell(axes, row, place, low, high)
    baseline = next((row for row in rows if row.cell.is_baseline), None)
    if baseline is not None and baseline.estimate is not None:
        axes.axvline(baseline.estimate.mean, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    labels = ["\n".join(textwrap.wrap(row.cell.variant, 46)) for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=9)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.cell.is_baseline or row.rank == 1 else "normal")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(low, high)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(_explanation(summary, rows))
    _legend(axes, rows)


def _draw_cell(axes: Axes, row: Row, place: int, low: float, high: float) -> None:
    assert row.estimate is not None
    mean, bar_low, bar_high = row.estimate
    colour = COLOURS.get(row.verdict, FAINT)
    if bar_low is not None and bar_high is not None:
        shown = max(bar_low, low), min(bar_high, high)
        axes.plot(shown, (place, place), color=colour, linewidth=2.2, alpha=0.55, solid_capstyle="butt", zorder=2)
        # An interval that leaves the picture ends in an arrow; squeezing all the others to fit it would hide them.
        for cut, edge, marker in ((bar_low < low, low, "<"), (bar_high > high, high, ">")):
            if cut:
                axes.plot(edge, place, marker, color=colour, markersize=6, clip_on=False, zorder=3)
    if len(row.values) > 1:
        seeds = list(row.values.values())
        axes.plot(seeds, [place + 0.24] * len(seeds), "o", color=colour, markersize=3.6, alpha=0.75, zorder=3)
    axes.plot(mean, place, "o", color=colour, markersize=8.5, markeredgecolor="white", markeredgewidth=1, zorder=4)
    axes.annotate(
        readable(mean),
        (mean, place),
        xytext=(0, 7),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=colour if row.verdict in COLOURS else INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """Room for every seed, and for intervals as far as they do not squeeze the seeds together."""
    seeds = [value for row in rows for value in row.values.values()]
    if not seeds:
        return 0.0, 1.0
    low, high = min(seeds), max(seeds)
    spread = (high - low) or abs(high) or 1.0
    ends = [end for row in rows if row.estimate for end in row.estimate[1:] if end is not None]
    low = max(min([low, *ends]), low - 0.35 * spread)
    high = min(max([high, *ends]), high + 0.35 * spread)
    return low - 0.06 * spread, high + 0.06 * spread


def _explanation(summary: Summary, rows: Sequence[Row]) -> str:
    words = [summary.plan.objective.metric]
    if any(len(row.values) > 1 for row in rows):
        words.append("large dot: mean; small dots: seeds; bar: 95 % interval of the mean")
    hidden = sum(row.estimate is not None for row in summary.rows) - len(rows)
    if hidden:
        words.append(f"{hidden} more cells stand in the table")
    if summary.unfinished:
        words.append(f"{len(summary.unfinished)} of {len(summary.plan.trials)} trials have no result")
    return "\n".join(words)


def _legend(axes: Axes, rows: Sequence[Row]) -> None:
    from matplotlib.lines import Line2D

    met = {row.verdict for row in rows}
    entries = [
        Line2D([], [], marker="o", linestyle="", markersize=7, color=COLOURS.get(verdict, FAINT), label=meaning)
        for verdict, meaning in MEANINGS.items()
        if verdict in met
    ]
    if len(entries) > 1:
        axes.legend(
            handles=entries, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, fontsize=8.5, frameon=False,
            handletextpad=0.1, columnspacing=1.2, borderaxespad=0.2,
        )  # fmt: skip


def _draw_curves(axes: Axes, summary: Summary, metric: str, curves: Mapping[str, Curve]) -> None:
    """The best cells and the baseline in colour, the others in grey behind them."""
    order = [row.cell for row in summary.rows if row.cell.key in curves]
    coloured = [cell for cell in order if not cell.is_baseline][:MOST_CURVES]
    for cell in order:
        curve = curves[cell.key]
        if cell.is_baseline or cell in coloured:
            colour = INK if cell.is_baseline else CURVE_COLOURS[coloured.index(cell)]
            style = (0, (4, 2)) if cell.is_baseline else "-"
            label = "\n".join(textwrap.wrap(cell.variant + (" (baseline)" if cell.is_baseline else ""), 46))
            axes.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.13, linewidth=0)
            axes.plot(curve.steps, curve.mean, color=colour, linestyle=style, linewidth=1.6, label=label, zorder=3)
        else:
            axes.plot(curve.steps, curve.mean, color="#c9c9c9", linewidth=1, zorder=1)
    axes.set_xlabel("step\nline: mean; band: range of the seeds")
    axes.set_ylabel(metric)
    axes.margins(x=0.01)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, frameon=False, loc="best")
