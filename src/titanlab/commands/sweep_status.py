"""`titanlab sweep status`."""

from pathlib import Path
from typing import Annotated

import typer


def status(
    file: Annotated[str, typer.Argument(help="The sweep, a YAML file.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="As it was run: a.b=c; may be given again.", metavar="A.B=C")
    ] = None,
    plugins: Annotated[
        list[str] | None,
        typer.Option("--plugin", metavar="FILE|MODULE", help="FILE.py or package.module that the sweep needs."),
    ] = None,
    store: Annotated[Path, typer.Option(help="The folder of results.")] = Path("titanlab-store"),
) -> None:
    """Show how far each trial of a sweep is, also while it runs."""
    from rich.console import Console

    from titanlab.platform.plugins import load_plugin
    from titanlab.platform.tracking.store import open_store
    from titanlab.sweeps.language import load_sweep
    from titanlab.sweeps.live_table import trial_table
    from titanlab.sweeps.plan import make_plan
    from titanlab.sweeps.progress import Progress, failures

    for target in plugins or ():
        load_plugin(target)
    plan = make_plan(load_sweep(file, overrides or ()))
    place = open_store(store)
    progress = Progress(plan, {trial.key: place.trial(plan.id, trial.key) for trial in plan.trials})
    progress.look_at_disk()
    rows = list(progress.rows.values())
    console = Console()
    console.print(trial_table(rows, progress.metric))
    for line in failures(rows):
        console.print(f"failed: {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(rows)} trials: {progress.counts()}", highlight=False)
