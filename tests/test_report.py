"""The report: ranks and verdicts of a sweep's trials, nothing dropped, sentences that are true, files that open."""

import csv
import io
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from scipy import stats

from titanlab.platform.errors import ConfigError
from titanlab.platform.tracking.journal import Journal
from titanlab.platform.training.run_directory import METRICS, write_outcome
from titanlab.sweeps.conclusions.conclusion import conclusion, method, unfinished_lines
from titanlab.sweeps.conclusions.curves import read_curves
from titanlab.sweeps.conclusions.factors import Effects
from titanlab.sweeps.conclusions.fronts import fronts
from titanlab.sweeps.conclusions.report import write_report
from titanlab.sweeps.conclusions.report_csv import cells_csv, effects_csv, trials_csv
from titanlab.sweeps.conclusions.report_html import html_page
from titanlab.sweeps.conclusions.report_markdown import markdown
from titanlab.sweeps.conclusions.summary import Summary, summarize
from titanlab.sweeps.execution.trial_record import TrialRecord, begin_attempt, write_failure
from titanlab.sweeps.language.sweep_file import load_sweep
from titanlab.sweeps.planning.plan import Plan, make_plan
from titanlab.sweeps.readable import readable, readable_bytes

SWEEP: dict[str, Any] = {
    "name": "tiny",
    "base": {
        "model": {
            "dim": 16,
            "layers": 1,
            "architecture": {"type": "lmm"},
            "memory": {"type": "titans", "heads": 1, "chunk_size": 4},
        },
        "task": {"type": "mqar", "vocab": 32, "pairs": 2, "length": 12},
    },
    "axes": {"model.memory.depth": [1, 2, 3]},
    "seeds": 3,
    "baseline": {"model.memory.depth": 1},
}


def three_depths(folder: Path, direction: str = "max", **changes: Any) -> Plan:
    file = folder / "sweep.yaml"
    objective = {"metric": "final/accuracy", "direction": direction}
    file.write_text(yaml.safe_dump({**SWEEP, "objective": objective, **changes}, sort_keys=False))
    return make_plan(load_sweep(file))


def finish(made: Plan, folder: Path, results: dict[tuple[int, int], float]) -> None:
    """Writes what complete trials leave, by (depth, seed)."""
    for trial in made.trials:
        depth = made.cell(trial.cell_key).settings["model.memory.depth"]
        if (depth, trial.seed) not in results:
            continue
        value = results[depth, trial.seed]
        own = folder / trial.key
        own.mkdir(parents=True)
        with Journal(own / METRICS) as journal:
            for step in (10, 20):
                journal.write(step, {"train/loss": 1 / step, "val/accuracy": value * step / 20})
        metrics = {"final/accuracy": value, "cost/seconds": 10.0 + depth, "cost/tokens_per_second": 1000.0}
        write_outcome(own, 20, metrics, "0" * 64)


VALUES = {
    (1, 0): 0.50, (1, 1): 0.60, (1, 2): 0.55,
    (2, 0): 0.70, (2, 1): 0.81, (2, 2): 0.74,
    (3, 0): 0.40, (3, 1): 0.80, (3, 2): 0.60,
}  # fmt: skip


def summary_of(folder: Path, results: dict[tuple[int, int], float], **changes: Any) -> Summary:
    made = three_depths(folder, **changes)
    finish(made, folder / "trials", results)
    return summarize(made, folder / "trials")


def by_name(made: Plan, folder: Path) -> dict[tuple[str, int], Path]:
    """The folder of each trial by variant and seed."""
    return {(made.cell(trial.cell_key).variant, trial.seed): folder / "trials" / trial.key for trial in made.trials}


def said(summary: Summary) -> str:
    return "\n".join(conclusion(summary))


