"""`titanlab sweep status`."""

from pathlib import Path

from titanlab.commands.options import Only, Overrides, Plugins, StoreFolder, SweepFile, load_plan


def status(
    file: SweepFile,
    overrides: Overrides = None,
    plugins: Plugins = None,
    only: Only = None,
    store: StoreFolder = Path("titanlab-store"),
) -> None:
    """Show how far each trial of a sweep is, also while it runs."""
    from rich.console import Console

    from titanlab.platform.tracking.store import open_store
    from titanlab.sweeps.live_table import trial_table
    from titanlab.sweeps.progress import Progress, failures

    plan = load_plan(file, overrides, plugins, only)
    place = open_store(store)
    progress = Progress(plan, {trial.key: place.trial(plan.id, trial.key) for trial in plan.trials})
    progress.look_at_disk()
    rows = list(progress.rows.values())
    console = Console()
    console.print(trial_table(rows, progress.metric))
    for line in failures(rows):
        console.print(f"failed: {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(rows)} trials: {progress.counts()}", highlight=False)
