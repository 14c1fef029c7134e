"""`titanlab sweep run`."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from titanlab.commands.next_commands import DEFAULT_STORE, NextCommands, given
from titanlab.commands.options import Only, Overrides, Plugins, StoreFolder, SweepFile

if TYPE_CHECKING:
    from titanlab.sweeps.run import SweepResult


class ExecutorName(StrEnum):
    """Where trials run."""

    RAY = "ray"
    LOCAL = "local"


def run(
    file: SweepFile,
    overrides: Overrides = None,
    plugins: Plugins = None,
    only: Only = None,
    store: StoreFolder = DEFAULT_STORE,
    tracking_uri: Annotated[
        str | None, typer.Option(help="An MLflow server instead of the store's own database.")
    ] = None,
    ray_address: Annotated[str | None, typer.Option(help="A Ray cluster instead of this machine.")] = None,
    executor: Annotated[ExecutorName, typer.Option(help="Ray, or one trial after another here.")] = ExecutorName.RAY,
) -> None:
    """Run a sweep; the same command again resumes it and skips what is complete."""
    import sys

    from rich.console import Console

    from titanlab.platform.errors import ConfigError, Problem
    from titanlab.platform.plugins import load_plugin
    from titanlab.platform.tracking.store import open_store
    from titanlab.sweeps.language import load_sweep
    from titanlab.sweeps.local_executor import LocalExecutor
    from titanlab.sweeps.part import plan_part
    from titanlab.sweeps.plan_table import note_lines
    from titanlab.sweeps.ray_executor import RayExecutor
    from titanlab.sweeps.run import run_sweep

    if ray_address is not None and executor is ExecutorName.LOCAL:
        raise ConfigError(
            Problem("--ray-address names a cluster, but --executor local runs here; leave one of them out")
        )
    loaded = [load_plugin(target) for target in plugins or ()]
    sweep = load_sweep(file, overrides or ())
    plan = plan_part(sweep, only)
    place = open_store(store, tracking_uri)
    chosen = RayExecutor(ray_address) if executor is ExecutorName.RAY else LocalExecutor()
    console = Console(file=sys.stdout)
    for line in note_lines(plan):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{plan.summary}, into {place.root}", markup=False, highlight=False, soft_wrap=True)
    try:
        result = run_sweep(plan, place, chosen, loaded, console)
    except ConfigError as error:  # resources that this machine does not have
        raise sweep.document.located(error) from None
    how = [*given("--tracking-uri", tracking_uri), *given("--ray-address", ray_address)]
    how += [] if executor is ExecutorName.RAY else ["--executor", executor.value]
    following = NextCommands(file, tuple(overrides or ()), tuple(plugins or ()), store, only)
    for line in [*_summary(result, following.run(*how)), *following.lines()]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(result.exit_code)


def _summary(result: "SweepResult", again: str) -> list[str]:
    """What happened, what failed and why, and whether the same command (`again`) has something left to do."""
    from titanlab.sweeps.progress import failures

    total = len(result.progress.rows)
    skipped = f" ({result.skipped} of them before)" if result.skipped else ""
    rest = "" if result.complete == total else f": {result.progress.counts()}"
    lines = [f"{result.complete} of {total} trials complete{skipped}{rest}"]
    lines += [f"failed: {line}" for line in failures(list(result.progress.rows.values()))]
    if result.interrupted:
        lines.append(f"interrupted; `{again}` goes on from the checkpoints")
    elif result.complete < total:
        lines.append(f"once the cause is mended, `{again}` runs what is missing")
    if result.unsent:
        lines.append(
            f"warning: MLflow lacks results ({result.unsent[0]}); `{again}` sends them when the server is back"
        )
    return lines
