"""The comparison as people read it: a table on the screen, Markdown, CSV and a picture, kept and logged."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from titanlab.platform.files import write_atomically
from titanlab.sweeps.curves import read_curves
from titanlab.sweeps.readable import readable, readable_bytes, readable_interval
from titanlab.sweeps.summary import CONFIDENCE, Row, Summary

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from rich.table import Table

MARKDOWN, CSV, PICTURE = "report.md", "report.csv", "report.png"

HEADINGS = (
    "rank",
    "variant",
    "seeds",
    "mean",
    "95 % interval",
    "to baseline",
    "its 95 % interval",
    "verdict",
    "parameters",
    "memory state",
    "seconds",
    "tokens/s",
)


def write_report(summary: Summary, trials: Path, folder: Path) -> list[Path]:
    """Writes Markdown, CSV and PNG into `folder` and returns them.

    Args:
        trials: the folder with one folder a trial; the curves are read from there.
    """
    from titanlab.sweeps.figure import draw_report  # matplotlib takes a second

    folder.mkdir(parents=True, exist_ok=True)
    draw_report(summary, *read_curves(summary.plan, trials), folder / PICTURE)
    write_atomically(folder / MARKDOWN, markdown(summary))
    write_atomically(folder / CSV, csv_text(summary))
    return [folder / name for name in (MARKDOWN, CSV, PICTURE)]


def log_report(client: MlflowClient, parent_run_id: str, files: list[Path]) -> None:
    """Keeps the files with the sweep's own run in MLflow, under `report/`; logged again, they are replaced."""
    for file in files:
        client.log_artifact(parent_run_id, str(file), "report")


def table(summary: Summary) -> Table:
    """The comparison for a terminal."""
    from rich.table import Table

    shown = Table(title=f"{summary.plan.name}: {_aim(summary)}", title_justify="left")
    for heading in HEADINGS:
        words = heading in ("variant", "verdict")
        shown.add_column(heading, justify="left" if words else "right", overflow="fold")
    for row in summary.rows:
        style = "bold" if row.rank == 1 else "dim" if row.rank is None else None
        shown.add_row(*_fields(row), style=style)
    return shown


def remarks(summary: Summary) -> list[str]:
    """What a reader must know to read the table right, and every trial that is not in it."""
    plan = summary.plan
    lines = [f"{summary.complete} of {len(plan.trials)} trials complete."]
    lines += [
        f"{trial.variant} seed={trial.trial.seed}: {trial.status}{': ' if trial.reason else ''}{trial.reason}"
        for trial in summary.unfinished
    ]
    if any(len(row.values) == 1 for row in summary.rows):
        lines.append("One seed gives no interval: run more with `--set seeds=5`.")
    if plan.baseline is None:
        lines.append("No baseline is named, so no difference is shown: add `baseline` to the sweep.")
    elif not any(row.cell.is_baseline and row.values for row in summary.rows):
        lines.append(f"The baseline ({plan.baseline.variant}) has no result yet, so no difference is shown.")
    elif any(row.difference is not None for row in summary.rows):
        lines.append(_method(summary))
    return lines


def _method(summary: Summary) -> str:
    compared = [row for row in summary.rows if row.difference is not None]
    paired = sum(row.paired for row in compared)
    how = "paired by seed" if paired == len(compared) else "Welch's" if not paired else "paired by seed, else Welch's"
    count = len(compared)
    chance = f" (of {count} cells no different from it, about {count * (1 - CONFIDENCE):.1f} would seem to be)"
    return (
        f"Intervals are {CONFIDENCE:.0%} of Student's t; differences to the baseline are {how}, each comparison for "
        f"itself{chance if count >= 5 else ''}."
    )


def markdown(summary: Summary) -> str:
    """The comparison as Markdown."""
    plan = summary.plan
    head = [f"# {plan.name}", "", f"{_aim(summary)}; {plan.summary}.", ""]
    if plan.baseline is not None:
        head += [f"Baseline: {_cell_text(plan.baseline.variant)}", ""]
    lines = [f"| {' | '.join(HEADINGS)} |", f"|{'|'.join('---' for _ in HEADINGS)}|"]
    lines += [f"| {' | '.join(_cell_text(field) for field in _fields(row))} |" for row in summary.rows]
    notes = [f"- {_cell_text(line)}" for line in (*remarks(summary), *plan.notes)]
    return "\n".join([*head, *lines, "", f"![comparison]({PICTURE})", "", *notes, ""])


def csv_text(summary: Summary) -> str:
    """The comparison as CSV with full precision: one line a cell, one column a setting and a seed."""
    plan = summary.plan
    settings = list(dict.fromkeys(key for cell in plan.cells for key in cell.settings))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["rank", "variant", "cell", *settings, "metric", "direction", "seeds", "mean", "low", "high", "difference"]
        + ["difference_low", "difference_high", "paired", "verdict", "parameters", "memory_bytes", "seconds"]
        + ["tokens_per_second", *(f"seed_{seed}" for seed in plan.seeds)]
    )
    for row in summary.rows:
        estimate, difference = row.estimate or (None,) * 3, row.difference or (None,) * 3
        chosen = [row.cell.settings.get(key, "") for key in settings]
        writer.writerow(
            [
                row.rank,
                row.cell.variant,
                row.cell.key,
                *chosen,
                *plan.objective,
                len(row.values),
                *estimate,
                *difference,
            ]
            + [row.paired if row.difference else "", row.verdict, row.cell.parameters, row.cell.memory_bytes]
            + [row.seconds, row.tokens_per_second, *(row.values.get(seed, "") for seed in plan.seeds)]
        )
    return stream.getvalue()


def _aim(summary: Summary) -> str:
    objective = summary.plan.objective
    return f"{objective.metric}, {'higher' if objective.direction == 'max' else 'lower'} is better"


def _fields(row: Row) -> tuple[str, ...]:
    """A row's texts in the order of `HEADINGS`."""
    estimate, difference = row.estimate, row.difference
    return (
        str(row.rank or ""),
        row.cell.variant,
        f"{len(row.values)}/{len(row.cell.trials)}",
        readable(estimate.mean) if estimate else "",
        readable_interval(estimate.low, estimate.high) if estimate else "",
        f"{'+' if difference.mean > 0 else ''}{readable(difference.mean)}" if difference else "",
        readable_interval(difference.low, difference.high) if difference else "",
        row.verdict,
        f"{row.cell.parameters:,}",
        readable_bytes(row.cell.memory_bytes),
        readable(row.seconds, 3),
        readable(row.tokens_per_second, 3),
    )


def _cell_text(text: str) -> str:
    """Text that stays inside its cell of a Markdown table, and is no markup."""
    return "".join(f"\\{character}" if character in "\\`*_|<>[]" else character for character in text).replace(
        "\n", " "
    )
