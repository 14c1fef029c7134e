"""What the driver remembers of its session: the records of trials whose folder may not have been writable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from titanlab.platform.errors import DiskFullError
from titanlab.sweeps.execution.executor import Watcher
from titanlab.sweeps.execution.interruption import Interruption
from titanlab.sweeps.execution.trainable import Job
from titanlab.sweeps.execution.trial_record import TrialRecord, read_record, write_failure


class Keeper(Watcher):
    """Passes on what happens, and writes down the failure of a trial whose process could not.

    Args:
        display: who else is told.
        folders: of the trials, by key.
    """

    def __init__(self, display: Watcher, folders: dict[str, Path]) -> None:
        self.display, self.folders = display, folders
        self.ends: dict[str, TrialRecord] = {}
        """The last end of each trial in this session."""

    def started(self, key: str) -> None:
        """See `Watcher`."""
        self.display.started(key)

    def died(self, key: str) -> None:
        """See `Watcher`."""
        self.display.died(key)

    def ended(self, key: str, record: TrialRecord) -> None:
        """See `Watcher`."""
        self.ends[key] = record
        if record.failed:
            with suppress(DiskFullError, OSError):  # on a full disk the ledger and the console still have it
                write_failure(self.folders[key], record)
        self.display.ended(key, record)

    def remark(self, text: str) -> None:
        """See `Watcher`."""
        self.display.remark(text)

    def records(self) -> dict[str, TrialRecord]:
        """How every trial stands that was ever begun: by its folder, and where that could not be written by its end."""
        found = {key: record for key, folder in self.folders.items() if (record := read_record(folder)) is not None}
        return {**found, **{key: record for key, record in self.ends.items() if record.failed}}

    def may_pass(self, key: str) -> bool:
        """Whether the trial failed in a way that another attempt may not."""
        return key in self.ends and self.ends[key].failed and self.ends[key].may_pass

    def warnings(self) -> dict[str, Sequence[str]]:
        """What was mended in this session, by trial."""
        return {key: record.warnings for key, record in self.ends.items() if record.warnings}


def execute_in_rounds(
    execute: Callable[[Sequence[Job]], None],
    jobs: Sequence[Job],
    keeper: Keeper,
    retries: int,
    interruption: Interruption,
) -> None:
    """Runs the trials, then those again that failed and may yet succeed: a full disk or a memory has had time to clear.

    Args:
        retries: `resources.failure_retries`.
    """
    for _ in range(retries + 1):
        execute(jobs)
        jobs = [job for job in jobs if keeper.may_pass(job.key)]
        if not jobs or interruption.requested:
            return
