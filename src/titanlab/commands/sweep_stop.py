"""`titanlab sweep stop`."""

from pathlib import Path
from typing import Annotated

import typer

from titanlab.commands.options import Overrides, Plugins, StoreFolder, SweepFile

PATIENCE = 120.0  # seconds


def stop(
    file: SweepFile,
    overrides: Overrides = None,
    plugins: Plugins = None,
    store: StoreFolder = Path("titanlab-store"),
    now: Annotated[bool, typer.Option("--now", help="Do not wait for checkpoints.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when the sweep has ended.")] = True,
) -> None:
    """End a running sweep from anywhere that sees its store: its trials write checkpoints, as on Ctrl-C."""
    import time

    from titanlab.platform.tracking.driver import driver_of, is_driven
    from titanlab.platform.tracking.store import open_store
    from titanlab.sweeps.execution.interruption import ask_to_stop
    from titanlab.sweeps.language.sweep_file import load_sweep

    sweep_id = load_sweep(file, overrides or ()).config.id
    folder = open_store(store).sweep(sweep_id)
    if not is_driven(folder):
        typer.echo(f"nothing to stop: no process runs sweep '{sweep_id}' in {folder.parent.parent}")
        return
    typer.echo(f"asking {driver_of(folder) or 'the process that runs it'} to end sweep '{sweep_id}' ...")
    ask_to_stop(folder, now=now)
    deadline = time.monotonic() + PATIENCE
    while wait and is_driven(folder):
        if time.monotonic() > deadline:
            typer.echo(f"it has not ended within {PATIENCE:.0f} s; --now does not wait for checkpoints", err=True)
            raise typer.Exit(1)
        time.sleep(0.2)
    if wait:
        typer.echo(f"ended; `titanlab sweep run {file}` with the same options goes on from the checkpoints")