def test_cells_are_ranked_and_compared_seed_by_seed(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, VALUES)
    assert [(row.cell.variant, row.rank, row.verdict) for row in summary.rows] == [
        ("depth=2", 1, "better"),
        ("depth=3", 2, "no clear difference"),
        ("depth=1", 3, "baseline"),
    ]
    best = summary.rows[0]
    assert best.comparison is not None and best.comparison.p_holm is not None
    expected = stats.ttest_rel([0.70, 0.81, 0.74], [0.50, 0.60, 0.55])
    interval = expected.confidence_interval(0.95)
    assert best.comparison.difference == pytest.approx((0.2, interval.low, interval.high))
    assert best.comparison.p_holm == pytest.approx(2 * expected.pvalue), "two comparisons"
    assert (best.metrics["cost/seconds"], best.metrics["cost/tokens_per_second"]) == (12, 1000)
    assert summary.complete == 9 and not summary.unfinished
    assert "Best: depth=2, final/accuracy 0.7500" in said(summary)
    assert "It is +0.2000 [0.175, 0.225] from the baseline (depth=1): significant, better (p < 0.001" not in said(
        summary
    )
    assert "from the baseline (depth=1): significant, better (p = 0.002 after Holm's" in said(summary)


def test_less_may_be_better(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, VALUES, direction="min")
    assert [(row.cell.variant, row.verdict) for row in summary.rows][::2] == [
        ("depth=1", "baseline"),
        ("depth=2", "worse"),
    ]
    assert "Best: depth=1 (the baseline), final/accuracy" in said(summary)


def test_only_common_seeds_are_compared_and_two_of_them_claim_nothing(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, {key: value for key, value in VALUES.items() if key != (1, 2)})
    best = summary.rows[0]
    assert best.comparison is not None and best.comparison.pairs == 2
    assert best.comparison.difference.mean == pytest.approx(((0.70 - 0.50) + (0.81 - 0.60)) / 2)
    assert best.verdict == "too few seeds to tell"
    assert "too few seeds to tell (2 in common; at least 3 are needed)" in said(summary)


def test_trials_without_a_result_are_listed_and_never_dropped(tmp_path: Path) -> None:
    made = three_depths(tmp_path)
    finish(made, tmp_path / "trials", {(1, 0): 0.5, (1, 1): math.nan})
    folders = by_name(made, tmp_path)
    begin_attempt(folders["depth=2", 0])
    write_failure(
        folders["depth=2", 1], TrialRecord("failed", 3, {}, "ValueError", "a broken | memory\nsecond line", "...")
    )
    begin_attempt(folders["depth=3", 0])
    (folders["depth=3", 0] / "outcome.json").write_text("{")
    summary = summarize(made, tmp_path / "trials")
    listed = {(one.variant, one.trial.seed): one.status for one in summary.unfinished}
    assert listed == {
        ("depth=1", 1): "no finite final/accuracy",
        ("depth=1", 2): "not begun",
        ("depth=2", 0): "stopped",
        ("depth=2", 1): "failed",
        ("depth=2", 2): "not begun",
        ("depth=3", 0): "damaged",
        ("depth=3", 1): "not begun",
        ("depth=3", 2): "not begun",
    }
    assert [(row.cell.variant, row.rank, row.verdict) for row in summary.rows] == [
        ("depth=1", 1, "baseline"),
        ("depth=2", None, "no result"),
        ("depth=3", None, "no result"),
    ]
    assert "depth=2 seed=1: failed: ValueError: a broken | memory" in unfinished_lines(summary)
    assert "1 of 9 trials complete; this is preliminary." in conclusion(summary)
    assert "a broken \\| memory" in markdown(summary, [])
    statuses = [row["status"] for row in csv.DictReader(io.StringIO(trials_csv(summary)))]
    assert len(statuses) == 9 and sorted(statuses) == sorted(["complete", *listed.values()])


def test_a_mean_says_which_seeds_it_lost(tmp_path: Path) -> None:
    made = three_depths(tmp_path)
    finish(made, tmp_path / "trials", {key: value for key, value in VALUES.items() if key != (2, 1)})
    lost = TrialRecord("diverged", 12, {}, "NonFiniteLossError", "the loss became nan at step 12 of 20")
    write_failure(by_name(made, tmp_path)["depth=2", 1], lost)
    summary = summarize(made, tmp_path / "trials")
    best = summary.rows[0]
    assert best.cell.variant == "depth=2" and best.lost == {"diverged": 1}
    assert "over 2 seeds, but 1 of 3 diverged: the mean is of the other seeds only." in said(summary)
    assert "Fell short: depth=2 (1 of 3 diverged)" in said(summary)
    assert "8 of 9 trials complete." in said(summary), "nothing is left to run"
    assert "1 of 3 diverged" in markdown(summary, []) and "1 of 3 diverged" in cells_csv(summary)


