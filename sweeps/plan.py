"""What a sweep will run: its cells and trials, every one of them validated before anything starts."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.run_config import RunConfig
from titanlab.sweeps.aims import Aim, Candidate, aim_of, find_baseline
from titanlab.sweeps.grid import Point, base_run, design, settle, without
from titanlab.sweeps.labels import variants
from titanlab.sweeps.language import Resources, Sweep
from titanlab.sweeps.sizes import Size, Sizes, UnbuildableError

SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Trial:
    """One training run: a cell with a seed."""

    key: str
    """`RunConfig.key`; names the trial's folder and its MLflow run."""
    cell_key: str
    seed: int
    config: RunConfig


@dataclass(frozen=True)
class Cell:
    """One point of the design; its trials differ in their seeds only."""

    key: str
    variant: str
    """What people read: the settings that make this cell, as in `depth=2 momentum=token`."""
    settings: dict[str, Any]
    """Dotted key -> value, for every axis; what the MLflow columns show."""
    trials: tuple[Trial, ...]
    parameters: int
    memory_bytes: int
    """Bytes of memory state a sequence takes, over all layers."""
    is_baseline: bool


@dataclass(frozen=True)
class Plan:
    """A whole sweep, ready to run."""

    name: str
    id: str
    """The name as a folder."""
    file: str
    text: str
    """The sweep file as it was written."""
    cells: tuple[Cell, ...]
    """In written order, the grid before the explicit cells."""
    trials: tuple[Trial, ...]
    """In running order: all cells with the first seed, then all with the second, so that early results compare."""
    seeds: tuple[int, ...]
    axes: dict[str, list[Any]]
    objective: Aim
    resources: Resources
    baseline: Cell | None
    notes: tuple[str, ...]
    """What a reader should know: cells that turned out to be the same run."""

    def cell(self, key: str) -> Cell:
        """The cell of a `cell_key`."""
        return next(cell for cell in self.cells if cell.key == key)

    @property
    def summary(self) -> str:
        """`N trials (C cells x S seeds)`."""
        return f"{len(self.trials)} trials ({len(self.cells)} cells x {len(self.seeds)} seeds)"


def make_plan(sweep: Sweep) -> Plan:
    """Expands and validates a sweep; builds no model but on the meta device, reads no data, writes nothing.

    Raises:
        ConfigError: every distinct problem of any cell, with its place in the file.
    """
    base = base_run(sweep)
    points = design(sweep)
    runs = _settled(sweep, base, points)
    labels = variants([point.values() for point in points])
    kept, notes = _distinct(points, runs, labels)
    aim = aim_of(sweep, [found.run for found in kept])
    baseline = find_baseline(sweep, [Candidate(found.variant, found.run) for found in kept])
    sizes = _sizes(sweep, base, kept)
    seeds = sweep.config.seeds or (base.train.seed,)
    cells = tuple(
        _cell(found, size, seeds, is_baseline=index == baseline)
        for index, (found, size) in enumerate(zip(kept, sizes, strict=True))
    )
    return Plan(
        name=sweep.config.name,
        id=sweep.config.id,
        file=sweep.file,
        text=sweep.text,
        cells=cells,
        trials=tuple(cell.trials[index] for index in range(len(seeds)) for cell in cells),
        seeds=seeds,
        axes=sweep.config.axes,
        objective=aim,
        resources=sweep.config.resources,
        baseline=None if baseline is None else cells[baseline],
        notes=notes,
    )


class _Found(NamedTuple):
    """A distinct cell before it is sized."""

    point: Point
    run: RunConfig
    key: str
    variant: str


def _settled(sweep: Sweep, base: RunConfig, points: list[Point]) -> list[RunConfig]:
    runs, problems = [], _Problems()
    for point in points:
        try:
            runs.append(settle(sweep, base, point))
        except ConfigError as error:
            for problem in error.problems:
                problems.add(problem)
    problems.raise_any()
    return runs


def _distinct(points: list[Point], runs: list[RunConfig], labels: list[str]) -> tuple[list[_Found], tuple[str, ...]]:
    """Each different run once, and a note for every other one."""
    found: dict[str, _Found] = {}
    notes = []
    for point, run, variant in zip(points, runs, labels, strict=True):
        key = run.cell_key
        first = found.setdefault(key, _Found(point, run, key, variant))
        if first.point is not point:
            notes.append(f"'{variant}' is the same run as '{first.variant}': planned once")
    return list(found.values()), tuple(notes)


def _sizes(sweep: Sweep, base: RunConfig, kept: list[_Found]) -> list[Size]:
    counted, sizes, problems = Sizes(), [], _Problems()
    for found in kept:
        try:
            sizes.append(counted.of(found.run))
        except UnbuildableError as error:
            place = _to_blame(sweep, base, found.point, counted)
            message = f"the model cannot be built: {error} (first met in '{found.variant}')"
            problems.add(sweep.document.problem(place, message), same_as=(place, str(error)))
    problems.raise_any()
    return sizes


def _to_blame(sweep: Sweep, base: RunConfig, point: Point, counted: Sizes) -> tuple[str | int, ...]:
    """The place of the setting without which the model could be built, else the base's model."""
    for setting in reversed(point.settings):
        try:
            counted.of(settle(sweep, base, without(point, setting)))
        except (ConfigError, UnbuildableError):
            continue
        return setting.place
    return ("base", "model")


def _cell(found: _Found, size: Size, seeds: tuple[int, ...], is_baseline: bool) -> Cell:
    trials = []
    for seed in seeds:
        name = f"{found.variant} seed={seed}"
        name = name if len(name) <= 200 else f"{name[:180]}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        run = found.run.replace(name=name, train=found.run.train.replace(seed=seed))
        trials.append(Trial(run.key, found.key, seed, run))
    return Cell(found.key, found.variant, found.point.values(), tuple(trials), *size, is_baseline)


class _Problems:
    """Collects each distinct problem once."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Problem] = {}

    def add(self, problem: Problem, same_as: Hashable = None) -> None:
        """Keeps a problem whose `same_as` (by default its text) was not there yet."""
        self._found.setdefault(same_as or str(problem), problem)

    def raise_any(self) -> None:
        """Raises what was collected, if anything was."""
        problems = list(self._found.values())
        if len(problems) > SHOWN_PROBLEMS:
            more = f"and {len(problems) - SHOWN_PROBLEMS} more problems of this kind"
            problems = [*problems[:SHOWN_PROBLEMS], Problem(more)]
        if problems:
            raise ConfigError(problems)
