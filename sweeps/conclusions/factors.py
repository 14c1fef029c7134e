"""The full grid within a plan, whichever way its file wrote it, and why there is none."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from titanlab.sweeps.inference.effects import Effect, Factorial, effects, fill
from titanlab.sweeps.language.labels import variants
from titanlab.sweeps.planning.plan import Cell, Plan


class Factor(NamedTuple):
    """An axis of the grid; settings that vary together are one."""

    keys: tuple[str, ...]
    levels: tuple[str, ...]
    """As `_level` writes a cell's values of the keys, in the order of the cells."""
    labels: tuple[str, ...]
    """What people read: `depth=2`."""
    name: str
    """What the axis is called: `depth`, and `depth + momentum` for settings that vary together."""

    @property
    def values(self) -> tuple[str, ...]:
        """The labels without the name, where there is one: `2`."""
        return tuple(label.removeprefix(f"{self.name}=") for label in self.labels)


@dataclass(frozen=True)
class Effects:
    """What the axes of a sweep's grid do."""

    factors: tuple[Factor, ...]
    grid: Factorial
    seeds: tuple[int, ...]
    """Those that every cell of the grid completed."""
    effects: tuple[Effect, ...]
    remarks: tuple[str, ...]
    """What was left out."""

    def label(self, effect: Effect) -> str:
        """`depth=2 (from depth=1)`, `depth=2 with momentum=token`."""
        labels = [self.factors[axis].labels[index] for axis, index in effect.levels]
        if effect.is_interaction:
            return " with ".join(labels)
        axis = effect.levels[0].axis
        return f"{labels[0]} (from {self.factors[axis].labels[self.grid.references[axis]]})"


class NoEffectsError(Exception):
    """There is no complete and balanced grid; says why, as a sentence for people."""


def effects_of(plan: Plan, values: Mapping[str, Mapping[int, float]], broken: Sequence[str]) -> Effects:
    """Main effects and interactions of a plan's grid.

    Args:
        values: the objective by cell key and seed.
        broken: the keys of cells of which a seed failed: the seeds left are a selection.

    Raises:
        NoEffectsError: the plan has no full grid of two axes, or its trials do not fill it.
    """
    cells = _grid_cells(plan)
    factors = _factors(cells)
    if len(factors) < 2:
        raise NoEffectsError("the sweep has no grid of two axes or more")
    place = {tuple(_level(cell, factor.keys) for factor in factors): cell for cell in cells}
    wanted = math.prod(len(factor.levels) for factor in factors)
    if len(place) < wanted:
        missing = next(
            combination for combination in itertools.product(*(f.levels for f in factors)) if combination not in place
        )
        words = " ".join(_label(factor, level) for factor, level in zip(factors, missing, strict=True))
        raise NoEffectsError(f"the grid is not complete: {len(place)} of {wanted} cells are planned ({words} is not)")
    seeds = _common_seeds(cells, values, broken)
    filled = fill(
        [factor.levels for factor in factors], {levels: values[cell.key] for levels, cell in place.items()}, seeds
    )
    grid = Factorial(filled, _references(plan, factors, place))
    over = f"the seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    remarks = [f"Effects are over the {len(cells)} cells of the grid and {over}, which all of them completed."]
    inside = {cell.key for cell in cells}
    outside = [cell.variant for cell in plan.cells if cell.key not in inside]
    if outside:
        shown = ", ".join(outside[:3]) + (f" and {len(outside) - 3} more" if len(outside) > 3 else "")
        remarks.append(f"Not part of the grid: {shown}.")
    return Effects(tuple(factors), grid, seeds, tuple(effects(grid, plan.objective.direction)), tuple(remarks))


def _grid_cells(plan: Plan) -> list[Cell]:
    """The largest set of cells that set the same keys; explicit cells beside a grid set others."""
    names = Counter(frozenset(cell.settings) for cell in plan.cells)
    keys = names.most_common(1)[0][0]
    return [cell for cell in plan.cells if frozenset(cell.settings) == keys]


def _factors(cells: Sequence[Cell]) -> list[Factor]:
    """The keys that vary, those that vary together as one."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for key in cells[0].settings:
        levels = list(dict.fromkeys(_level(cell, (key,)) for cell in cells))
        if len(levels) > 1:
            pattern = tuple(levels.index(_level(cell, (key,))) for cell in cells)
            groups.setdefault(pattern, []).append(key)
    points = {}
    for group in groups.values():
        for cell in cells:
            points[tuple(group), _level(cell, tuple(group))] = {key: cell.settings[key] for key in group}
    labels = dict(zip(points, variants(list(points.values())), strict=True))
    names = variants([dict.fromkeys(group, "") for group in groups.values()])
    return [
        Factor(
            keys=tuple(group),
            levels=tuple(level for keys, level in labels if keys == tuple(group)),
            labels=tuple(label for (keys, _), label in labels.items() if keys == tuple(group)),
            name=name.replace("= ", " + ").rstrip("="),
        )
        for group, name in zip(groups.values(), names, strict=True)
    ]


def _common_seeds(
    cells: Sequence[Cell], values: Mapping[str, Mapping[int, float]], broken: Sequence[str]
) -> tuple[int, ...]:
    failed = [cell.variant for cell in cells if cell.key in broken]
    if failed:
        more = f" and {len(failed) - 1} more cells" if len(failed) > 1 else ""
        raise NoEffectsError(f"the grid is not balanced: {failed[0]}{more} lost seeds to failures")
    seeds = set.intersection(*(set(values[cell.key]) for cell in cells))
    if not seeds:
        raise NoEffectsError("the grid is not complete yet: no seed has a result in every cell")
    return tuple(sorted(seeds))


def _references(plan: Plan, factors: Sequence[Factor], place: Mapping[tuple[str, ...], Cell]) -> tuple[int, ...]:
    """The baseline's levels if it lies in the grid, else the first of each axis."""
    for levels, cell in place.items():
        if plan.baseline is not None and cell.key == plan.baseline.key:
            return tuple(factor.levels.index(level) for factor, level in zip(factors, levels, strict=True))
    return (0,) * len(factors)


def _label(factor: Factor, level: str) -> str:
    return factor.labels[factor.levels.index(level)]


def _level(cell: Cell, keys: Sequence[str]) -> str:
    values: list[Any] = [cell.settings[key] for key in keys]
    return json.dumps(values, sort_keys=True, default=str)
