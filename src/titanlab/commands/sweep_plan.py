"""`titanlab sweep plan`: what a sweep would run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from titanlab.commands.options import Only, Overrides, Plugins, SweepFile, load_plugins

if TYPE_CHECKING:
    from rich.console import Console

    from titanlab.platform.plugins import Plugin
    from titanlab.sweeps.language.sweep_file import Sweep
    from titanlab.sweeps.planning.plan import Plan
    from titanlab.sweeps.planning.probe import Probed


def plan(
    file: SweepFile,
    overrides: Overrides = None,
    plugins: Plugins = None,
    only: Only = None,
    store: Annotated[Path, typer.Option(help="The folder of results, to see what is done already.")] = Path(
        "titanlab-store"
    ),
    csv: Annotated[
        str | None, typer.Option("--csv", metavar="FILE|-", help="Write every trial as CSV; `-`: to the screen alone.")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Take 3 real steps of each different model, for at most a minute in all.")
    ] = False,
    show_sources: Annotated[
        bool, typer.Option("--sources", help="Show where each value was written: file and line, or the option.")
    ] = False,
) -> None:
    """List every trial of a sweep with what its model costs; trains nothing and writes nothing but the CSV."""
    import sys

    from titanlab.commands.screen import Screen
    from titanlab.platform.tracking.store import open_store
    from titanlab.sweeps.execution.stages import standing
    from titanlab.sweeps.language.sweep_file import load_sweep
    from titanlab.sweeps.planning.part import survey_part
    from titanlab.sweeps.planning.plan import require_runnable
    from titanlab.sweeps.planning.plan_table import plan_csv

    loaded = load_plugins(plugins)
    sweep = load_sweep(file, overrides or ())
    planned = survey_part(sweep, only)
    trials = open_store(store).sweep(planned.id) / "trials"
    planned = standing(planned, trials).plan
    states = _states(planned, trials)
    probed = _probe(planned, sweep, loaded) if probe else {}
    wide = None if sys.stdout.isatty() else 160  # a file or a pipe has no width of its own
    console = Screen(soft_wrap=True, markup=False, highlight=False, width=wide)
    if csv == "-":
        sys.stdout.write(plan_csv(planned, states, probed))
    else:
        if show_sources:
            _show_sources(console, sweep)
        _show(console, planned, states, probed)
        if csv is not None:
            _write(csv, plan_csv(planned, states, probed))
            console.print(f"saved: {csv}")
    require_runnable(planned)


def _states(planned: Plan, folder: Path) -> dict[str, str]:
    """How each trial stands in the store, by its key; empty for one that was never begun."""
    from titanlab.sweeps.execution.trial_record import read_record

    if not folder.is_dir():
        return {}
    records = {trial.key: read_record(folder / trial.key) for trial in planned.stages}
    return {key: record.status for key, record in records.items() if record is not None}


def _show_sources(console: Console, sweep: Sweep) -> None:
    from titanlab.sweeps.language.sources import sources

    for source in sources(sweep.document):
        console.print(f"{source.place}: {source.key} = {source.value}")


def _probe(planned: Plan, sweep: Sweep, plugins: list[Plugin]) -> dict[str, Probed]:
    """Real steps, where the sweep's trials would fit."""
    from titanlab.platform.errors import ConfigError
    from titanlab.sweeps.execution.executor import check_fits
    from titanlab.sweeps.planning.machine import machine_cpus, machine_gpus
    from titanlab.sweeps.planning.probe import probe

    try:
        check_fits(planned.resources, [(machine_cpus(), machine_gpus())], "this machine")
    except ConfigError as error:
        raise sweep.document.located(error) from None
    return probe(planned, plugins)


def _show(console: Console, planned: Plan, states: dict[str, str], probed: dict[str, Probed]) -> None:
    from titanlab.sweeps.planning.plan_table import LARGEST_TABLE, note_lines, overview, trial_table
    from titanlab.sweeps.planning.time_table import probe_lines, probe_table
    from titanlab.sweeps.planning.totals import budget_line, memory_line, total_line
    from titanlab.sweeps.planning.tuning_lines import plan_lines

    large = len(planned.trials) > LARGEST_TABLE
    console.print(overview(planned, states) if large else trial_table(planned, states))
    for line in note_lines(planned):
        console.print(line)
    if planned.baseline is not None:
        console.print(f"baseline: {planned.baseline.variant}")
    console.print(f"objective: {planned.objective.metric}, {planned.objective.direction}")
    for line in plan_lines(planned, states):
        console.print(line)
    console.print(budget_line(planned))
    console.print(f"a trial takes {planned.resources.cpu:g} CPU and {planned.resources.gpu:g} GPU")
    if probed:
        console.print(probe_table(planned, probed))
    for line in probe_lines(planned, probed) if probed else [memory_line(planned)]:
        console.print(line)
    console.print(total_line(planned))
    if large:
        console.print("every trial: --csv FILE, or --csv - for the screen")
    if planned.refused:
        console.print(f"{len(planned.refused)} more cells cannot run")
    console.print(planned.summary)


def _write(file: str, text: str) -> None:
    from titanlab.platform.errors import ConfigError, Location, Problem

    try:
        Path(file).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(Problem(f"cannot be written: {reason}", "", Location(f"--csv {file!r}"))) from None
