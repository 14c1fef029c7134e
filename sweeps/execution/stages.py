"""How far a sweep is, read from its trials' folders: tuning first, cell by cell, then the comparison.

Nothing else is kept: what a search tries next follows from the results on the disk, so the same command after a kill
goes on where it was, and a plan that is only looked at shows the same.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from titanlab.platform.tracking.journal import read_journal
from titanlab.platform.training.run_directory import METRICS
from titanlab.sweeps.execution.trial_record import TrialRecord, read_record
from titanlab.sweeps.inference.intervals import mean_of
from titanlab.sweeps.planning.plan import Cell, Plan, Trial, pending_key, trial_name
from titanlab.sweeps.planning.tuning import Search, Tried, Tuning, settings_words
from titanlab.sweeps.tuning.halving import best
from titanlab.sweeps.tuning.search import Values, optuna_point, random_first, random_points


class Step(NamedTuple):
    """What is to be done for a trial now."""

    trial: Trial
    pause_at: int | None = None
    """The rung up to which it is trained; None: to its end."""


@dataclass(frozen=True)
class Standing:
    """A plan as it stands."""

    plan: Plan
    """With every trial whose settings are known by now; those of the others wait for the tuning."""
    next: tuple[Step, ...]
    """What can run now, in running order; nothing of the comparison before the tuning has ended. Without a tuning all
    trials, complete ones too: nothing waits for anything."""


def standing(plan: Plan, trials: Path, again: Collection[str] | None = None) -> Standing:
    """How far a plan is.

    Args:
        trials: the folder with one folder a trial; it need not exist.
        again: of the trials that failed, the keys of those whose failure counts; others run once more. None: all count.
    """
    if plan.tuning is None:
        return Standing(plan, tuple(Step(trial) for trial in plan.trials))
    looked = _Looked(plan.tuning, trials, again)
    searches: list[Search] = []
    steps: list[list[Step]] = []
    for cell in plan.cells:
        search, following = _searched(looked, cell)
        searches.append(search)
        steps.append(following)
    cells = {search.cell.key: _with_choice(search) for search in searches}
    found = replace(
        plan,
        cells=tuple(cells.values()),
        trials=tuple(_same(cells[trial.cell_key], trial.seed) for trial in plan.trials),
        baseline=None if plan.baseline is None else cells[plan.baseline.key],
        tuning=replace(plan.tuning, searches=tuple(searches)),
    )
    # One point of every cell after the other, so that no cell is ahead of the others.
    tuning = [step for group in _transposed(steps) for step in group]
    final = [Step(trial) for trial in found.trials if not trial.pending and not looked.is_complete(trial)]
    return Standing(found, tuple(tuning or final))


class _Looked:
    """What the folders of the trials say."""

    def __init__(self, tuning: Tuning, trials: Path, again: Collection[str] | None) -> None:
        self.tuning, self.trials, self.again = tuning, trials, again
        self.random = random_points(tuning.space, tuning.config.seed, tuning.config.trials)
        self.worst = -math.inf if tuning.aim.direction == "max" else math.inf
        # Most trials of a large plan have no folder yet: looking for each would take longer than all the rest.
        self._begun = {entry.name for entry in os.scandir(trials)} if trials.is_dir() else set()
        self._records: dict[str, TrialRecord | None] = {}

    def is_complete(self, trial: Trial) -> bool:
        record = self.record(trial)
        return record is not None and record.status == "complete"

    def record(self, trial: Trial) -> TrialRecord | None:
        """How a trial stands, read once."""
        if trial.key not in self._begun:
            return None
        if trial.key not in self._records:
            self._records[trial.key] = read_record(self.trials / trial.key)
        return self._records[trial.key]

    def value(self, trial: Trial, rung: int | None) -> float | None:
        """The metric at a rung, or at the end; None if the trial is not there yet, the worst if it failed."""
        record = self.record(trial)
        if record is None:
            return None
        reached = None if rung is None else self._at(trial, rung)
        if reached is not None:
            return reached
        if record.status == "complete":  # trained to its end by an earlier command, which had no rungs
            return self._finite(record.metrics.get(self.tuning.aim.metric, math.nan))
        return self.worst if self._failed(trial, record) else None

    def _failed(self, trial: Trial, record: TrialRecord) -> bool:
        # Divergence is what the settings lead to; another failure may have a cause that is gone by now.
        return record.status == "diverged" or (record.failed and (self.again is None or trial.key in self.again))

    def _at(self, trial: Trial, rung: int) -> float | None:
        """The first evaluation from a step on."""
        metric = self.tuning.aim.metric
        for point in read_journal(self.trials / trial.key / METRICS, after=rung - 1):
            if metric in point.metrics:
                return self._finite(point.metrics[metric])
        return None

    def _finite(self, value: float) -> float:
        return value if math.isfinite(value) else self.worst


def _searched(looked: _Looked, cell: Cell) -> tuple[Search, list[Step]]:
    """The search of a cell, and what it waits for."""
    tuning = looked.tuning
    tried, to_come = _points(looked, cell)
    steps: list[Step] = []
    alive = list(tried)
    for rung in tuning.rungs(cell):
        judged = [_judged(looked, point, rung.step) for point in alive]
        steps = _missing(looked, judged, rung.step)
        if steps:
            return Search(cell, tuple(tried), to_come), steps
        going_on = {alive[index].number for index in _best(tuning, judged, rung.keep)}
        for point in judged:
            if point.number not in going_on:
                failed = math.isinf(point.value or 0.0)
                tried[point.number] = replace(point, state="failed" if failed else "given up")
        alive = [point for point in alive if point.number in going_on]
    for point in alive:
        tried[point.number] = _judged(looked, point, None)
    ended = [tried[point.number] for point in alive]
    steps = _missing(looked, ended, None)
    found = Search(cell, tuple(tried), to_come)
    if found.ended:
        winner = _best(tuning, ended, 1)
        found = replace(found, chosen=ended[winner[0]] if winner else None)
    return found, steps


def _points(looked: _Looked, cell: Cell) -> tuple[list[Tried], int]:
    """The points that are known by now, and how many are not."""
    tuning, config = looked.tuning, looked.tuning.config
    if config.method == "random":
        return [_tried(tuning, cell, number, values) for number, values in enumerate(looked.random)], 0
    first = min(random_first(config.trials), config.trials)
    points = [_judged(looked, _tried(tuning, cell, number, looked.random[number]), None) for number in range(first)]
    while len(points) < config.trials:
        results = [(point.values, point.value) for point in points if point.value is not None]
        if len(results) < len(points):
            break
        for number in range(len(points), min(len(points) + config.parallel, config.trials)):
            values = optuna_point(tuning.space, config.seed, number, results, tuning.aim.direction)
            points.append(_judged(looked, _tried(tuning, cell, number, values), None))
    return points, config.trials - len(points)


def _tried(tuning: Tuning, cell: Cell, number: int, values: Values) -> Tried:
    """A point as trials: the cell's run with its values, which never looks at the test split."""
    run = cell.trials[0].config
    settings = {key.removeprefix("train."): value for key, value in values.items()}
    trials = []
    for seed in tuning.config.seeds:
        train = run.train.replace(**settings, seed=seed, evaluate_test=False, keep_weights="none")
        name = trial_name(f"{cell.variant} tune={number} {settings_words(values)} seed={seed}")
        config = run.model_copy(update={"name": name, "train": train})
        trials.append(Trial(config.key, cell.key, seed, config, stage="tune", values=values))
    return Tried(number, values, tuple(trials))


