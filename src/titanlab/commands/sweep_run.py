"""`titanlab sweep run`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from titanlab.sweeps.run import SweepResult


class ExecutorName(StrEnum):
    """Where trials run."""

    RAY = "ray"
    LOCAL = "local"


def run(
    file: Annotated[str, typer.Argument(help="The sweep, a YAML file.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: a.b=c; may be given again.", metavar="A.B=C")
    ] = None,
    plugins: Annotated[
        list[str] | None,
        typer.Option("--plugin", help="FILE.py or package.module with memories, architectures or tasks."),
    ] = None,
    store: Annotated[Path, typer.Option(help="The folder of results.")] = Path("titanlab-store"),
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
    from titanlab.sweeps.plan import make_plan
    from titanlab.sweeps.ray_executor import RayExecutor
    from titanlab.sweeps.run import run_sweep

    if ray_address is not None and executor is ExecutorName.LOCAL:
        raise ConfigError(
            Problem("--ray-address names a cluster, but --executor local runs here; leave one of them out")
        )
    loaded = [load_plugin(target) for target in plugins or ()]
    plan = make_plan(load_sweep(file, overrides or ()))
    place = open_store(store, tracking_uri)
    chosen = RayExecutor(ray_address) if executor is ExecutorName.RAY else LocalExecutor()
    console = Console(file=sys.stdout)
    for note in plan.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    console.print(plan.summary, highlight=False)
    result = run_sweep(plan, place, chosen, loaded, console)
    for line in _summary(result, file, store):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(result.exit_code)


def _summary(result: "SweepResult", file: str, store: Path) -> list[str]:
    """What happened, what failed and why, and where to look."""
    from titanlab.sweeps.progress import failures

    total, again = len(result.progress.rows), f"`titanlab sweep run {file}`"
    skipped = f" ({result.skipped} of them before)" if result.skipped else ""
    lines = [f"{result.complete} of {total} trials complete{skipped}; {result.progress.counts()}"]
    lines += [f"failed: {line}" for line in failures(list(result.progress.rows.values()))]
    if result.interrupted:
        lines.append(f"interrupted; {again} goes on from the checkpoints")
    if result.unsent:
        lines.append(f"warning: MLflow lacks results ({result.unsent[0]}); {again} sends them when the server is back")
    option = "" if str(store) == "titanlab-store" else f" --store {store}"
    lines.append(f"rank the variants:  titanlab sweep report {file}{option}")
    return [*lines, f"compare in MLflow:  titanlab ui {file}{option}"]
