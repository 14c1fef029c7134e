"""`titanlab sweep status`."""

from pathlib import Path
from typing import Annotated

import typer

from titanlab.commands.options import Only, Overrides, Plugins, StoreFolder, SweepFile, load_plan


def status(
    file: SweepFile,
    overrides: Overrides = None,
    plugins: Plugins = None,
    only: Only = None,
    store: StoreFolder = Path("titanlab-store"),
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, for a program.")] = False,
) -> None:
    """Show how far each trial of a sweep is, who runs it, why trials failed and how long the rest takes."""
    import json

    from titanlab.commands.screen import Screen
    from titanlab.platform.tracking.store import open_store
    from titanlab.sweeps.execution.live_table import trial_table
    from titanlab.sweeps.execution.progress import failures
    from titanlab.sweeps.execution.selection import strays_note
    from titanlab.sweeps.execution.status import sweep_status
    from titanlab.sweeps.readable import duration

    found = sweep_status(load_plan(file, overrides, plugins, only), open_store(store))
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
        return
    rows = list(found.progress.rows.values())
    console = Screen(soft_wrap=True, markup=False, highlight=False)
    Screen().print(trial_table(rows, found.progress.metric))
    for line in failures(rows):
        console.print(f"failed: {line}")
    if note := strays_note(found.strays):
        console.print(f"note: {note}")
    console.print(
        f"{len(rows)} trials: {found.progress.counts()}; {found.progress.fraction():.0%} of the training done"
    )
    if found.driver is None:
        console.print("nobody runs it now")
    else:
        console.print(f"run by {found.driver}; time left: {duration(found.seconds_left())}")
