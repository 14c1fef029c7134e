"""A picture of a streaming result: tokens a second, memory and state against its length, all models on it."""

from __future__ import annotations

import gc
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titanlab.benchmarks.chip import GIGA
from titanlab.benchmarks.result import Result
from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.files import write_atomically
from titanlab.sweeps.conclusions.figures.style import SERIES, caption, new_figure, plain_grid, styled, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 13.5, 4.8
SPEED, MEMORY, STATE = "tokens a second", "memory in use, GB", "state, GB"
PANELS = (SPEED, MEMORY, STATE)
DASHED = "transformer"
"""The baseline's line."""
DOUBLINGS = ("1K", "4K", "16K", "64K", "256K", "1M", "4M", "16M", "64M")


def plot_stream(result: Result, path: Path) -> None:
    """Replaces a PNG; a cross ends a line whose model did not read the whole stream.

    Raises:
        ConfigError: the file cannot be written.
    """
    drawn = _drawn(result)
    try:
        write_atomically(path, drawn)
    except OSError as error:
        raise ConfigError(Problem(f"--plot {path}: cannot be written ({error.strerror or error})")) from error


def warm_up() -> None:
    """Draws empty pictures and throws them away.

    A process keeps some 40 MB once it has drawn: nearly all after the first picture, the rest after the second. Where
    memory in use is measured between pictures, it has to keep them from the beginning.
    """
    for _ in range(2):
        _drawn(Result("", [], facts={"courses": {}, "date": ""}))


def _drawn(result: Result) -> bytes:
    """A PNG. Nothing of the drawing is left in memory: its figure refers to itself in circles."""
    png = _png(result)
    gc.collect()
    return png


def _png(result: Result) -> bytes:
    with styled():
        figure = new_figure(WIDTH, HEIGHT)
        panels = dict(zip(PANELS, figure.subplots(1, len(PANELS)), strict=True))
        for index, (name, course) in enumerate(result.facts["courses"].items()):
            if course["stretches"]:
                _draw(panels, name, course, SERIES[index % len(SERIES)])
        for label, axes in panels.items():
            _dress(axes, label)
        if panels[SPEED].lines:
            panels[SPEED].legend(frameon=False, fontsize=9)
        title(figure, result.title if result.finished else f"{result.title}: unfinished")
        caption(figure, [*_ends(result), f"Measured {result.facts['date']}."])
        drawn = BytesIO()
        figure.savefig(drawn, format="png", facecolor="white")
        return drawn.getvalue()


def _draw(panels: dict[str, Axes], name: str, course: dict[str, Any], colour: str) -> None:
    stretches = course["stretches"]
    lengths = [stretch["stop"] for stretch in stretches]
    values = {
        SPEED: [stretch["tokens_per_second"] for stretch in stretches],
        MEMORY: [(stretch["peak_bytes"] or stretch["memory_bytes"]) / GIGA for stretch in stretches],
        STATE: [stretch["state_bytes"] / GIGA for stretch in stretches],
    }
    line = "--" if name.startswith(DASHED) else "-"
    for panel, axes in panels.items():
        axes.plot(lengths, values[panel], line, color=colour, label=name, marker="o", markersize=2.5, linewidth=1.4)
        if course["ended"] != "length":
            axes.plot(lengths[-1:], values[panel][-1:], "x", color=colour, markersize=9, markeredgewidth=2)


def _dress(axes: Axes, label: str) -> None:
    """Axes and their numbers; of lengths those that lie in the picture."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("tokens read")
    axes.set_title(label, loc="left", fontsize=10)
    low, high = axes.get_xlim()
    places = [(1 << (10 + 2 * index), name) for index, name in enumerate(DOUBLINGS)]
    inside = [place for place in places if low <= place[0] <= high]
    axes.set_xticks([place for place, _ in inside], [name for _, name in inside])
    axes.xaxis.set_minor_formatter(NullFormatter())
    bottom, top = axes.get_ylim()
    numbers = FuncFormatter(lambda value, _: f"{value:,.10g}")
    axes.yaxis.set_major_formatter(numbers)
    axes.yaxis.set_minor_formatter(numbers if top < 10 * bottom else NullFormatter())
    plain_grid(axes)


def _ends(result: Result) -> list[str]:
    courses = result.facts["courses"].items()
    return [f"x: {name}, {course['reason']}." for name, course in courses if course["ended"] != "length"]