def _judged(looked: _Looked, point: Tried, rung: int | None) -> Tried:
    """The point with its value at a rung, or at the end, as far as all its seeds have got there."""
    values = [looked.value(trial, rung) for trial in point.trials]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return replace(point, state="open", value=None)
    if not all(map(math.isfinite, known)):
        return replace(point, state="failed", value=looked.worst)
    return replace(point, state="complete" if rung is None else "open", value=mean_of(known))


def _missing(looked: _Looked, points: list[Tried], rung: int | None) -> list[Step]:
    """The trials without which some point has no value yet."""
    return [
        Step(trial, rung)
        for point in points
        if point.value is None
        for trial in point.trials
        if looked.value(trial, rung) is None
    ]


def _best(tuning: Tuning, points: list[Tried], keep: int) -> list[int]:
    return best([point.value for point in points if point.value is not None], keep, tuning.aim.direction == "max")


def _with_choice(search: Search) -> Cell:
    """The cell with the settings that were chosen for it; without any, its trials wait."""
    cell, chosen = search.cell, search.chosen
    if chosen is None:
        waiting = (replace(trial, key=pending_key(cell.key, trial.seed), pending=True) for trial in cell.trials)
        return replace(cell, trials=tuple(waiting))
    settings = {key.removeprefix("train."): value for key, value in chosen.values.items()}
    trials = []
    for trial in cell.trials:
        config = trial.config.model_copy(update={"train": trial.config.train.replace(**settings)})
        trials.append(replace(trial, key=config.key, config=config, pending=False, values=chosen.values))
    return replace(cell, trials=tuple(trials))


def _same(cell: Cell, seed: int) -> Trial:
    return next(trial for trial in cell.trials if trial.seed == seed)


def _transposed(groups: list[list[Step]]) -> list[list[Step]]:
    longest = max(map(len, groups), default=0)
    return [[group[index] for group in groups if index < len(group)] for index in range(longest)]
