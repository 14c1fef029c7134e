"""`titanlab sweep run`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO, cast

import typer

from titanlab.commands.next_commands import DEFAULT_STORE, NextCommands, given
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
    load_plugins,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from titanlab.sweeps.execution.run import SweepResult
    from titanlab.sweeps.planning.plan import Plan


def run(
    file: SweepFile,
    overrides: Overrides = None,
    plugins: Plugins = None,
    only: Only = None,
    store: StoreFolder = DEFAULT_STORE,
    tracking_uri: TrackingUri = None,
    ray_address: RayAddress = None,
    executor: Runner = ExecutorName.RAY,
) -> None:
    """Run a sweep; the same command again resumes it and skips what is complete."""
    start(Session(file, overrides, plugins, only, store, tracking_uri, ray_address, executor))


@dataclass(frozen=True)
class Session:
    """What the command line said."""

    file: str
    overrides: list[str] | None
    plugins: list[str] | None
    only: str | None
    store: Path
    tracking_uri: str | None
    ray_address: str | None
    executor: ExecutorName

    def again(self) -> str:
        """The command that runs what is left."""
        how = [*given("--tracking-uri", self.tracking_uri), *given("--ray-address", self.ray_address)]
        how += [] if self.executor is ExecutorName.RAY else ["--executor", self.executor.value]
        return self.following().run(*how)

    def following(self) -> NextCommands:
        """What to type next."""
        return NextCommands(self.file, tuple(self.overrides or ()), tuple(self.plugins or ()), self.store, self.only)


def start(
    session: Session, choose: "Callable[[Plan, Path], Plan] | None" = None, *, diverged_again: bool = False
) -> NoReturn:
    """Runs a sweep, or what `choose` takes of it (given the plan and the folder of its trials), and leaves."""
    import sys

    from titanlab.commands.screen import Screen
    from titanlab.platform.errors import ConfigError, Problem
    from titanlab.platform.tracking.store import open_store
    from titanlab.sweeps.execution.disk_use import disk_note
    from titanlab.sweeps.execution.local_executor import LocalExecutor
    from titanlab.sweeps.execution.ray_executor import RayExecutor
    from titanlab.sweeps.execution.run import run_sweep
    from titanlab.sweeps.execution.selection import strays, strays_note
    from titanlab.sweeps.execution.streams import LastingStream
    from titanlab.sweeps.language.sweep_file import load_sweep
    from titanlab.sweeps.planning.part import plan_part
    from titanlab.sweeps.planning.plan_table import note_lines

    if session.ray_address is not None and session.executor is ExecutorName.LOCAL:
        raise ConfigError(
            Problem("--ray-address names a cluster, but --executor local runs here; leave one of them out")
        )
    loaded = load_plugins(session.plugins)
    sweep = load_sweep(session.file, session.overrides or ())
    plan = plan_part(sweep, session.only)
    place = open_store(session.store, session.tracking_uri)
    trials = place.sweep(plan.id) / "trials"
    if choose is not None:
        plan = choose(plan, trials)
    chosen = RayExecutor(session.ray_address) if session.executor is ExecutorName.RAY else LocalExecutor()
    console = Screen(file=cast(TextIO, LastingStream(sys.stdout)))
    for line in note_lines(plan):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for note in filter(None, [strays_note(strays(plan, trials)), disk_note(plan, place.root)]):
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{plan.summary}, into {place.root}", markup=False, highlight=False, soft_wrap=True)
    try:
        result = run_sweep(plan, place, chosen, loaded, console, diverged_again=diverged_again)
    except ConfigError as error:  # resources that this machine does not have
        raise sweep.document.located(error) from None
    following = session.following()
    for line in [*_summary(result, session.again(), following.retry()), *following.lines()]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(result.exit_code)


def _summary(result: "SweepResult", again: str, retry: str) -> list[str]:
    """What happened, what failed and why, and whether the same command (`again`) has something left to do."""
    from titanlab.sweeps.execution.progress import DIVERGED, failures

    total = len(result.progress.rows)
    diverged = sum(not row.is_over for row in result.progress.with_status(DIVERGED))
    skipped = f" ({result.skipped} of them before)" if result.skipped else ""
    rest = "" if result.complete == total else f": {result.progress.counts()}"
    lines = [f"{result.complete} of {total} trials complete{skipped}{rest}"]
    rows = result.progress.rows
    for key, texts in result.warnings.items():
        lines += [f"warning: {rows[key].variant} seed={rows[key].seed} ({key}): {text}" for text in texts]
    lines += [f"failed: {line}" for line in failures(list(rows.values()))]
    if result.interrupted:
        lines.append(f"interrupted; `{again}` goes on from the checkpoints")
    elif result.over + diverged < total:
        lines.append(f"once the cause is mended, `{again}` runs what is missing")
    if diverged and not result.interrupted:
        lines.append(f"what diverged is not run again by itself: after a change of the code, `{retry}` does")
    if result.unsent:
        lines.append(
            f"warning: MLflow lacks results ({result.unsent[0]}); `{again}` sends them when the server is back"
        )
    return lines
