"""What a sweep will run: its cells and trials, every one of them validated before anything starts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

from titanlab.platform.budgets import Budget
from titanlab.platform.errors import ConfigError
from titanlab.platform.run_config import RunConfig
from titanlab.sweeps.language.aims import Aim, Candidate, aim_of, find_baseline, references_of
from titanlab.sweeps.language.design import Design, design
from titanlab.sweeps.language.grid import Runs, base_run
from titanlab.sweeps.language.match_terms import Matched
from titanlab.sweeps.language.references import Reference
from titanlab.sweeps.language.sweep_file import Resources, Sweep
from titanlab.sweeps.planning.expansion import Expansion, Found, Refused, expand, problems_of_cells
from titanlab.sweeps.planning.inequalities import inequalities, timed
from titanlab.sweeps.planning.matching import match_cells
from titanlab.sweeps.planning.remarks import remarks_on
from titanlab.sweeps.planning.tuning import Tuning
from titanlab.sweeps.planning.tuning_checks import tuning_of


@dataclass(frozen=True)
class Trial:
    """One training run: a cell with a seed."""

    key: str
    """`RunConfig.key`; names the trial's folder and its MLflow run."""
    cell_key: str
    seed: int
    config: RunConfig
    stage: Literal["tune", "final"] = "final"
    """`tune`: one of the trials by which a cell's settings are chosen; it is no part of the comparison."""
    pending: bool = False
    """Whether its settings are chosen by tuning that has not ended; its key is then no run's, and its config the
    base's."""
    values: dict[str, Any] = field(default_factory=dict)
    """What tuning tries in it, or chose for it: dotted key -> value."""


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
    state_bytes: int | None
    """Bytes of all state a sequence takes, keys and values included; None: a plug-in failed when it was counted."""
    flops: float | None
    """Floating-point operations a token of the forward pass; None: as above."""
    budget: Budget
    """Of each trial."""
    is_baseline: bool
    match: Matched | None = None
    """What it was brought to; None without `match`, and for a baseline that the others are brought to."""


@dataclass(frozen=True)
class Plan:
    """A whole sweep, ready to run."""

    name: str
    id: str
    """The name as a folder."""
    file: str
    text: str
    """The whole sweep as one file."""
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
    """What a reader should know: cells that turned out to be the same run, remarks of their memories."""
    references: tuple[Reference, ...] = ()
    """Published values to stand beside the sweep's own, each with its metric."""
    refused: tuple[Refused, ...] = ()
    """Cells that cannot run, of a `survey`; a plan that is run has none."""
    tuning: Tuning | None = None
    """What is chosen for every cell before cells are compared; see `execution.stages` for how far it is."""
    others: tuple[str, ...] = ()
    """Keys of the sweep's trials that this part of it leaves out."""

    def cell(self, key: str) -> Cell:
        """The cell of a `cell_key`."""
        return next(cell for cell in self.cells if cell.key == key)

    @property
    def stages(self) -> tuple[Trial, ...]:
        """All trials in running order: those of the tuning that are known by now, then those that are compared."""
        if self.tuning is None:
            return self.trials
        tried = (trial for search in self.tuning.searches for point in search.tried for trial in point.trials)
        return tuple({trial.key: trial for trial in (*tried, *self.trials)}.values())

    @property
    def summary(self) -> str:
        """`N trials (C cells x S seeds)`; a part of a sweep may leave out some seeds of some cells."""
        full = len(self.trials) == len(self.cells) * len(self.seeds)
        seeds = f" x {len(self.seeds)} seeds" if full else ""
        cells = f"{len(self.cells)} cells"
        if self.tuning is None:
            return f"{len(self.trials)} trials ({cells}{seeds})"
        tuned, runs = len(self.cells) * self.tuning.runs, self.tuning.runs
        parts = f"{tuned} to tune ({cells} x {runs}), {len(self.trials)} to compare ({cells}{seeds})"
        return f"{tuned + len(self.trials)} trials: {parts}"


