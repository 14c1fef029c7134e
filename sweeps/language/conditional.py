"""`when` and `exclude`: which points of a design stay, and which of their axes vary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from titanlab.platform.errors import ConfigError
from titanlab.platform.yaml_source import KeyPath
from titanlab.sweeps.language.conditions import ABSENT, Condition, ConditionError, Lookup, parse_condition
from titanlab.sweeps.language.grid import Point, Runs
from titanlab.sweeps.language.lookup import Lookups, unknown_key
from titanlab.sweeps.language.sweep_file import Sweep


class Judge:
    """Decides conditions about the points of a sweep and tells what is wrong with them by their place."""

    def __init__(self, sweep: Sweep, runs: Runs) -> None:
        self.sweep, self.runs = sweep, runs
        self.lookups = Lookups()

    def read(self, text: str, place: KeyPath) -> Condition:
        """A condition of the file.

        Raises:
            ConfigError: located at the condition.
        """
        try:
            condition = parse_condition(text)
        except ConditionError as error:
            raise ConfigError(self.sweep.document.problem(place, str(error))) from None
        if "train.seed" in condition.keys:
            message = "seeds are no part of the design: every cell runs with all of `seeds`"
            raise ConfigError(self.sweep.document.problem(place, message))
        return condition

    def holds(self, condition: Condition, place: KeyPath, point: Point) -> bool:
        """Whether a point's run fulfils a condition; a point that is no run fulfils none, and is refused later.

        Raises:
            ConfigError: the condition compares what cannot be compared.
        """
        look = self.look(point)
        try:
            return look is not None and condition.holds(look)
        except ConditionError as error:
            raise ConfigError(self.sweep.document.problem(place, str(error))) from None

    def look(self, point: Point) -> Lookup | None:
        """The look-up into a point's run."""
        try:
            return self.lookups.of(self.runs.written(point))
        except ConfigError:
            return None

    def refuse_unknown_keys(self, conditions: Mapping[KeyPath, Condition], points: Iterable[Point]) -> None:
        """A key that no run of the sweep has is misspelt.

        Raises:
            ConfigError: naming the nearest key there is.
        """
        unknown = {key for condition in conditions.values() for key in condition.keys}
        for point in points:
            if not unknown:
                return
            look = self.look(point)
            if look is not None:
                unknown = {key for key in unknown if look(key) is ABSENT}
        known = self.lookups.known_keys()
        problems = [
            self.sweep.document.problem(place, unknown_key(key, known))
            for place, condition in conditions.items()
            for key in condition.keys
            if key in unknown and known
        ]
        if problems:
            raise ConfigError(problems)


def vary_where(judge: Judge, points: Sequence[Point]) -> tuple[list[Point], list[str]]:
    """The points with each axis of `when` left as in the base where its condition does not hold, and what to say.

    Raises:
        ConfigError: a condition that is none, or conditions that wait for one another.
    """
    conditions = {key: judge.read(text, ("when", key)) for key, text in judge.sweep.config.when.items()}
    if not conditions:
        return list(points), []
    judge.refuse_unknown_keys({("when", key): condition for key, condition in conditions.items()}, points)
    order = _order(judge, conditions)
    kept: dict[tuple[KeyPath, ...], Point] = {}
    for point in points:
        varied = _varied(judge, order, point)
        kept.setdefault(varied.places, varied)
    merged = len(points) - len(kept)
    notes = [f"`when` merges {merged} of {len(points)} cells of the grid with others"] if merged else []
    return list(kept.values()), notes


def _varied(judge: Judge, order: Mapping[str, Condition], point: Point) -> Point:
    """The point with the settings that may vary in it; a condition sees those before it in `order` as they vary."""
    fixed = [setting for setting in point.settings if setting.key not in order]
    varying = {setting.key: setting for setting in point.settings if setting.key in order}
    for key, condition in order.items():
        if judge.holds(condition, ("when", key), Point(tuple(fixed))):
            fixed.append(varying[key])
    chosen = {setting.key for setting in fixed}
    return Point(tuple(setting for setting in point.settings if setting.key in chosen))


def _order(judge: Judge, conditions: Mapping[str, Condition]) -> dict[str, Condition]:
    """The conditions, each after those of the axes that it looks at."""
    waits = {
        key: {other for other in conditions if any(_touch(other, looked) for looked in condition.keys)}
        for key, condition in conditions.items()
    }
    try:
        return {key: conditions[key] for key in TopologicalSorter(waits).static_order()}
    except CycleError as error:
        chain = " -> ".join(reversed(error.args[1]))
        message = f"the conditions wait for one another: {chain}"
        raise ConfigError(judge.sweep.document.problem(("when", error.args[1][0]), message)) from None


def _touch(one: str, other: str) -> bool:
    """Whether a key is the other one, or a block around it."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def take_out(judge: Judge, points: Sequence[Point]) -> tuple[list[Point], list[str]]:
    """The points that fulfil no condition of `exclude`, and how many each takes out.

    Raises:
        ConfigError: a condition that is none, or nothing is left.
    """
    texts = judge.sweep.config.exclude
    conditions: dict[KeyPath, Condition] = {
        ("exclude", index): judge.read(text, ("exclude", index)) for index, text in enumerate(texts)
    }
    judge.refuse_unknown_keys(conditions, points)
    kept, notes = list(points), []
    for place, condition in conditions.items():
        before = len(kept)
        kept = [point for point in kept if not judge.holds(condition, place, point)]
        out = before - len(kept)
        notes.append(f"`exclude` takes out {out} cell{'' if out == 1 else 's'}: {condition.text}")
    if points and not kept:
        raise ConfigError(judge.sweep.document.problem(("exclude",), "takes out every cell"))
    return kept, notes
