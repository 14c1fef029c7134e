"""`titanlab sweep report`: which choice won, by how much, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from titanlab.commands.options import Only, Overrides, Plugins, StoreFolder, SweepFile, load_plan

if TYPE_CHECKING:
    from titanlab.platform.tracking.store import Store

SHOWN_TRIALS = 20
LONGEST = 180


def report(
    file: SweepFile,
    overrides: Overrides = None,
    plugins: Plugins = None,
    only: Only = None,
    store: StoreFolder = Path("titanlab-store"),
) -> None:
    """Compare a sweep's cells: who won and how sure that is; saves a page, pictures and tables, and logs them."""
    import sys

    from rich.console import Console

    from titanlab.platform.errors import ConfigError, Problem
    from titanlab.platform.tracking.store import open_store
    from titanlab.sweeps.conclusion import conclusion, unfinished_lines
    from titanlab.sweeps.report import write_report
    from titanlab.sweeps.report_markdown import first
    from titanlab.sweeps.report_table import leading_rows, left_out, terminal_table
    from titanlab.sweeps.summary import summarize

    plan = load_plan(file, overrides, plugins, only)
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
    written = write_report(summary, folder / "trials", folder / "report")
    console.print(terminal_table(summary, console.width))
    lines = [left_out(summary, leading_rows(summary))]
    lines += [_shortened(line) for line in first(unfinished_lines(summary), SHOWN_TRIALS)]
    lines += [f"warning: {line}" for line in written.warnings]
    for line in filter(None, [*lines, *conclusion(summary)]):
        console.print(line)
    console.print(f"open: {written.page}")
    console.print(f"saved: {', '.join(sorted(path.name for path in written.files))} in {folder / 'report'}")
    console.print(_log(place, folder, written.files))


def _shortened(line: str) -> str:
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."


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