def make_plan(sweep: Sweep) -> Plan:
    """Expands and validates a sweep; builds no model but on the meta device, reads no data, writes nothing.

    Raises:
        ConfigError: every distinct problem of any cell, with its place in the file.
    """
    return require_runnable(survey(sweep))


def require_runnable(plan: Plan) -> Plan:
    """The plan, of which every cell can run.

    Raises:
        ConfigError: the problems of the cells that cannot.
    """
    if plan.refused:
        raise ConfigError(problems_of_cells(plan.refused))
    return plan


def survey(sweep: Sweep) -> Plan:
    """The plan of the cells that can run, with those that cannot as `refused`.

    Raises:
        ConfigError: what no cell is to blame for, or no cell can run.
    """
    base = base_run(sweep)
    runs = Runs(sweep, base)
    designed = design(sweep, runs)
    expansion = expand(sweep, runs, designed.points)
    kept = expansion.found
    if not kept:
        raise ConfigError(problems_of_cells(expansion.refused))
    aim = aim_of(sweep, [found.run for found in kept])
    baseline = _baseline(sweep, designed, expansion, runs)
    if sweep.config.match is not None:
        named = None if baseline is None else kept[baseline].point
        expansion = match_cells(sweep, runs, expansion, baseline)
        kept = expansion.found
        baseline = next((index for index, found in enumerate(kept) if found.point is named), None)
        if not kept:
            raise ConfigError(problems_of_cells(expansion.refused))
    seeds = sweep.config.seeds or (base.train.seed,)
    tuning = tuning_of(sweep, designed.points, kept, seeds, aim)
    cells = tuple(_cell(found, seeds, index == baseline, tuning is not None) for index, found in enumerate(kept))
    costs = [found.costs for found in kept]
    timed_notes = timed([found.budget for found in kept])
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
        notes=(
            *designed.notes,
            *expansion.notes,
            *remarks_on([(found.run.model, found.costs) for found in kept]),
            *inequalities(costs),
            *timed_notes,
        ),
        references=references_of(sweep, [found.run for found in kept], aim),
        refused=expansion.refused,
        tuning=tuning,
    )


def _baseline(sweep: Sweep, designed: Design, expansion: Expansion, runs: Runs) -> int | None:
    """The number of the baseline among the cells that can run."""
    try:
        if designed.baseline is None:
            return find_baseline(sweep, [Candidate(found.variant, found.run) for found in expansion.found])
        # What `ablate` varies is the baseline, whatever other cells share its settings.
        key = runs.of(designed.baseline).cell_key
        return next((index for index, found in enumerate(expansion.found) if found.key == key), None)
    except ConfigError:
        if expansion.refused:  # it may be one of those; their problems are told
            return None
        raise


def trial_name(name: str) -> str:
    """What a trial is called, no longer than a name may be."""
    return name if len(name) <= 200 else f"{name[:180]}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def pending_key(cell_key: str, seed: int) -> str:
    """What stands for the key of a trial whose settings are not chosen yet."""
    return f"untuned-{cell_key}-{seed}"


def _cell(found: Found, seeds: tuple[int, ...], is_baseline: bool, is_tuned: bool) -> Cell:
    trials, costs = [], found.costs
    for seed in seeds:
        name = trial_name(f"{found.variant} seed={seed}")
        train = found.run.train.model_copy(update={"seed": seed})  # both are checked: no need to validate again
        run = found.run.model_copy(update={"name": name, "train": train})
        key = pending_key(found.key, seed) if is_tuned else run.key
        trials.append(Trial(key, found.key, seed, run, pending=is_tuned))
    return Cell(
        found.key, found.variant, found.point.values(), tuple(trials),
        costs.parameters, costs.memory_bytes, costs.state_bytes, costs.flops, found.budget, is_baseline, found.match,
    )  # fmt: skip
