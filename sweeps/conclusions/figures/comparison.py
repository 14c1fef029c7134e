"""Which cell is best, and how sure that is: a line a cell, best on top, with seeds, mean and interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from titanlab.sweeps.conclusions.figures.intervals import draw_interval
from titanlab.sweeps.conclusions.figures.style import (
    FAINT,
    INK,
    PUBLISHED,
    VERDICTS,
    caption,
    new_figure,
    plain_grid,
    robust_limits,
    shortened,
    title,
    wrapped,
)
from titanlab.sweeps.conclusions.summary import Row, Summary
from titanlab.sweeps.language.references import Reference
from titanlab.sweeps.readable import readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CELLS = 25
MEANINGS = {
    "baseline": "baseline",
    "better": "better than the baseline",
    "worse": "worse than the baseline",
    "no clear difference": "no clear difference",
    "too few seeds to tell": "too few seeds to tell",
}


def draw_comparison(summary: Summary) -> Figure | None:
    """The picture; None where no cell has a result."""
    rows = _shown_rows(summary)
    if not rows:
        return None
    references = [one for one in summary.plan.references if one.metric == summary.plan.objective.metric]
    # Room above the cells for the names of the lines that stand for published values.
    above = 0.6 + 0.5 * len(references)
    figure = new_figure(9.0, 2.0 + 0.42 * (len(rows) + above))
    axes = figure.subplots()
    low, high = _limits(rows, references)
    for place, row in enumerate(rows):
        _draw_cell(axes, row, place, low, high)
    _draw_baseline(axes, rows, low, high)
    for number, reference in enumerate(references):
        _draw_reference(axes, reference, -0.6 - 0.5 * number, low, high)
    labels = axes.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=9)
    for label, row in zip(labels, rows, strict=True):
        label.label1.set_fontweight("bold" if row.cell.is_baseline or row.rank == 1 else "normal")
    axes.set_ylim(len(rows) - 0.4, -above)
    axes.set_xlim(low, high)
    axes.tick_params(axis="y", length=0)
    plain_grid(axes, "x")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(summary.plan.objective.metric)
    caption(figure, _explanation(summary, rows, low, high))
    _legend(axes, rows)
    better = "higher" if summary.plan.objective.direction == "max" else "lower"
    title(figure, f"{summary.plan.name}: {summary.plan.objective.metric} ({better} is better)")
    return figure


def _shown_rows(summary: Summary) -> list[Row]:
    """The best cells with a result, and the baseline wherever it ranks."""
    found = summary.ranked
    return [*found[:MOST_CELLS], *(row for row in found[MOST_CELLS:] if row.cell.is_baseline)]


def _label(row: Row) -> str:
    return wrapped(row.cell.variant) + (f"\n({row.lost_words})" if row.lost else "")


def _draw_cell(axes: Axes, row: Row, place: int, low: float, high: float) -> None:
    assert row.estimate is not None
    mean, bar_low, bar_high = row.estimate
    colour = VERDICTS.get(row.verdict, FAINT)
    if bar_low is not None and bar_high is not None:
        draw_interval(axes, (bar_low, bar_high), place, (low, high), colour)
    seeds = [value for value in row.values.values() if low <= value <= high]
    if len(row.values) > 1:
        axes.plot(seeds, [place + 0.24] * len(seeds), "o", color=colour, markersize=3.6, alpha=0.75, zorder=3)
    # A mean that some seeds did not live to be part of is hollow.
    fill = "white" if row.lost else colour
    edge = colour if row.lost else "white"
    at = min(max(mean, low), high)
    marker = "o" if at == mean else ">" if mean > high else "<"
    axes.plot(at, place, marker, color=fill, markersize=8.5, markeredgecolor=edge, markeredgewidth=1.2, zorder=4)
    axes.annotate(
        readable(mean), (at, place), xytext=(0, 7), textcoords="offset points",
        ha="center" if at == mean else "right" if mean > high else "left", fontsize=8,
        color=colour if row.verdict in VERDICTS else INK, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip


def _draw_baseline(axes: Axes, rows: Sequence[Row], low: float, high: float) -> None:
    baseline = next((row for row in rows if row.cell.is_baseline), None)
    if baseline is not None and baseline.estimate is not None and low <= baseline.estimate.mean <= high:
        axes.axvline(baseline.estimate.mean, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)


def _draw_reference(axes: Axes, reference: Reference, place: float, low: float, high: float) -> None:
    """A line where the published value is, or an arrow to where it would be beyond the picture."""
    text = f"published: {shortened(reference.name, 60)}, {readable(reference.value)}"
    inside = low <= reference.value <= high
    at = min(max(reference.value, low), high)
    left = at > (low + high) / 2
    if inside:
        axes.axvline(at, color=PUBLISHED, linewidth=1.2, linestyle=(0, (1, 1.5)), zorder=1)
    else:
        axes.plot(at, place, ">" if left else "<", color=PUBLISHED, markersize=6, clip_on=False)
    axes.annotate(
        text, (at, place), xytext=(-7 if left else 7, 0), textcoords="offset points",
        ha="right" if left else "left", va="center", fontsize=8, color=PUBLISHED,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip


def _limits(rows: Sequence[Row], references: Sequence[Reference]) -> tuple[float, float]:
    """Room for the seeds, and for intervals and references as far as they do not squeeze the seeds together."""
    low, high = robust_limits([value for row in rows for value in row.values.values()])
    spread = (high - low) or abs(high) or 1.0
    near = [one.value for one in references if low - spread <= one.value <= high + spread]
    low, high = min([low, *near]), max([high, *near])
    ends = [end for row in rows if row.estimate for end in row.estimate[1:] if end is not None]
    low = max(min([low, *ends]), low - 0.35 * spread)
    high = min(max([high, *ends]), high + 0.35 * spread)
    return low - 0.06 * spread, high + 0.06 * spread


def _explanation(summary: Summary, rows: Sequence[Row], low: float, high: float) -> list[str]:
    words = []
    if any(len(row.values) > 1 for row in rows):
        words.append("large dot: mean; small dots: seeds; bar: 95 % interval of the mean (Student's t)")
    if any(row.lost for row in rows):
        words.append("hollow: some seeds ended without a result and are not in the mean")
    if any(row.estimate is not None and not low <= row.estimate.mean <= high for row in rows):
        words.append("triangle: beyond the picture")
    hidden = len(summary.ranked) - len(rows)
    if hidden:
        words.append(f"the best {MOST_CELLS} of {len(summary.ranked)} cells, and the baseline")
    if summary.unfinished:
        words.append(f"{len(summary.unfinished)} of {len(summary.plan.trials)} trials have no result")
    return words


def _legend(axes: Axes, rows: Sequence[Row]) -> None:
    from matplotlib.lines import Line2D

    met = {row.verdict for row in rows}
    faint = [meaning for verdict, meaning in MEANINGS.items() if verdict in met and verdict not in VERDICTS]
    coloured = [(VERDICTS[verdict], MEANINGS[verdict]) for verdict in MEANINGS if verdict in met & VERDICTS.keys()]
    entries = coloured + ([(FAINT, " or ".join(faint))] if faint else [])
    if len(entries) > 1:
        handles = [
            Line2D([], [], marker="o", linestyle="", markersize=7, color=colour, label=meaning)
            for colour, meaning in entries
        ]
        axes.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, fontsize=8.5, frameon=False,
            handletextpad=0.1, columnspacing=1.2, borderaxespad=0.2,
        )  # fmt: skip