def test_a_single_seed_says_that_it_gives_no_interval(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, {key: value for key, value in VALUES.items() if key[1] == 0}, seeds=1)
    assert summary.rows[0].verdict == "too few seeds to tell"
    assert any(line.startswith("One seed gives no interval") for line in method(summary))
    assert "With one seed there is no telling how sure that order is." in conclusion(summary)


def test_a_sweep_without_a_baseline_shows_no_difference(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, VALUES, baseline=None)
    assert all(row.comparison is None and row.verdict == "" for row in summary.rows)
    assert any("No baseline is named" in line for line in method(summary))


def test_a_sweep_without_any_result_concludes_nothing(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, {})
    assert "No trial has a result, so nothing can be concluded." in conclusion(summary)


def test_cells_that_overlap_are_tied_unless_a_paired_test_sets_them_apart(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, VALUES)
    assert [tuple(row.places or ()) for row in summary.rows] == [(1, 3), (1, 3), (1, 3)]
    # The baseline's interval overlaps with the best cell's too, but seed by seed it is always 0.2 below.
    assert "No sure winner: it is not told apart from depth=3." in conclusion(summary)


def test_the_csv_holds_every_number_in_full(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, VALUES)
    rows = list(csv.DictReader(io.StringIO(cells_csv(summary))))
    assert [row["model.memory.depth"] for row in rows] == ["2", "3", "1"]
    assert [float(rows[0][f"seed_{seed}"]) for seed in range(3)] == [0.70, 0.81, 0.74]
    comparison = summary.rows[0].comparison
    assert comparison is not None
    assert float(rows[0]["difference_low"]) == comparison.difference.low
    assert float(rows[0]["p_holm"]) == comparison.p_holm and float(rows[0]["d_z"]) == comparison.d_z
    assert rows[2]["difference"] == "" and rows[2]["verdict"] == "baseline"


GRID: dict[str, Any] = {
    "axes": {"model.memory.depth": [1, 2], "model.memory.momentum": ["none", "token"]},
    "cells": [{"model.memory.depth": 3}],
    "baseline": {"model.memory.depth": 1, "model.memory.momentum": "none"},
}


def grid_of(folder: Path, without: tuple[str, int] | None = None, **changes: Any) -> tuple[Plan, Summary]:
    """Depth adds 0.1, momentum 0.2, both together 0.05 more; a seed shifts everything, and hardly anything else."""
    made = three_depths(folder, **{**GRID, **changes})
    for number, trial in enumerate(made.trials):
        cell = made.cell(trial.cell_key)
        if (cell.variant, trial.seed) == without:
            continue
        deep = cell.settings["model.memory.depth"] == 2
        moving = cell.settings.get("model.memory.momentum") == "token"
        value = 0.3 + 0.1 * deep + 0.2 * moving + 0.05 * (deep and moving) + 0.02 * trial.seed + 1e-4 * (number**2 % 7)
        (folder / "trials" / trial.key).mkdir(parents=True)
        write_outcome(folder / "trials" / trial.key, 20, {"final/accuracy": value}, "0" * 64)
    return made, summarize(made, folder / "trials")


def test_a_full_grid_shows_its_effects(tmp_path: Path) -> None:
    _, summary = grid_of(tmp_path)
    found = summary.effects
    assert isinstance(found, Effects)
    assert {found.label(effect): round(effect.comparison.difference.mean, 2) for effect in found.effects} == {
        "depth=2 (from depth=1)": pytest.approx(0.125, abs=0.006),
        "momentum=token (from momentum=none)": pytest.approx(0.225, abs=0.006),
        "depth=2 with momentum=token": 0.05,
    }
    assert {effect.verdict for effect in found.effects} == {"better"}
    assert "Not part of the grid: depth=3." in method(summary)
    assert "On average over the grid, momentum=token (from momentum=none): +0.22" in said(summary)
    assert "They depend on each other: depth=2 with momentum=token" in said(summary)
    assert [row["kind"] for row in csv.DictReader(io.StringIO(effects_csv(found)))] == ["main", "main", "interaction"]


