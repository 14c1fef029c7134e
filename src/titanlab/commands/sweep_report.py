"""`titanlab sweep report`: which choice won, by how much, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from titanlab.commands.options import Overrides, Plugins, StoreFolder, SweepFile, load_plan

if TYPE_CHECKING:
    from titanlab.platform.tracking.store import Store


def report(
    file: SweepFile,
    overrides: Overrides = None,
    plugins: Plugins = None,
    store: StoreFolder = Path("titanlab-store"),
) -> None:
    """Compare a sweep's cells: print the table, save Markdown, CSV and a picture, log them on the sweep's run."""
    import sys

    from rich.console import Console

    from titanlab.platform.errors import ConfigError, Problem
    from titanlab.platform.tracking.store import open_store
    from titanlab.sweeps.report import remarks, table, write_report
    from titanlab.sweeps.summary import summarize

    plan = load_plan(file, overrides, plugins)
    place = open_store(store)
    folder = place.sweep(plan.id)
    if not folder.is_dir():
        raise ConfigError(Problem(f"{folder} is not there: run the sweep first, `titanlab sweep run {file}`"))
    summary = summarize(plan, folder / "trials")
    if all(trial.status == "not begun" for trial in summary.unfinished) and not summary.complete:
        raise ConfigError(
            Problem(
                f"{folder} holds none of these {len(plan.trials)} trials; repeat the --set options that the sweep was "
                f"run with, or run it: `titanlab sweep run {file}`"
            )
        )
    wide = None if sys.stdout.isatty() else 200  # a file or a pipe has no width of its own
    console = Console(soft_wrap=True, markup=False, highlight=False, width=wide)
    console.print(table(summary))
    for line in remarks(summary):
        console.print(line)
    files = write_report(summary, folder / "trials", folder / "report")
    console.print(f"saved: {', '.join(str(path) for path in files)}")
    console.print(_log(place, folder, files))


def _log(place: Store, folder: Path, files: list[Path]) -> str:
    """Logs the files on the sweep's run; says in a line what came of it."""
    from titanlab.platform.tracking.client import tracking_client
    from titanlab.platform.tracking.store import read_sweep_runs
    from titanlab.sweeps.report import log_report

    runs = read_sweep_runs(folder)
    if runs is None:
        return "not logged in MLflow: the sweep has no run there yet"
    from mlflow.exceptions import MlflowException

    try:
        log_report(tracking_client(runs.tracking_uri), runs.parent_run_id, files)
    except MlflowException as error:  # the files are saved: a dead server takes nothing away
        return f"warning: not logged in MLflow ({runs.tracking_uri}): {str(error).splitlines()[0]}"
    return f"logged in MLflow on run {runs.parent_run_id} under report/"
