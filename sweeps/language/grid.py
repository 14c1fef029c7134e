"""A point of a sweep's design: settings in place of the base's, each with its place, and the run they describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from titanlab.platform.config import UNKNOWN_KEY, Config, problems_of, shown_value
from titanlab.platform.errors import ConfigError, Location, Problem
from titanlab.platform.keys import key_path
from titanlab.platform.run_config import RunConfig
from titanlab.platform.yaml_source import KeyPath
from titanlab.sweeps.language.sweep_file import Sweep


@dataclass(frozen=True)
class Setting:
    """One dotted key with the value a point gives it."""

    key: str
    value: Any
    place: KeyPath
    """Where the value stands in the file: `("axes", "model.dim", 1)`."""

    @cached_property
    def path(self) -> tuple[str, ...]:
        """The key's parts."""
        return key_path(self.key)

    @property
    def key_place(self) -> KeyPath:
        """Where the key stands in the file."""
        return self.place[:-1] if isinstance(self.place[-1], int) else self.place


@dataclass(frozen=True)
class Point:
    """One point of the design: what it changes in the base."""

    settings: tuple[Setting, ...]

    def values(self) -> dict[str, Any]:
        """Dotted key -> value."""
        return {setting.key: setting.value for setting in self.settings}

    @property
    def places(self) -> tuple[KeyPath, ...]:
        """Where its settings stand: what tells it from other points of its design."""
        return tuple(setting.place for setting in self.settings)


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


class Runs:
    """The runs that the points of a sweep describe; a block that many points share is validated once."""

    def __init__(self, sweep: Sweep, base: RunConfig) -> None:
        self.sweep, self.base = sweep, base
        self._blocks: dict[tuple[KeyPath, ...], Any] = {}

    def of(self, point: Point) -> RunConfig:
        """The run of a point.

        Raises:
            ConfigError: each problem located at the axis entry or cell it comes from, else in the base.
        """
        run = self.written(point)
        try:
            return RunConfig.model_validate({name: self._block(point, name, value) for name, value in run.items()})
        except ValidationError as error:
            raise ConfigError(_problems(self.sweep, point, error)) from None

    def written(self, point: Point) -> dict[str, Any]:
        """The settings that the file and a point write down, not validated.

        Raises:
            ConfigError: a key goes through a value as if it were a block.
        """
        run: dict[str, Any] = self.sweep.config.base
        # A block before the settings inside it, so that the finer one holds.
        for setting in sorted(point.settings, key=lambda setting: len(setting.path)):
            try:
                run = _with(run, setting.path, setting.value, self.base)
            except _NoBlockError as error:
                raise ConfigError(self.sweep.document.problem(setting.key_place, str(error))) from None
        return run

    def located(self, point: Point, error: ConfigError) -> ConfigError:
        """An error about a point's run, each problem at the place of the setting that it names."""
        document = self.sweep.document
        return ConfigError(
            [
                document.problem(_place(point, key_path(problem.path)), problem.message) if problem.path else problem
                for problem in error.problems
            ]
        )

    def _block(self, point: Point, name: str, value: Any) -> Any:
        """`model`, `task` or `train` of a run as validated settings; as it is if it has none or wrong ones."""
        places = ((name,), *(setting.place for setting in point.settings if setting.path[0] == name))
        if places not in self._blocks:
            try:
                self._blocks[places] = getattr(RunConfig.model_validate({name: value}), name)
            except ValidationError:
                self._blocks[places] = value
        return self._blocks[places]


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
