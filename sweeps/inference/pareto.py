"""Which cells are not beaten in quality and cost at once."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The numbers of the points that no other point beats, cheapest first.

    A point beats another if it is at least as good in both and better in one.

    Args:
        points: quality (more is better) and cost (less is better).
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][1], -points[index][0]))
    front: list[int] = []
    for index in order:
        quality, cost = points[index]
        best = points[front[-1]] if front else None
        if best is None or quality > best[0] or (quality, cost) == best:
            front.append(index)
    return front
