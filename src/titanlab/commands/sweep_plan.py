"""`titanlab sweep plan`: what a sweep would run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from titanlab.commands.options import Overrides, Plugins, SweepFile, load_plan

if TYPE_CHECKING:
    from rich.table import Table

    from titanlab.sweeps.plan import Plan


def plan(
    file: SweepFile,
    overrides: Overrides = None,
    plugins: Plugins = None,
    store: Annotated[Path, typer.Option(help="The folder of results, to see what is done already.")] = Path(
        "titanlab-store"
    ),
) -> None:
    """List every trial of a sweep with its parameters and memory state; runs nothing and writes nothing."""
    import sys

    from rich.console import Console

    from titanlab.platform.tracking.store import open_store

    planned = load_plan(file, overrides, plugins)
    wide = None if sys.stdout.isatty() else 160  # a file or a pipe has no width of its own
    console = Console(soft_wrap=True, markup=False, highlight=False, width=wide)
    console.print(_table(planned, _states(planned, open_store(store).sweep(planned.id) / "trials")))
    for note in planned.notes:
        console.print(f"note: {note}")
    if planned.baseline is not None:
        console.print(f"baseline: {planned.baseline.variant}")
    console.print(f"objective: {planned.objective.metric}, {planned.objective.direction}")
    console.print(f"a trial takes {planned.resources.cpu:g} CPU and {planned.resources.gpu:g} GPU")
    console.print(planned.summary)


def _states(planned: Plan, folder: Path) -> dict[str, str]:
    """How each trial stands in the store, by its key; empty for one that was never begun."""
    from titanlab.sweeps.trial_record import read_record

    records = {trial.key: read_record(folder / trial.key) for trial in planned.trials}
    return {key: record.status for key, record in records.items() if record is not None}


def _table(planned: Plan, states: dict[str, str]) -> Table:
    from rich.table import Table

    from titanlab.sweeps.readable import readable_bytes

    table = Table(title=planned.name, title_justify="left")
    table.add_column("variant", overflow="fold")
    for heading in ("seed", "parameters", "memory state"):
        table.add_column(heading, justify="right")
    table.add_column("key")
    if states:
        table.add_column("state")
    cells = {cell.key: cell for cell in planned.cells}
    for trial in planned.trials:
        cell = cells[trial.cell_key]
        sizes = (f"{cell.parameters:,}", readable_bytes(cell.memory_bytes))
        state = (states.get(trial.key, "planned"),) if states else ()
        table.add_row(cell.variant, str(trial.seed), *sizes, trial.key, *state)
    return table
