"""Running a sweep: what is complete stays, the rest runs, and MLflow says the same as the disk in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.plugins import Plugin
from titanlab.platform.tracking.ledger import Ledger
from titanlab.platform.tracking.ledger_entries import Ending
from titanlab.platform.tracking.store import Store, SweepRuns
from titanlab.sweeps.execution.course import Course
from titanlab.sweeps.execution.entries import sweep_entry, trial_entries
from titanlab.sweeps.execution.executor import Executor
from titanlab.sweeps.execution.interruption import STOP_FILE, Interruption
from titanlab.sweeps.execution.keeper import Keeper, execute_in_rounds
from titanlab.sweeps.execution.live_table import SweepDisplay
from titanlab.sweeps.execution.notes import outcome_lines, sweep_note
from titanlab.sweeps.execution.progress import COMPLETE, DIVERGED, GIVEN_UP, Progress, Row
from titanlab.sweeps.execution.stages import Step
from titanlab.sweeps.execution.trainable import Job
from titanlab.sweeps.execution.trial_record import TrialRecord
from titanlab.sweeps.planning.plan import Plan
from titanlab.sweeps.planning.tuning_lines import choice_lines

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
    """Trials that were over before: complete, or diverged."""
    interrupted: bool
    unsent: Sequence[str]
    """Why MLflow lacks something, if it does."""
    warnings: Mapping[str, Sequence[str]]
    """What went wrong with a trial and was mended, by key."""

    @property
    def complete(self) -> int:
        """Trials that are complete, skipped ones included."""
        return sum(record.status == "complete" for record in self.records.values())

    @property
    def over(self) -> int:
        """Trials of which nothing is missing: complete ones, and of the tuning those that were given up or diverged."""
        return sum(row.is_over for row in self.progress.rows.values())

    @property
    def exit_code(self) -> int:
        """0 all complete, 1 some failed, 130 interrupted."""
        if self.interrupted:
            return 130
        return 0 if self.over == len(self.progress.rows) else 1


def run_sweep(
    plan: Plan,
    store: Store,
    executor: Executor,
    plugins: Sequence[Plugin],
    console: Console,
    *,
    diverged_again: bool = False,
) -> SweepResult:
    """Runs what is not complete.

    Args:
        diverged_again: also what diverged, which would do so again as long as nothing of the code changed.

    Raises:
        ConfigError: a trial wants more than there is; nothing was written.
        SweepBusyError: another driver runs the sweep.
        TrackingError: the tracking server does not answer; nothing was run.
    """
    _check_devices(plan)
    executor.check(plan.resources)
    try:
        with store.driving(plan.id), Interruption(store.sweep(plan.id) / STOP_FILE) as interruption:
            return _drive(plan, store, executor, plugins, console, interruption, diverged_again)
    finally:
        executor.close()


def _drive(
    plan: Plan,
    store: Store,
    executor: Executor,
    plugins: Sequence[Plugin],
    console: Console,
    interruption: Interruption,
    diverged_again: bool,
) -> SweepResult:
    course = Course(plan, store.sweep(plan.id) / "trials")
    plan = course.plan
    folders = {trial.key: store.trial(plan.id, trial.key) for trial in plan.stages}
    ledger = Ledger(store, sweep_entry(plan, folders, plugins))
    console.print("writing the plan to MLflow ...", highlight=False)  # a fresh database takes some seconds
    runs = ledger.open()
    progress = Progress(plan, folders)
    keeper = Keeper(display := SweepDisplay(progress, console), folders)
    progress.look_at_disk()
    left = (COMPLETE,) if diverged_again else (COMPLETE, DIVERGED)
    skipped = len(progress.with_status(*left))

    def following() -> list[Job]:
        """What can run now, in MLflow and on the screen."""
        steps = [step for step in course.take() if progress.rows[step.trial.key].status not in left]
        progress.queue([step.trial.key for step in steps])
        return [_job(course.plan, step, ledger, plugins, interruption) for step in steps]

    jobs, began = following(), False
    try:
        if jobs:
            console.print(f"starting {len(jobs)} trial{'s' if len(jobs) != 1 else ''} ...", highlight=False)
            began = True
            with display:
                folder = store.sweep(plan.id)
                while jobs:
                    execute_in_rounds(
                        lambda jobs: executor.execute(jobs, plan.resources, keeper, interruption, folder),
                        *(jobs, keeper, plan.resources.failure_retries, interruption),
                    )
                    _look(course, keeper, store, progress, display)
                    if interruption.requested or plan.tuning is None:
                        break
                    ledger.add(trial_entries(course.plan, folders))
                    jobs = following()
    except KeyboardInterrupt:
        interruption.signals += 1
    finally:
        executor.close()  # first: no worker writes to a run any more
        records = keeper.records()
        warnings = keeper.warnings()
        endings = {
            key: _ending(record, warnings.get(key, ()), progress.rows.get(key)) for key, record in records.items()
        }
        whole = not any(trial.pending for trial in course.plan.trials)
        ledger.close(endings, interrupted=interruption.requested, whole=whole)
    progress.look_at_disk(keeper.ends)
    if began:
        ledger.annotate(sweep_note(course.plan, outcome_lines(course.plan, records)))
    return SweepResult(runs, records, progress, skipped, interruption.requested, ledger.unsent, keeper.warnings())


def _look(course: Course, keeper: Keeper, store: Store, progress: Progress, display: SweepDisplay) -> None:
    """Reads what came of the trials that ran: which others are known by now, and what was chosen."""
    tuning = not course.compares
    course.look(keeper.ends)
    keeper.folders |= {trial.key: store.trial(course.plan.id, trial.key) for trial in course.plan.stages}
    progress.follow(course.plan, keeper.folders)
    if tuning and course.compares:
        for line in choice_lines(course.plan):
            display.remark(line)


def _check_devices(plan: Plan) -> None:
    if plan.resources.gpu == 0 and any(trial.config.train.device == "cuda" for trial in plan.trials):
        raise ConfigError(
            Problem("a trial is given no GPU, but `train.device` is cuda; set it to 1, or a fraction", "resources.gpu")
        )


def _ending(record: TrialRecord, warnings: Sequence[str], row: Row | None) -> Ending:
    warning = "\n".join(warnings)
    if record.status == "complete":
        return Ending("FINISHED", "complete", metrics=record.metrics, data_digest=record.data_digest, warning=warning)
    if record.status == "stopped":
        given_up = row is not None and row.status == GIVEN_UP
        return Ending("KILLED", "given_up" if given_up else "interrupted", warning=warning, is_over=given_up)
    return Ending(
        "FAILED", record.status, record.error_type, record.reason, record.traceback, warning=warning,
        is_over=row is not None and row.is_over,
    )  # fmt: skip


def _job(plan: Plan, step: Step, ledger: Ledger, plugins: Sequence[Plugin], interruption: Interruption) -> Job:
    trial = step.trial
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
        pause_at=step.pause_at,
    )
