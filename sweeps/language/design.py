"""The cells of a sweep before they are validated: the grid, the ablation around the baseline, the explicit cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from titanlab.platform.config import shown_value
from titanlab.platform.errors import ConfigError
from titanlab.platform.keys import layer_key
from titanlab.sweeps.language.ablation import ablation
from titanlab.sweeps.language.conditional import Judge, take_out, vary_where
from titanlab.sweeps.language.grid import Point, Runs, Setting
from titanlab.sweeps.language.sweep_file import Sweep

MAX_CELLS = 100_000


@dataclass(frozen=True)
class Design:
    """What a sweep would run, point by point."""

    points: tuple[Point, ...]
    """In written order: the grid, the last factor fastest, the ablation, the explicit cells."""
    baseline: Point | None
    """What `ablate` varies."""
    notes: tuple[str, ...]
    """How many cells `when` and `exclude` left out."""


def design(sweep: Sweep, runs: Runs) -> Design:
    """All points of a sweep.

    Raises:
        ConfigError: a key that no sweep may vary, a condition that is none, or a grid beyond `MAX_CELLS`.
    """
    factors = _factors(sweep)
    around = ablation(sweep)
    explicit = [
        Point(tuple(Setting(key, value, ("cells", index, key)) for key, value in cell.items()))
        for index, cell in enumerate(sweep.config.cells)
    ]
    _refuse_too_many(sweep, factors, len(around) + len(explicit))
    varied = [setting for factor in factors for setting in factor[0]]
    _refuse_keys(sweep, varied + [setting for point in (*around, *explicit) for setting in point.settings])
    grid = [Point(tuple(itertools.chain(*level))) for level in itertools.product(*factors)] if factors else []
    judge = Judge(sweep, runs)
    grid, merged = vary_where(judge, grid)
    points, excluded = take_out(judge, [*grid, *around, *explicit])
    baseline = around[0] if around else None
    if baseline is not None and not any(point is baseline for point in points):
        raise ConfigError(sweep.document.problem(("exclude",), "takes out the baseline that `ablate` varies"))
    return Design(tuple(points), baseline, (*merged, *excluded))


def _factors(sweep: Sweep) -> list[list[tuple[Setting, ...]]]:
    """What the grid is the product of: for each axis, and each mapping of `paired`, the settings of its levels."""
    axes: list[list[tuple[Setting, ...]]] = [
        [(Setting(key, value, ("axes", key, index)),) for index, value in enumerate(values)]
        for key, values in sweep.config.axes.items()
    ]
    paired = [
        [
            tuple(Setting(key, value, ("paired", number, key, index)) for key, value in zip(group, level, strict=True))
            for index, level in enumerate(zip(*group.values(), strict=True))
        ]
        for number, group in enumerate(sweep.config.paired)
    ]
    return axes + paired


def _refuse_too_many(sweep: Sweep, factors: list[list[tuple[Setting, ...]]], beside: int) -> None:
    count = math.prod(len(levels) for levels in factors) if factors else 0
    if count + beside > MAX_CELLS:
        message = f"the axes make {count:,} cells; expected at most {MAX_CELLS:,}"
        raise ConfigError(sweep.document.problem(("axes",) if sweep.config.axes else ("paired",), message))


def _refuse_keys(sweep: Sweep, settings: list[Setting]) -> None:
    problems = []
    for setting in {setting.place: setting for setting in settings}.values():
        if setting.key == "train.seed":
            message = "seeds are no settings to compare: write them under `seeds`"
        elif setting.key == "name":
            message = "a name changes no result; expected a key of model, task or train"
        elif setting.path[0] == "base" and len(setting.path) > 1:
            message = f"a key starts within the base: write '{setting.key.removeprefix('base.')}'"
        elif (meant := layer_key(setting.key)) is not None:
            message = f"settings of single layers are overrides: write '{meant}'"
        elif len(setting.path) == 1 and (full := _full_key(sweep.config.base, setting.key)) not in (None, setting.key):
            message = f"unknown key '{setting.key}'; did you mean '{full}'?"
        elif not all(setting.path):
            message = f"expected a dotted key, as in model.memory.depth, got {shown_value(setting.key)}"
        else:
            continue
        problems.append(sweep.document.problem(setting.key_place, message))
    if problems:
        raise ConfigError(problems)


def _full_key(block: Mapping[str, Any], name: str) -> str | None:
    """The dotted key of the setting called `name` that the base writes somewhere within a block."""
    if name in block:
        return name
    for key, value in block.items():
        found = _full_key(value, name) if isinstance(value, Mapping) else None
        if found is not None:
            return f"{key}.{found}"
    return None
