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

    from titanlab.commands.screen import Screen
    from titanlab.platform.errors import ConfigError, Problem
    from titanlab.platform.tracking.store import open_store
    from titanlab.sweeps.conclusions.conclusion import conclusion, unfinished_lines
    from titanlab.sweeps.conclusions.report import report_name, write_report
    from titanlab.sweeps.conclusions.report_markdown import first
    from titanlab.sweeps.conclusions.report_table import leading_rows, left_out, terminal_table
    from titanlab.sweeps.conclusions.summary import summarize
    from titanlab.sweeps.execution.notes import sweep_note
    from titanlab.sweeps.planning.tuning_lines import has_tried

    plan = load_plan(file, overrides, plugins, only)
    place = open_store(store)
    folder = place.sweep(plan.id)
    if not folder.is_dir():
        raise ConfigError(Problem(f"{folder} is not there: run the sweep first, `titanlab sweep run {file}`"))
    summary = summarize(plan, folder / "trials")
    begun = summary.complete or any(trial.status != "not begun" for trial in summary.unfinished)
    if not begun and not has_tried(summary.plan):
        raise ConfigError(
            Problem(
                f"{folder} holds none of these {len(plan.trials)} trials; repeat the --set options that the sweep was "
                f"run with, or run it: `titanlab sweep run {file}`"
            )
        )
    wide = None if sys.stdout.isatty() else 200  # a file or a pipe has no width of its own
    console = Screen(soft_wrap=True, markup=False, highlight=False, width=wide)
    name = report_name(only)
    written = write_report(summary, folder / "trials", folder / name)
    console.print(terminal_table(summary, console.width))
    lines = [left_out(summary, leading_rows(summary))]
    lines += [_shortened(line) for line in first(unfinished_lines(summary), SHOWN_TRIALS)]
    lines += [f"warning: {line}" for line in written.warnings]
    for line in filter(None, [*lines, *conclusion(summary)]):
        console.print(line)
    console.print(f"open: {written.page}")
    console.print(f"saved: {', '.join(sorted(path.name for path in written.files))} in {folder / name}")
    # A part's conclusion does not stand for the sweep on its page.
    note = sweep_note(plan, conclusion(summary)) if only is None else None
    console.print(_log(place, folder, written.files, name, note))


def _shortened(line: str) -> str:
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."


def _log(place: Store, folder: Path, files: list[Path], name: str, note: str | None) -> str:
    """Logs the files, and the conclusion of the whole sweep, on its run; says in a line what came of it."""
    from titanlab.platform.tracking.client import tracking_client
    from titanlab.platform.tracking.notes import write_note
    from titanlab.platform.tracking.store import read_sweep_runs
    from titanlab.sweeps.conclusions.report import log_report

    runs = read_sweep_runs(folder)
    if runs is None:
        return "not logged in MLflow: the sweep has no run there yet"
    from mlflow.exceptions import MlflowException

    try:
        client = tracking_client(runs.tracking_uri)
        log_report(client, runs.parent_run_id, files, name)
        if note is not None:
            write_note(client, runs.parent_run_id, note)
    except MlflowException as error:  # the files are saved: a dead server takes nothing away
        return f"warning: not logged in MLflow ({runs.tracking_uri}): {str(error).splitlines()[0]}"
    return f"logged in MLflow on run {runs.parent_run_id} under {name}/"