def test_settings_that_vary_together_are_one_axis(tmp_path: Path) -> None:
    points = [
        {"model.memory.depth": depth, "model.layers": depth, "model.memory.momentum": momentum}
        for depth in (1, 2)
        for momentum in ("none", "token")
    ]
    _, summary = grid_of(tmp_path, axes={}, cells=points)
    assert isinstance(summary.effects, Effects)
    assert [factor.name for factor in summary.effects.factors] == ["depth + layers", "momentum"]
    assert summary.effects.factors[0].labels == ("depth=1 layers=1", "depth=2 layers=2")


def test_an_incomplete_grid_says_why_it_shows_no_effects(tmp_path: Path) -> None:
    points = [
        {"model.memory.depth": depth, "model.memory.momentum": momentum}
        for depth, momentum in ((1, "none"), (1, "token"), (2, "token"))
    ]
    _, summary = grid_of(tmp_path, axes={}, cells=points)
    assert summary.effects == ("the grid is not complete: 3 of 4 cells are planned (depth=2 momentum=none is not)")
    assert any("No effects of axes are shown: the grid is not complete" in line for line in method(summary))


def test_an_unbalanced_grid_uses_the_common_seeds_unless_seeds_were_lost(tmp_path: Path) -> None:
    made, summary = grid_of(tmp_path, without=("depth=2 momentum=token", 1))
    assert isinstance(summary.effects, Effects) and summary.effects.seeds == (0, 2)
    write_failure(by_name(made, tmp_path)["depth=2 momentum=token", 1], TrialRecord("diverged", 1, {}, "E", "nan"))
    summary = summarize(made, tmp_path / "trials")
    assert summary.effects == "the grid is not balanced: depth=2 momentum=token lost seeds to failures"


def test_a_single_axis_has_no_effects_beside_its_cells(tmp_path: Path) -> None:
    assert summary_of(tmp_path, VALUES).effects == "the sweep has no grid of two axes or more"


def test_fronts_are_shown_for_costs_that_differ(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, VALUES)
    found = {front.measure.label: [row.cell.variant for row in front.best] for front in fronts(summary)}
    assert found["parameters"] == ["depth=1", "depth=2"], "depth=3 is larger and worse than depth=2"
    assert not any("tokens per second" in label for label in found), "all cells have the same speed"


PUBLISHED = [
    {"name": "A <b>paper</b>", "value": 0.9, "source": "Table 5 & more"},
    {"name": "Another", "value": 1.5, "source": "Table 1", "metric": "final/loss"},
]


def test_published_values_stand_beside_ours(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, VALUES, reference=PUBLISHED)
    assert "Published: A <b>paper</b>, final/accuracy 0.9000 (Table 5 & more); the best cell has 0.7500." in said(
        summary
    )
    assert "Published: Another, final/loss 1.500 (Table 1)." in said(summary)


