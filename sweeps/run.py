"""Running a sweep: what is complete stays, the rest runs, and MLflow says the same as the disk in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.plugins import Plugin
from titanlab.platform.tracking.ledger import Ending, Ledger
from titanlab.platform.tracking.store import Store, SweepRuns
from titanlab.sweeps.entries import sweep_entry
from titanlab.sweeps.executor import Executor, Watcher
from titanlab.sweeps.interruption import Interruption
from titanlab.sweeps.live_table import SweepDisplay
from titanlab.sweeps.plan import Plan, Trial
from titanlab.sweeps.progress import COMPLETE, Progress
from titanlab.sweeps.trainable import Job
from titanlab.sweeps.trial_record import TrialRecord, read_record, write_failure

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class SweepResult:
    """What a run of a sweep came to."""

    runs: SweepRuns
    records: Mapping[str, TrialRecord]
    """By trial key; a trial that was never begun has none."""
    progress: Progress
    skipped: int
    """Trials that were complete before."""
    interrupted: bool
    unsent: Sequence[str]
    """Why MLflow lacks something, if it does."""

    @property
    def complete(self) -> int:
        """Trials that are complete, skipped ones included."""
        return sum(record.status == "complete" for record in self.records.values())

    @property
    def exit_code(self) -> int:
        """0 all complete, 1 some failed, 130 interrupted."""
        if self.interrupted:
            return 130
        return 0 if self.complete == len(self.progress.rows) else 1


def run_sweep(plan: Plan, store: Store, executor: Executor, plugins: Sequence[Plugin], console: Console) -> SweepResult:
    """Runs what is not complete.

    Raises:
        ConfigError: a trial wants more than there is; nothing was written.
        SweepBusyError: another driver runs the sweep.
        TrackingError: the tracking server does not answer; nothing was run.
    """
    _check_devices(plan)
    executor.check(plan.resources)
    try:
        with store.driving(plan.id), Interruption(store.sweep(plan.id) / "stop") as interruption:
            return _drive(plan, store, executor, plugins, console, interruption)
    finally:
        executor.close()


def _drive(
    plan: Plan,
    store: Store,
    executor: Executor,
    plugins: Sequence[Plugin],
    console: Console,
    interruption: Interruption,
) -> SweepResult:
    folders = {trial.key: store.trial(plan.id, trial.key) for trial in plan.trials}
    ledger = Ledger(store, sweep_entry(plan, folders, plugins))
    console.print("writing the plan to MLflow ...", highlight=False)  # a fresh database takes some seconds
    runs = ledger.open()
    progress = Progress(plan, folders)
    progress.look_at_disk()
    todo = [trial for trial in plan.trials if progress.rows[trial.key].status != COMPLETE]
    jobs = [_job(plan, trial, ledger, plugins, interruption) for trial in todo]
    progress.queue([job.key for job in jobs])
    try:
        if jobs:
            console.print(f"starting {len(jobs)} trial{'s' if len(jobs) != 1 else ''} ...", highlight=False)
            with SweepDisplay(progress, console) as display:
                watcher = _FailureKeeper(display, folders)
                executor.execute(jobs, plan.resources, watcher, interruption, store.sweep(plan.id))
    except KeyboardInterrupt:
        interruption.signals += 1
    finally:
        executor.close()  # first: no worker writes to a run any more
        records = {key: record for key, folder in folders.items() if (record := read_record(folder)) is not None}
        ledger.close({key: _ending(record) for key, record in records.items()}, interrupted=interruption.requested)
    progress.look_at_disk()
    return SweepResult(runs, records, progress, len(plan.trials) - len(jobs), interruption.requested, ledger.unsent)


@dataclass(frozen=True)
class _FailureKeeper(Watcher):
    """Passes on what happens, and writes down the failure of a trial whose process could not."""

    display: Watcher
    folders: Mapping[str, Path]

    def started(self, key: str) -> None:
        self.display.started(key)

    def died(self, key: str) -> None:
        self.display.died(key)

    def ended(self, key: str, record: TrialRecord) -> None:
        if record.failed:
            write_failure(self.folders[key], record)
        self.display.ended(key, record)


def _check_devices(plan: Plan) -> None:
    if plan.resources.gpu == 0 and any(trial.config.train.device == "cuda" for trial in plan.trials):
        raise ConfigError(
            Problem("a trial is given no GPU, but `train.device` is cuda; set it to 1, or a fraction", "resources.gpu")
        )


def _ending(record: TrialRecord) -> Ending:
    if record.status == "complete":
        return Ending("FINISHED", "complete", metrics=record.metrics)
    if record.status == "stopped":
        return Ending("KILLED", "interrupted")
    return Ending("FAILED", record.status, record.error_type, record.reason, record.traceback)


def _job(plan: Plan, trial: Trial, ledger: Ledger, plugins: Sequence[Plugin], interruption: Interruption) -> Job:
    return Job(
        key=trial.key,
        settings=trial.config.settings(),
        folder=str(ledger.entries[trial.key].folder),
        run_id=ledger.run_ids[trial.key],
        tracking_uri=ledger.store.tracking_uri,
        plugins=tuple(plugins),
        cpu=plan.resources.cpu,
        gpu=plan.resources.gpu,
        stop_file=str(interruption.stop_file),
    )
