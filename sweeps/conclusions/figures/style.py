"""What all pictures share: colours that any eye tells apart, type, and how they are saved."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any colour vision tell apart.
INK, FAINT, GRID, BEHIND = "#222222", "#8a8a8a", "#e6e6e6", "#c4c4c4"
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
SERIES = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY)
PUBLISHED = "#7B3F98"
VERDICTS = {"better": BLUE, "worse": ORANGE, "baseline": INK}
"""The colour of every other verdict is `FAINT`."""
DPI = 150
LARGEST = 1e100
FAR = 60.0
"""Median distances from the median beyond which a value is left out of the picture's scale."""
FEWEST_KEPT = 2 / 3
"""The part of the values that must be left then, else all count."""

STYLE: Any = {
    "font.size": 10.0,
    "font.family": "sans-serif",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "path",  # looks the same wherever it is opened
}


@contextmanager
def styled() -> Iterator[None]:
    """Draws in this style."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty picture, in inches; what is put into it makes room for itself."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.1))


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Saves a picture as PNG and SVG; the same picture is the same file."""
    import matplotlib as mpl

    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(paths[0], facecolor="white")
        figure.set_layout_engine("none")  # what the first drawing settled holds for the second
        figure.savefig(paths[1], facecolor="white", metadata={"Date": None})
    return paths


def title(figure: Figure, text: str) -> None:
    """The picture's message, on top and to the left."""
    figure.suptitle("\n".join(textwrap.wrap(text, 95)), x=0.01, ha="left", fontsize=12, fontweight="bold")


def caption(figure: Figure, lines: Sequence[str]) -> None:
    """What one must know to read the picture, below it."""
    wide = [part for line in lines for part in textwrap.wrap(line, 120)]
    figure.supxlabel("\n".join(wide), x=0.01, ha="left", fontsize=8.5)


def wrapped(text: str, width: int = 46) -> str:
    """A label that is no wider than its picture allows, and no higher than four lines."""
    return "\n".join(textwrap.wrap(text, width, max_lines=4, placeholder=" ..."))


def drawable(values: Iterable[float]) -> list[float]:
    """The values, those beyond matplotlib's arithmetic brought to its edge."""
    return [min(max(value, -LARGEST), LARGEST) for value in values]


def robust_limits(values: Sequence[float]) -> tuple[float, float]:
    """The range of the values, without the few that are so far off that they would press all others flat."""
    import numpy as np

    found = np.asarray(values, dtype=float)
    median = np.median(found)
    distances = np.abs(found - median)
    kept = found[distances <= FAR * max(np.median(distances), abs(median) / 20)]
    kept = kept if len(kept) >= FEWEST_KEPT * len(found) else found
    return float(kept.min()), float(kept.max())


def shortened(text: str, width: int) -> str:
    """A text that stays on its line."""
    return text if len(text) <= width else f"{text[: width - 4]} ..."


def plain_grid(axes: Axes, axis: Any = "both") -> None:
    """Thin lines behind everything."""
    axes.grid(axis=axis, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