@pytest.mark.parametrize(
    "reference, words",
    [
        ({"name": "A", "value": 1, "source": "b", "metric": "final/acuracy"}, "did you mean 'final/accuracy'"),
        ({"name": "A", "value": 1}, "source"),
        ({"name": "A", "value": math.inf, "source": "b"}, "finite"),
    ],
    ids=["unknown metric", "no source", "infinite"],
)
def test_a_wrong_reference_is_refused_with_its_place(tmp_path: Path, reference: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        three_depths(tmp_path, reference=[reference])
    assert words in str(caught.value) and "reference.0" in str(caught.value)


def test_the_curves_follow_the_objective_on_the_validation_split(tmp_path: Path) -> None:
    made = three_depths(tmp_path)
    finish(made, tmp_path / "trials", VALUES)
    curves = read_curves(made, tmp_path / "trials")
    assert curves.metric == "val/accuracy" and set(curves.by_cell) == {cell.key for cell in made.cells}
    curve = curves.by_cell[made.cells[0].key]
    assert curve.steps == [10, 20] and curve.mean[1] == pytest.approx(0.55) and curve.whole == [True, True]
    assert curve.band("range of the seeds")[1] == pytest.approx((0.50, 0.60))
    interval = stats.ttest_1samp([0.50, 0.60, 0.55], 0).confidence_interval(0.95)
    assert curves.band == "95 % interval of the mean"
    assert curve.band(curves.band)[1] == pytest.approx((interval.low, interval.high))


def test_a_curve_knows_where_seeds_are_missing_and_a_damaged_journal_is_said(tmp_path: Path) -> None:
    made = three_depths(tmp_path)
    finish(made, tmp_path / "trials", VALUES)
    folders = by_name(made, tmp_path)
    short = folders["depth=1", 0] / METRICS
    short.write_text(short.read_text().splitlines(keepends=True)[0])
    (folders["depth=2", 1] / METRICS).write_text("broken\n" + (folders["depth=2", 1] / METRICS).read_text())
    curves = read_curves(made, tmp_path / "trials")
    curve = curves.by_cell[made.cells[0].key]
    assert curve.whole == [True, False]
    assert curve.band("95 % interval of the mean")[1] == pytest.approx((0.575, 0.575)), "two seeds are no interval"
    assert len(curves.unreadable) == 1 and "metrics.jsonl:1" in curves.unreadable[0]


ALWAYS = {"report.html", "report.md", "report.csv", "trials.csv"}


def test_the_files_of_a_report_can_be_opened(tmp_path: Path) -> None:
    from matplotlib.image import imread

    _, summary = grid_of(tmp_path, reference=PUBLISHED)
    (tmp_path / "report").mkdir()
    (tmp_path / "report/curves.png").write_bytes(b"of an earlier report")
    written = write_report(summary, tmp_path / "trials", tmp_path / "report")
    names = ("comparison", "effects", "interactions", "trade_offs")
    expected = {f"{name}.{kind}" for name in names for kind in ("png", "svg")} | ALWAYS | {"effects.csv"}
    assert {path.name for path in tmp_path.joinpath("report").iterdir()} == expected
    assert {path.name for path in written.files} == expected and not written.warnings
    for path in written.files:
        if path.suffix == ".png":
            picture = imread(path)
            assert picture.shape[0] > 400 and picture.shape[1] > 700
            border = [picture[:2, :, :3].ravel(), picture[-2:, :, :3].ravel()]
            border += [picture[:, :2, :3].ravel(), picture[:, -2:, :3].ravel()]
            assert (np.concatenate(border) == 1).all(), f"{path.name}: nothing is cut off at the edge"
        elif path.suffix == ".svg":
            ElementTree.parse(path)
    assert (tmp_path / "report/report.md").read_text().count("![") == len(names)
    assert written.page.read_text().count("<img ") == len(names)


@pytest.mark.parametrize(
    "results", [{(1, 0): 0.5}, {}, {**VALUES, (3, 0): 1e200, (3, 1): 1e308}], ids=["one", "none", "beyond measure"]
)
def test_a_report_of_odd_results_can_be_opened(tmp_path: Path, results: dict[tuple[int, int], float]) -> None:
    written = write_report(summary_of(tmp_path, results), tmp_path / "trials", tmp_path / "report")
    assert ALWAYS <= {path.name for path in written.files}
    assert written.page.read_text().count("depth=3") > 0


def test_a_few_values_far_off_do_not_press_the_others_flat() -> None:
    from titanlab.sweeps.conclusions.figures.style import robust_limits

    assert robust_limits([0.1, 0.2, 0.3, 0.25, 0.15, 30.0, 1e200]) == (0.1, 0.3)
    assert robust_limits([0.99, 0.991, 0.992, 0.2, 1.0, 0.9]) == (0.2, 1.0), "a poor accuracy is not far off"
    assert robust_limits([1.0, 1.1, 1.2, 90.0, 99.0]) == (1.0, 99.0), "two of five are not a few"
    assert robust_limits([5.0]) == (5.0, 5.0)


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


def test_the_page_escapes_what_names_and_errors_say_and_asks_for_nothing(tmp_path: Path) -> None:
    evil = [{"name": EVIL, "value": 0.5, "source": EVIL}]
    made = three_depths(tmp_path, name=EVIL, reference=evil)
    finish(made, tmp_path / "trials", {key: value for key, value in VALUES.items() if key != (2, 0)})
    write_failure(by_name(made, tmp_path)["depth=2", 0], TrialRecord("failed", 1, {}, EVIL, EVIL, EVIL))
    written = write_report(summarize(made, tmp_path / "trials"), tmp_path / "trials", tmp_path / "report")
    text = written.page.read_text()
    page = Page(text)
    assert "".join(page.words).count(EVIL) >= 5, "name, title, reference, source, error: readable as they are"
    assert not {"script", "iframe", "object", "link", "base", "form"} & {tag for tag, _ in page.tags}
    attributes = [(name, value or "") for _, attrs in page.tags for name, value in attrs.items()]
    assert not any(name.startswith("on") for name, _ in attributes)
    assert all(value.startswith("data:image/svg+xml;base64,") for name, value in attributes if name in ("src", "href"))
    assert any("default-src 'none'" in value for _, value in attributes), "the browser is told so, too"
    for path in written.files:
        if path.suffix == ".svg":
            assert "<script" not in path.read_text()
    assert "<script" not in markdown(summarize(made, tmp_path / "trials"), []).replace("\\<", "")


def test_a_table_of_many_cells_shows_the_best_and_says_so(tmp_path: Path) -> None:
    axes = {
        "model.memory.depth": [1, 2, 3],
        "model.memory.momentum": ["none", "token"],
        "model.dim": [16, 32, 48, 64, 80],
    }
    made = three_depths(tmp_path, axes=axes, seeds=1, baseline={**GRID["baseline"], "model.dim": 16})
    for number, trial in enumerate(made.trials):
        (tmp_path / "trials" / trial.key).mkdir(parents=True)
        write_outcome(tmp_path / "trials" / trial.key, 1, {"final/accuracy": number / 100}, "0" * 64)
    summary = summarize(made, tmp_path / "trials")
    assert len(summary.rows) == 30 and summary.rows[-1].cell.is_baseline
    for text in (html_page(summary, []), markdown(summary, [])):
        assert "4 more cells are in report.csv." in text
        assert text.count("dim=16") >= 1, "the baseline is shown wherever it ranks"
    assert len(cells_csv(summary).splitlines()) == 31


def test_a_spreadsheet_takes_no_name_for_a_formula(tmp_path: Path) -> None:
    made = three_depths(tmp_path)
    write_failure(by_name(made, tmp_path)["depth=2", 0], TrialRecord("failed", 1, {}, "=1+1", ""))
    assert ",'=1+1," in trials_csv(summarize(made, tmp_path / "trials"))


def test_a_report_is_kept_with_the_sweeps_own_run(tmp_path: Path) -> None:
    from titanlab.platform.tracking.client import tracking_client
    from titanlab.sweeps.conclusions.report import log_report

    client = tracking_client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.create_experiment("sweeps", artifact_location=(tmp_path / "artifacts").as_uri())
    run = client.create_run(experiment)
    written = write_report(summary_of(tmp_path, {}), tmp_path / "trials", tmp_path / "report")
    for _ in range(2):
        log_report(client, run.info.run_id, written.files)
    listed = [item.path for item in client.list_artifacts(run.info.run_id, "report")]
    assert set(listed) == {f"report/{name}" for name in ALWAYS}


@pytest.mark.parametrize(
    "value, text",
    [(0.91012, "0.9101"), (12.3456, "12.35"), (123456.7, "123,457"), (1e-7, "1.000e-07"), (0, "0.000"), (None, "")],
)  # fmt: skip
def test_numbers_are_written_for_people(value: float | None, text: str) -> None:
    assert readable(value) == text


@pytest.mark.parametrize(
    "size, text", [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_600, "1.0 MB"), (37_392, "37 kB")]
)
def test_bytes_are_written_for_people(size: int, text: str) -> None:
    assert readable_bytes(size) == text
