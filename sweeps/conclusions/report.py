"""The files of a report: written beside the trials and kept with the sweep's own run in MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from titanlab.platform.config import digest
from titanlab.platform.files import slug, write_atomically
from titanlab.sweeps.conclusions.curves import Curves, read_curves
from titanlab.sweeps.conclusions.factors import Effects
from titanlab.sweeps.conclusions.report_csv import cells_csv, effects_csv, trials_csv
from titanlab.sweeps.conclusions.report_html import html_page
from titanlab.sweeps.conclusions.report_markdown import markdown
from titanlab.sweeps.conclusions.summary import Summary
from titanlab.sweeps.planning.tuning_lines import tuning_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

MARKDOWN, CSV, TRIALS, EFFECTS, PAGE = "report.md", "report.csv", "trials.csv", "effects.csv", "report.html"
TUNING = "tuning.csv"
WHOLE = "report"
PICTURES = {
    "comparison": "Cells compared",
    "curves": "Learning curves",
    "trade_offs": "Quality against cost",
    "effects": "What each axis does",
    "interactions": "Which axes depend on each other",
    "tuning": "Quality against what was tuned",
}
"""File name and title, in the order of the report."""


class Written(NamedTuple):
    """What a report came to."""

    files: list[Path]
    warnings: tuple[str, ...]
    """What could not be read."""

    @property
    def page(self) -> Path:
        """The file to open."""
        return next(path for path in self.files if path.name == PAGE)


def write_report(summary: Summary, trials: Path, folder: Path) -> Written:
    """Writes Markdown, CSV, PNG, SVG and the HTML page into `folder`, and removes what an earlier report left there.

    Args:
        trials: the folder with one folder a trial; the curves are read from there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    curves = read_curves(summary.plan, trials)
    pictures = _draw(summary, curves, folder)
    drawn = [(folder / f"{name}.svg", title) for name, title in PICTURES.items() if name in pictures]
    texts = {
        PAGE: html_page(summary, drawn),
        MARKDOWN: markdown(summary, [(path.with_suffix(".png").name, title) for path, title in drawn]),
        CSV: cells_csv(summary),
        TRIALS: trials_csv(summary),
    }
    if isinstance(summary.effects, Effects):
        texts[EFFECTS] = effects_csv(summary.effects)
    if summary.plan.tuning is not None:
        texts[TUNING] = tuning_csv(summary.plan)
    for name, text in texts.items():
        write_atomically(folder / name, text)
    files = [folder / name for name in texts] + [path for paths in pictures.values() for path in paths]
    _remove_stale(folder, files)
    return Written(files, curves.unreadable)


def log_report(client: MlflowClient, parent_run_id: str, files: list[Path], name: str = WHOLE) -> None:
    """Keeps the files with the sweep's own run in MLflow, under `name`; logged again, they are replaced."""
    for file in files:
        client.log_artifact(parent_run_id, str(file), name)


def report_name(only: str | None) -> str:
    """The folder of a report: `report`, and within it one for each part of the sweep that was asked for."""
    if only is None:
        return WHOLE
    # `depth < 2` and `depth == 2` are the same but for what a path leaves out.
    return f"{WHOLE}/only-{slug(only)[:60]}-{digest(only)[:8]}"


def _draw(summary: Summary, curves: Curves, folder: Path) -> dict[str, list[Path]]:
    """Saves every picture that there is something to show in."""
    # matplotlib takes a second to import
    from titanlab.sweeps.conclusions.figures.axis_effects import draw_effects, draw_interactions
    from titanlab.sweeps.conclusions.figures.comparison import draw_comparison
    from titanlab.sweeps.conclusions.figures.learning_curves import draw_curves
    from titanlab.sweeps.conclusions.figures.style import save, styled
    from titanlab.sweeps.conclusions.figures.trade_offs import draw_trade_offs
    from titanlab.sweeps.conclusions.figures.tuning import draw_tuning

    found = summary.effects
    with styled():
        figures: dict[str, Figure | None] = {
            "comparison": draw_comparison(summary),
            "curves": draw_curves(summary, curves),
            "trade_offs": draw_trade_offs(summary),
            "tuning": draw_tuning(summary.plan, [row.cell.key for row in summary.rows]),
        }
        if isinstance(found, Effects):
            figures |= {"effects": draw_effects(summary, found), "interactions": draw_interactions(summary, found)}
        return {name: save(figure, folder, name) for name, figure in figures.items() if figure is not None}


def _remove_stale(folder: Path, files: list[Path]) -> None:
    """A picture of trials that were run differently since would mislead."""
    ours = [f"{name}.{kind}" for name in (*PICTURES, "report") for kind in ("png", "svg")] + [EFFECTS, TUNING]
    for path in {folder / name for name in ours} - set(files):
        path.unlink(missing_ok=True)
