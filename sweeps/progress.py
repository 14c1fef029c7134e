"""What is known about a sweep while it runs: one row a trial, read from the trials' journals."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from titanlab.platform.training.run_directory import METRICS
from titanlab.sweeps.plan import Plan
from titanlab.sweeps.trial_record import TrialRecord, is_training, read_record

WAITING, RUNNING, COMPLETE, STOPPED = "waiting", "running", "complete", "stopped"
LONGEST_LINE = 1 << 16  # bytes of a journal that are read to find its last line


@dataclass
class Row:
    """A trial as a table shows it."""

    key: str
    variant: str
    seed: int
    steps: int
    folder: Path
    status: str = WAITING
    step: int = 0
    loss: float | None = None
    objective: float | None = None
    reason: str = ""
    attempt: int = 0

    def take(self, record: TrialRecord, metric: str) -> None:
        """Shows how the trial ended."""
        self.status, self.reason = record.status, record.reason if record.failed else ""
        self.look(metric)
        self.objective = record.metrics.get(metric, self.objective)

    def look(self, metric: str) -> None:
        """Reads how far the trial is."""
        step, metrics = last_line(self.folder / METRICS)
        self.step = max(self.step, step)
        self.loss = metrics.get("train/loss", self.loss)
        self.objective = metrics.get(metric, self.objective)


class Progress:
    """All rows, and how long the rest will take.

    Args:
        plan: the sweep.
        folders: of the trials, by key.
    """

    def __init__(self, plan: Plan, folders: dict[str, Path]) -> None:
        self.metric = plan.objective.metric
        variants = {cell.key: cell.variant for cell in plan.cells}
        self.rows = {
            trial.key: Row(
                trial.key, variants[trial.cell_key], trial.seed, trial.config.train.steps, folders[trial.key]
            )
            for trial in plan.trials
        }
        self._began: float | None = None
        self._done_before = 0

    def look_at_disk(self) -> None:
        """Fills every row from its trial's folder; what runs at this moment is found by its lock."""
        for row in self.rows.values():
            record = read_record(row.folder)
            if record is None:
                row.status = WAITING
                continue
            row.take(record, self.metric)
            if row.status != COMPLETE and is_training(row.folder):
                row.status, row.reason = RUNNING, ""
        self._done_before = self._done_steps()

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
        """Of all optimizer steps, those taken."""
        return self._done_steps() / max(1, sum(row.steps for row in self.rows.values()))

    def seconds_left(self) -> float | None:
        """By the steps taken since the start; None before the first."""
        new = self._done_steps() - self._done_before
        left = sum(row.steps - row.step for row in self.with_status(RUNNING, WAITING))
        return (time.monotonic() - self._began) * left / new if new > 0 and self._began else None

    def _done_steps(self) -> int:
        return sum(row.steps if row.status == COMPLETE else row.step for row in self.rows.values())


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


def duration(seconds: float | None) -> str:
    """`about 3 min` for people."""
    if seconds is None:
        return "unknown"
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def failures(rows: Sequence[Row]) -> list[str]:
    """One line for each failed trial: which and why."""
    return [f"{row.variant} seed={row.seed} ({row.key}): {row.reason}" for row in rows if row.reason]
