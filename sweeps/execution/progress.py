"""What is known about a sweep while it runs: one row a trial, read from the trials' journals."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from titanlab.platform.budgets import Budget
from titanlab.platform.training.run_directory import METRICS
from titanlab.sweeps.execution.trial_record import TrialRecord, is_training, read_record
from titanlab.sweeps.planning.plan import Plan
from titanlab.sweeps.planning.tuning import Search, settings_words

WAITING, RUNNING, COMPLETE, STOPPED, DIVERGED = "waiting", "running", "complete", "stopped", "diverged"
GIVEN_UP, FAILED = "given up", "failed"
LONGEST_LINE = 1 << 16  # bytes of a journal that are read to find its last line


@dataclass
class Row:
    """A trial as a table shows it."""

    key: str
    variant: str
    seed: int
    budget: Budget
    folder: Path
    status: str = WAITING
    step: int = 0
    loss: float | None = None
    objective: float | None = None
    reason: str = ""
    attempt: int = 0
    seconds: float = 0.0
    """Of training so far, where seconds are the budget."""
    metric: str = ""
    """What is shown of it, if not the sweep's objective: of a trial of the tuning what its point is judged by."""
    is_settled: bool = False
    """Whether its status follows from other trials: the tuning gave it up, or chose nothing for it."""

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is missing; a trial of the tuning may end in other ways than completely."""
        return self.status in (COMPLETE, GIVEN_UP) or (bool(self.metric) and self.status == DIVERGED)

    @property
    def size(self) -> float:
        """The whole trial, in steps; in seconds where those are its budget."""
        return self.budget.amount if self.budget.steps is None else self.budget.steps

    @property
    def done(self) -> float:
        """As much of it as is done."""
        return self.size if self.is_over else self.step if self.budget.steps else self.seconds

    @property
    def position(self) -> str:
        """`12/20`; where seconds are the budget `12 (60%)`."""
        return f"{self.step}/{self.budget.steps}" if self.budget.steps else f"{self.step} ({self.done / self.size:.0%})"

    def take(self, record: TrialRecord, metric: str) -> None:
        """Shows how the trial ended."""
        self.status, self.reason = record.status, record.reason if record.failed else ""
        if self.is_over:
            self.reason = ""  # a learning rate at which training diverges is a finding of the tuning, no failure
        self.look(metric)
        self.objective = record.metrics.get(self.metric or metric, self.objective)

    def look(self, metric: str) -> None:
        """Reads how far the trial is."""
        step, metrics = last_line(self.folder / METRICS)
        self.step = max(self.step, step)
        self.loss = metrics.get("train/loss", self.loss)
        self.seconds = metrics.get("cost/seconds", self.seconds)
        self.objective = metrics.get(self.metric or metric, self.objective)


class Progress:
    """All rows, and how long the rest will take.

    Args:
        plan: the sweep.
        folders: of the trials, by key.
    """

    def __init__(self, plan: Plan, folders: dict[str, Path]) -> None:
        self.metric = plan.objective.metric
        self.rows: dict[str, Row] = {}
        self._began: float | None = None
        self._done_before = 0.0
        self.follow(plan, folders)

    def follow(self, plan: Plan, folders: Mapping[str, Path]) -> None:
        """Takes over a plan in which more trials are known; of those that stay, what is known of them stays."""
        rows = planned_rows(plan, folders)
        for row in (row for key, row in rows.items() if self.rows and key not in self.rows):
            if (record := read_record(row.folder)) is not None:  # of an earlier command
                row.take(record, self.metric)
        self.rows = {key: self.rows.get(key, row) for key, row in rows.items()}
        for key, row in rows.items():
            if row.is_settled:
                mine = self.rows[key]
                mine.status, mine.reason, mine.is_settled = row.status, row.reason, True

    def look_at_disk(self, ends: Mapping[str, TrialRecord] = MappingProxyType({})) -> None:
        """Fills every row from its trial's folder; what runs at this moment is found by its lock.

        Args:
            ends: of trials in this session, by key: a failure that no folder could take is here.
        """
        for row in self.rows.values():
            if row.is_settled:
                row.look(self.metric)
                continue
            record = ends[row.key] if row.key in ends and ends[row.key].failed else read_record(row.folder)
            if record is None:
                row.status = WAITING
                continue
            row.take(record, self.metric)
            if row.status != COMPLETE and is_training(row.folder):
                row.status, row.reason = RUNNING, ""
        self._done_before = self._done()

    def queue(self, keys: Sequence[str]) -> None:
        """What failed or stopped before waits for its turn again."""
        for key in keys:
            self.rows[key].status, self.rows[key].reason = WAITING, ""

    def start(self, key: str) -> Row:
        """A trial begins, or begins again; time is counted from the first on."""
        row = self.rows[key]
        row.status, row.attempt = RUNNING, row.attempt + 1
        self._began = self._began or time.monotonic()
        return row

    def look_at_running(self) -> None:
        """Reads how far the running trials are."""
        for row in self.with_status(RUNNING):
            row.look(self.metric)

    def with_status(self, *statuses: str) -> list[Row]:
        """The rows in one of these states, in running order."""
        return [row for row in self.rows.values() if row.status in statuses]

    def counts(self) -> str:
        """`3 complete, 1 running, 4 waiting`."""
        found = Counter(row.status for row in self.rows.values())
        return ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in found.most_common())

    def fraction(self) -> float:
        """Of all optimizer steps (or seconds, where those are the budget), those taken."""
        return self._done() / max(1.0, sum(row.size for row in self.rows.values()))

    def seconds_left(self) -> float | None:
        """By the steps taken since the start; None before the first."""
        new = self._done() - self._done_before
        left = sum(row.size - row.done for row in self.with_status(RUNNING, WAITING))
        return (time.monotonic() - self._began) * left / new if new > 0 and self._began else None

    def _done(self) -> float:
        return sum(row.done for row in self.rows.values())


def planned_rows(plan: Plan, folders: Mapping[str, Path]) -> dict[str, Row]:
    """A row for every trial in running order, also for those that tuning has yet to pick."""
    cells, tuning = {cell.key: cell for cell in plan.cells}, plan.tuning
    searches = () if tuning is None else tuning.searches
    rows = [row for search in searches for row in _tuning_rows(plan, search, folders)]
    ended = {search.cell.key for search in searches if search.ended}
    for trial in plan.trials:
        cell = cells[trial.cell_key]
        row = Row(trial.key, cell.variant, trial.seed, cell.budget, folders[trial.key])
        if trial.pending and cell.key in ended:
            row.status, row.is_settled = FAILED, True
            row.reason = "no point of its tuning has a value; move the ranges of `tune`"
        rows.append(row)
    return {row.key: row for row in rows}


def _tuning_rows(plan: Plan, search: Search, folders: Mapping[str, Path]) -> list[Row]:
    assert plan.tuning is not None
    cell, tuning, rows = search.cell, plan.tuning, []
    for point in search.tried:
        name = f"{cell.variant} tune={point.number} {settings_words(point.values)}"
        for trial in point.trials:
            row = Row(trial.key, name, trial.seed, cell.budget, folders[trial.key], metric=tuning.aim.metric)
            row.is_settled = point.state == "given up"
            row.status = GIVEN_UP if row.is_settled else WAITING
            rows.append(row)
    for number in range(len(search.tried), tuning.config.trials):
        for seed in tuning.config.seeds:
            key, name = f"{cell.key}-tune-{number}-{seed}", f"{cell.variant} tune={number}"
            rows.append(Row(key, name, seed, cell.budget, Path(key), metric=tuning.aim.metric))
    return rows


def last_line(journal: Path) -> tuple[int, dict[str, float]]:
    """Step and metrics of a journal's last whole line; (0, {}) if there is none. Reads the file's end only."""
    try:
        with open(journal, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - LONGEST_LINE))
            lines = stream.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0, {}
    if not lines:
        return 0, {}
    record = json.loads(lines[-1])
    return record["step"], {name: value for name, value in record["metrics"].items() if value is not None}


def failures(rows: Sequence[Row]) -> list[str]:
    """One line for each failed trial: which and why."""
    return [f"{row.variant} seed={row.seed} ({row.key}): {row.reason}" for row in rows if row.reason]
