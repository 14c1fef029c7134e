"""From the points of a design to cells: each validated, met once and sized, or refused with its reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from titanlab.platform.budgets import Budget, budget_of
from titanlab.platform.costs import Costs
from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.keys import key_path
from titanlab.platform.run_config import RunConfig
from titanlab.platform.yaml_source import KeyPath
from titanlab.sweeps.language.grid import Point, Runs, without
from titanlab.sweeps.language.labels import variants
from titanlab.sweeps.language.match_terms import Matched
from titanlab.sweeps.language.sweep_file import Sweep
from titanlab.sweeps.planning.sizes import Sizes, UnbuildableError

SHOWN_PROBLEMS = 20
SHOWN_CELLS = 3


class Found(NamedTuple):
    """A distinct cell that can run."""

    point: Point
    run: RunConfig
    key: str
    variant: str
    costs: Costs
    budget: Budget
    match: Matched | None = None
    """What it was brought to, where the sweep says so."""


@dataclass(frozen=True)
class Refused:
    """A cell that cannot run."""

    variant: str
    settings: dict[str, Any]
    """Dotted key -> value, as of a cell."""
    written: dict[str, Any]
    """The whole run as the file writes it, not validated."""
    problems: tuple[Problem, ...]
    """Why, each with its place in the file."""


@dataclass(frozen=True)
class Expansion:
    """What the points of a design come to, in their order."""

    found: tuple[Found, ...]
    refused: tuple[Refused, ...]
    notes: tuple[str, ...]
    """Which points are the same run as another."""


def expand(sweep: Sweep, runs: Runs, points: Sequence[Point]) -> Expansion:
    """Validates and sizes every point; each different run is found once."""
    sizes = Sizes()
    found: dict[str, Found] = {}
    refused, notes = [], []
    for point, variant in zip(points, variants([point.values() for point in points]), strict=True):
        try:
            run = runs.of(point)
            key = run.cell_key
            if key in found:
                notes.append(f"'{variant}' is the same run as '{found[key].variant}': planned once")
                continue
            costs = sizes.of(run)
            found[key] = Found(point, run, key, variant, costs, budget_at(runs, point, run, costs))
        except ConfigError as error:
            refused.append(refused_cell(runs, point, variant, error.problems))
        except UnbuildableError as error:
            place = _to_blame(runs, point, sizes) or ("base", *key_path(error.path))
            problem = sweep.document.problem(place, f"the model cannot be built: {error}")
            refused.append(refused_cell(runs, point, variant, (problem,)))
    return Expansion(tuple(found.values()), tuple(refused), tuple(notes))


def budget_at(runs: Runs, point: Point, run: RunConfig, costs: Costs) -> Budget:
    """The budget of a point's run.

    Raises:
        ConfigError: at the place of the budget.
    """
    try:
        return budget_of(run, costs)
    except ConfigError as error:
        raise runs.located(point, error) from None


def refused_cell(runs: Runs, point: Point, variant: str, problems: tuple[Problem, ...]) -> Refused:
    """A point that cannot run."""
    try:
        run = runs.written(point)
    except ConfigError:  # a key that goes through a value: there is no run
        run = {}
    return Refused(variant, point.values(), run, problems)


def _to_blame(runs: Runs, point: Point, sizes: Sizes) -> KeyPath:
    """The place of the setting without which the model could be built; empty if the base is to blame."""
    for setting in reversed(point.settings):
        try:
            sizes.of(runs.of(without(point, setting)))
        except (ConfigError, UnbuildableError):
            continue
        return setting.place
    return ()


def problems_of_cells(refused: Sequence[Refused]) -> list[Problem]:
    """Each distinct problem once, with the cells that have it."""
    cells: dict[Problem, list[str]] = {}
    for cell in refused:
        for problem in cell.problems:
            cells.setdefault(problem, []).append(f"'{cell.variant}'")
    told = [
        Problem(f"{problem.message} ({_in_cells(names)})", problem.path, problem.location)
        for problem, names in cells.items()
    ]
    if len(told) > SHOWN_PROBLEMS:
        more = Problem(f"and {len(told) - SHOWN_PROBLEMS} more problems of this kind")
        told = [*told[:SHOWN_PROBLEMS], more]
    return told


def _in_cells(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_CELLS} more" if len(names) > SHOWN_CELLS else ""
    count = "the cell" if len(names) == 1 else f"{len(names)} cells:"
    return f"in {count} {', '.join(names[:SHOWN_CELLS])}{more}"
