"""The points of a sweep's design: the product of its axes and its explicit cells, each setting with its place."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from titanlab.platform.config import UNKNOWN_KEY, Config, problems_of, shown_value
from titanlab.platform.errors import ConfigError, Location, Problem
from titanlab.platform.run_config import RunConfig
from titanlab.platform.yaml_source import KeyPath
from titanlab.sweeps.language import Sweep

MAX_CELLS = 100_000


@dataclass(frozen=True)
class Setting:
    """One dotted key with the value a point gives it."""

    key: str
    value: Any
    place: KeyPath
    """Where the value stands in the file: `("axes", "model.dim", 1)`."""

    @property
    def path(self) -> tuple[str, ...]:
        """The key's parts."""
        return tuple(self.key.split("."))

    @property
    def key_place(self) -> KeyPath:
        """Where the key stands in the file."""
        return self.place[:2] if self.place[0] == "axes" else self.place


@dataclass(frozen=True)
class Point:
    """One point of the design: what it changes in the base."""

    settings: tuple[Setting, ...]

    def values(self) -> dict[str, Any]:
        """Dotted key -> value."""
        return {setting.key: setting.value for setting in self.settings}


def design(sweep: Sweep) -> list[Point]:
    """All points in written order: the grid, the last axis fastest, then the explicit cells.

    Raises:
        ConfigError: a key that no sweep may vary, or a grid beyond `MAX_CELLS`.
    """
    config = sweep.config
    count = math.prod(len(values) for values in config.axes.values()) if config.axes else 0
    if count + len(config.cells) > MAX_CELLS:
        message = f"the axes make {count:,} cells; expected at most {MAX_CELLS:,}"
        raise ConfigError(sweep.document.problem(("axes",), message))
    columns = [
        [Setting(key, value, ("axes", key, index)) for index, value in enumerate(values)]
        for key, values in config.axes.items()
    ]
    explicit = [
        Point(tuple(Setting(key, value, ("cells", index, key)) for key, value in cell.items()))
        for index, cell in enumerate(config.cells)
    ]
    _refuse_keys(
        sweep, [column[0] for column in columns] + [setting for point in explicit for setting in point.settings]
    )
    grid = [Point(settings) for settings in itertools.product(*columns)] if columns else []
    return grid + explicit


def _refuse_keys(sweep: Sweep, settings: list[Setting]) -> None:
    problems = []
    for setting in settings:
        if setting.key == "train.seed":
            message = "seeds are no settings to compare: write them under `seeds`"
        elif setting.key == "name":
            message = "a name changes no result; expected a key of model, task or train"
        elif setting.path[0] == "base" and len(setting.path) > 1:
            message = f"a key starts within the base: write '{setting.key.removeprefix('base.')}'"
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


def base_run(sweep: Sweep) -> RunConfig:
    """The base as a run of its own.

    Raises:
        ConfigError: located in the file's `base`.
    """
    if "name" in sweep.config.base:
        message = "the sweep's own `name` names its runs; leave this one out"
        raise ConfigError(sweep.document.problem(("base", "name"), message))
    try:
        return RunConfig.model_validate(sweep.config.base)
    except ValidationError as error:
        raise ConfigError(problems_of(error, lambda path: sweep.document.locate(("base", *path)))) from None


def settle(sweep: Sweep, base: RunConfig, point: Point) -> RunConfig:
    """The run that a point describes.

    Raises:
        ConfigError: each problem located at the axis entry or cell it comes from, else in the base.
    """
    run: dict[str, Any] = sweep.config.base
    # A block before the settings inside it, so that the finer one holds.
    for setting in sorted(point.settings, key=lambda setting: len(setting.path)):
        try:
            run = _with(run, setting.path, setting.value, base)
        except _NoBlockError as error:
            raise ConfigError(sweep.document.problem(setting.key_place, str(error))) from None
    try:
        return RunConfig.model_validate(run)
    except ValidationError as error:
        raise ConfigError(_problems(sweep, point, error)) from None


def without(point: Point, setting: Setting) -> Point:
    """The point with one setting left as in the base."""
    return Point(tuple(other for other in point.settings if other is not setting))


class _NoBlockError(Exception):
    """A dotted key that goes through a value as if it were a block."""


def _with(block: Mapping[str, Any], path: tuple[str, ...], value: Any, defaults: Any) -> dict[str, Any]:
    """The block with one setting changed; what the path goes through is copied, the rest shared."""
    key, rest = path[0], path[1:]
    if not rest:
        return {**block, key: value}
    default = getattr(defaults, key, None) if isinstance(defaults, Config) else None
    inner = block.get(key)
    if key not in block:  # the base left the block out: the setting changes the default block, whose type is named
        inner = {"type": default.type_name} if isinstance(default, Config) and default.type_name else {}
    if not isinstance(inner, Mapping):
        raise _NoBlockError(f"'{key}' is {shown_value(inner)}, no block of settings with a '{'.'.join(rest)}' in it")
    return {**block, key: _with(inner, rest, value, default)}


def _problems(sweep: Sweep, point: Point, error: ValidationError) -> list[Problem]:
    unknown = {tuple(detail["loc"]) for detail in error.errors() if detail["type"] == UNKNOWN_KEY}

    def locate(path: KeyPath) -> tuple[str, Location]:
        through = [setting for setting in point.settings if setting.path[: len(path)] == path]
        if path in unknown and through:
            return sweep.document.locate(through[0].key_place)
        return sweep.document.locate(_place(point, path))

    return problems_of(error, locate)


def _place(point: Point, path: KeyPath) -> KeyPath:
    """Where in the file a run's setting stands: in the finest of the point's settings around it, else in the base."""
    around = [setting for setting in point.settings if setting.path == path[: len(setting.path)]]
    if not around:
        return ("base", *path)
    finest = max(around, key=lambda setting: len(setting.path))
    return (*finest.place, *path[len(finest.path) :])
