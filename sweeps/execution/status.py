"""How a sweep stands, seen from outside: from its folder alone, whoever runs it and wherever."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from titanlab.platform.tracking.driver import Driver, driver_of, is_driven
from titanlab.platform.tracking.store import Store
from titanlab.platform.training.run_directory import METRICS
from titanlab.sweeps.execution.progress import RUNNING, STOPPED, WAITING, Progress, Row
from titanlab.sweeps.execution.selection import strays
from titanlab.sweeps.execution.stages import standing
from titanlab.sweeps.execution.trial_record import attempts
from titanlab.sweeps.planning.plan import Plan

TAIL = 1 << 14  # bytes of a journal from whose lines a trial's speed is told


@dataclass(frozen=True)
class SweepStatus:
    """A sweep at one moment."""

    plan: Plan
    progress: Progress
    driver: Driver | None
    """Who runs it; None if nobody does."""
    strays: list[Path]
    """Folders of trials that the file does not name any more."""

    def seconds_left(self) -> float | None:
        """By the speed of the trials that run; None if none does."""
        rows = self.progress.with_status(RUNNING)
        speed = sum(filter(None, map(speed_of, rows)))
        left = sum(row.size - row.done for row in self.progress.with_status(RUNNING, WAITING, STOPPED))
        return left / speed if speed else None

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        rows = list(self.progress.rows.values())
        driver = self.driver
        return {
            "sweep": self.plan.id,
            "name": self.plan.name,
            "driver": None if driver is None else {"pid": driver.pid, "host": driver.host, "started": driver.started},
            "counts": dict(Counter(row.status for row in rows)),
            "fraction": self.progress.fraction(),
            "seconds_left": self.seconds_left(),
            "objective": self.progress.metric,
            "trials": [_row(row) for row in rows],
            "not_in_file": [folder.name for folder in self.strays],
        }


def sweep_status(plan: Plan, store: Store) -> SweepStatus:
    """How a planned sweep stands in a store; it need not have begun."""
    folder = store.sweep(plan.id)
    plan = standing(plan, folder / "trials").plan
    progress = Progress(plan, {trial.key: store.trial(plan.id, trial.key) for trial in plan.stages})
    progress.look_at_disk()
    driver = driver_of(folder) if is_driven(folder) else None
    return SweepStatus(plan, progress, driver, strays(plan, folder / "trials"))


def speed_of(row: Row) -> float | None:
    """Steps a second (seconds a second, where those are the budget) by the last lines of a trial's journal."""
    if row.budget.steps is None:
        return 1.0
    try:
        with open(row.folder / METRICS, "rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - TAIL))
            lines = stream.read().split(b"\n")[1:-1]
    except FileNotFoundError:
        return None
    if len(lines) < 2:
        return None
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    took = last["time"] - first["time"]
    return (last["step"] - first["step"]) / took if took > 0 else None


def _row(row: Row) -> dict[str, Any]:
    return {
        "trial": row.key,
        "variant": row.variant,
        "seed": row.seed,
        "status": row.status,
        "step": row.step,
        "steps": row.budget.steps,
        "loss": row.loss,
        "objective": row.objective,
        "reason": row.reason,
        "attempts": attempts(row.folder),
        "folder": str(row.folder),
    }
