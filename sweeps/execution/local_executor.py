"""Trials one after another in this process: no Ray, the same ledger, the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from titanlab.sweeps.execution.executor import Executor, Watcher, check_fits
from titanlab.sweeps.execution.interruption import Interruption
from titanlab.sweeps.execution.trainable import Job, run_trial
from titanlab.sweeps.language.sweep_file import Resources
from titanlab.sweeps.planning.machine import machine_cpus, machine_gpus


class LocalExecutor(Executor):
    """Runs trials here."""

    def check(self, resources: Resources) -> None:
        """See `Executor.check`."""
        check_fits(resources, [(machine_cpus(), machine_gpus())], "this machine")

    def execute(
        self, jobs: Sequence[Job], resources: Resources, watcher: Watcher, interruption: Interruption, folder: Path
    ) -> None:
        """See `Executor.execute`."""
        for job in jobs:
            if interruption.requested:
                return
            watcher.started(job.key)
            watcher.ended(job.key, run_trial(job))

    def close(self) -> None:
        """Nothing was started."""
