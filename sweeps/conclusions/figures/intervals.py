"""How an interval is drawn beside others."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_interval(
    axes: Axes, ends: tuple[float, float], place: float, picture: tuple[float, float], colour: str
) -> None:
    """A bar between the ends; one that leaves the picture ends in an arrow rather than squeeze all the others."""
    (low, high), (left, right) = ends, picture
    if low < right and high > left:
        shown = max(low, left), min(high, right)
        axes.plot(shown, (place, place), color=colour, linewidth=2.2, alpha=0.55, solid_capstyle="butt", zorder=2)
    for is_cut, edge, marker in ((low < left, left, "<"), (high > right, right, ">")):
        if is_cut:
            axes.plot(edge, place, marker, color=colour, markersize=6, clip_on=False, zorder=3)
