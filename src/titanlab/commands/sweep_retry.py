"""`titanlab sweep retry`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from titanlab.commands.next_commands import DEFAULT_STORE
from titanlab.commands.options import (
    ExecutorName,
    Only,
    Overrides,
    Plugins,
    RayAddress,
    Runner,
    StoreFolder,
    SweepFile,
    TrackingUri,
)
from titanlab.commands.sweep_run import Session, start

if TYPE_CHECKING:
    from titanlab.sweeps.planning.plan import Plan


class Ended(StrEnum):
    """How a trial ended that may be tried again."""

    FAILED = "failed"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    STOPPED = "stopped"


def retry(
    file: SweepFile,
    overrides: Overrides = None,
    plugins: Plugins = None,
    only: Only = None,
    statuses: Annotated[
        list[Ended] | None, typer.Option("--status", help="Only trials that ended so; may be given again.")
    ] = None,
    store: StoreFolder = DEFAULT_STORE,
    tracking_uri: TrackingUri = None,
    ray_address: RayAddress = None,
    executor: Runner = ExecutorName.RAY,
) -> None:
    """Run again what failed, diverged or was stopped, each from its last good checkpoint, and nothing else."""
    wanted = {status.value for status in statuses or Ended}

    def choose(plan: "Plan", trials: Path) -> "Plan":
        from titanlab.sweeps.execution.selection import with_trials
        from titanlab.sweeps.execution.stages import standing
        from titanlab.sweeps.execution.trial_record import read_record

        plan = standing(plan, trials).plan  # of a tuned sweep: those that are compared
        records = {trial.key: read_record(trials / trial.key) for trial in plan.trials}
        keys = {key for key, record in records.items() if record is not None and record.status in wanted}
        if not keys:
            typer.echo(f"nothing to retry: no trial of {plan.name} is {' or '.join(sorted(wanted))}")
            raise typer.Exit
        return with_trials(plan, keys)

    session = Session(file, overrides, plugins, only, store, tracking_uri, ray_address, executor)
    start(session, choose, diverged_again=True)
