"""The comparison: numbers against scipy and by hand, nothing dropped, files that open."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from titanlab.platform.tracking.journal import Journal
from titanlab.platform.training.run_directory import METRICS, write_outcome
from titanlab.sweeps.curves import read_curves
from titanlab.sweeps.language import load_sweep
from titanlab.sweeps.plan import Plan, make_plan
from titanlab.sweeps.readable import readable, readable_bytes
from titanlab.sweeps.report import csv_text, markdown, remarks, write_report
from titanlab.sweeps.summary import Summary, estimate, paired_difference, summarize, welch_difference
from titanlab.sweeps.trial_record import TrialRecord, begin_attempt, write_failure

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


def test_an_interval_is_students_by_hand() -> None:
    # Values 1, 2, 3: mean 2, s = 1, standard error 1/sqrt(3), t(0.975, 2) = 4.302653.
    mean, low, high = estimate([1.0, 2.0, 3.0])
    assert mean == 2 and low is not None and high is not None
    assert high - mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6) == pytest.approx(mean - low)


def test_two_seeds_give_the_wide_interval_they_deserve() -> None:
    # t(0.975, 1) = 12.706205, standard error |a - b| / 2.
    assert estimate([0.0, 1.0]).high == pytest.approx(0.5 + 12.706205 * 0.5, rel=1e-6)


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_intervals_agree_with_scipy(count: int) -> None:
    random = np.random.default_rng(count)
    one, other = random.normal(1, 1, count), random.normal(2, 3, count + 1)
    interval = stats.ttest_1samp(one, 0).confidence_interval(0.95)
    assert estimate(list(one))[1:] == pytest.approx((interval.low, interval.high), rel=1e-12)
    interval = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert welch_difference(list(one), list(other))[1:] == pytest.approx((interval.low, interval.high), rel=1e-10)
    interval = stats.ttest_rel(one, other[:-1]).confidence_interval(0.95)
    paired = paired_difference(dict(enumerate(one)), dict(enumerate(other[:-1])))
    assert paired[1:] == pytest.approx((interval.low, interval.high), rel=1e-10)


def test_seeds_without_any_spread_give_an_interval_of_no_width() -> None:
    assert estimate([1.0, 1.0]) == (1, 1, 1)
    assert welch_difference([2.0, 2.0], [1.0, 1.0, 1.0]) == (1, 1, 1)


def test_one_seed_gives_a_mean_and_no_interval() -> None:
    assert estimate([3.0]) == (3, None, None)
    assert welch_difference([3.0], [1.0, 2.0]) == (1.5, None, None)


def test_cells_are_ranked_and_compared_seed_by_seed(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, VALUES)
    assert [(row.cell.variant, row.rank, row.verdict) for row in summary.rows] == [
        ("depth=2", 1, "better"),
        ("depth=3", 2, "too few seeds to tell"),
        ("depth=1", 3, "baseline"),
    ]
    best = summary.rows[0]
    assert best.paired and best.difference is not None
    interval = stats.ttest_rel([0.70, 0.81, 0.74], [0.50, 0.60, 0.55]).confidence_interval(0.95)
    assert best.difference == pytest.approx((0.2, interval.low, interval.high))
    assert (best.seconds, best.tokens_per_second) == (12, 1000)
    assert summary.complete == 9 and not summary.unfinished


def test_less_may_be_better(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, VALUES, direction="min")
    assert [(row.cell.variant, row.verdict) for row in summary.rows][::2] == [
        ("depth=1", "baseline"),
        ("depth=2", "worse"),
    ]


def test_cells_with_other_seeds_than_the_baseline_are_compared_by_welch(tmp_path: Path) -> None:
    results = {key: value for key, value in VALUES.items() if key != (1, 2)}
    summary = summary_of(tmp_path, results)
    best = summary.rows[0]
    interval = stats.ttest_ind([0.70, 0.81, 0.74], [0.50, 0.60], equal_var=False).confidence_interval(0.95)
    assert not best.paired
    assert best.difference == pytest.approx((0.2, interval.low, interval.high))
    assert "Welch's" in "\n".join(remarks(summary))


def test_trials_without_a_result_are_listed_and_never_dropped(tmp_path: Path) -> None:
    made = three_depths(tmp_path)
    finish(made, tmp_path / "trials", {(1, 0): 0.5, (1, 1): math.nan})
    by_name = {
        (made.cell(trial.cell_key).variant, trial.seed): tmp_path / "trials" / trial.key for trial in made.trials
    }
    begin_attempt(by_name["depth=2", 0])
    failure = TrialRecord("failed", 3, {}, "ValueError", "a broken | memory\nsecond line", "...")
    write_failure(by_name["depth=2", 1], failure)
    summary = summarize(made, tmp_path / "trials")
    listed = {(one.variant, one.trial.seed): one.status for one in summary.unfinished}
    assert listed == {
        ("depth=1", 1): "no final/accuracy",
        ("depth=1", 2): "not begun",
        ("depth=2", 0): "stopped",
        ("depth=2", 1): "failed",
        ("depth=2", 2): "not begun",
        ("depth=3", 0): "not begun",
        ("depth=3", 1): "not begun",
        ("depth=3", 2): "not begun",
    }
    assert [(row.cell.variant, row.rank, row.verdict) for row in summary.rows] == [
        ("depth=1", 1, "baseline"),
        ("depth=2", None, "no result"),
        ("depth=3", None, "no result"),
    ]
    assert "depth=2 seed=1: failed: ValueError: a broken | memory" in remarks(summary)
    assert "1 of 9 trials complete." in remarks(summary)
    assert "a broken \\| memory" in markdown(summary)


def test_a_single_seed_says_that_it_gives_no_interval(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, {key: value for key, value in VALUES.items() if key[1] == 0}, seeds=1)
    assert summary.rows[0].verdict == "too few seeds to tell"
    assert any(line.startswith("One seed gives no interval") for line in remarks(summary))


def test_a_sweep_without_a_baseline_shows_no_difference(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, VALUES, baseline=None)
    assert all(row.difference is None and row.verdict == "" for row in summary.rows)
    assert any("No baseline is named" in line for line in remarks(summary))


def test_the_csv_holds_every_number_in_full(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, VALUES)
    rows = list(csv.DictReader(io.StringIO(csv_text(summary))))
    assert [row["model.memory.depth"] for row in rows] == ["2", "3", "1"]
    assert [float(rows[0][f"seed_{seed}"]) for seed in range(3)] == [0.70, 0.81, 0.74]
    assert float(rows[0]["difference_low"]) == summary.rows[0].difference[1]  # type: ignore[index]
    assert rows[2]["difference"] == "" and rows[2]["verdict"] == "baseline"


def test_the_curves_follow_the_objective_on_the_validation_split(tmp_path: Path) -> None:
    made = three_depths(tmp_path)
    finish(made, tmp_path / "trials", VALUES)
    metric, curves = read_curves(made, tmp_path / "trials")
    assert metric == "val/accuracy" and set(curves) == {cell.key for cell in made.cells}
    curve = curves[made.cells[0].key]
    assert curve.steps == [10, 20]
    assert (curve.low[1], curve.mean[1], curve.high[1]) == pytest.approx((0.50, 0.55, 0.60))


@pytest.mark.parametrize("results", [VALUES, {(1, 0): 0.5}, {}], ids=["all", "one", "none"])
def test_the_files_of_a_report_can_be_opened(tmp_path: Path, results: dict[tuple[int, int], float]) -> None:
    from matplotlib.image import imread

    summary = summary_of(tmp_path, results)
    files = write_report(summary, tmp_path / "trials", tmp_path / "report")
    assert sorted(path.name for path in tmp_path.joinpath("report").iterdir()) == [
        "report.csv",
        "report.md",
        "report.png",
    ]
    picture = imread(files[2])
    assert picture.shape[0] > 400 and picture.shape[1] > 1000
    border = np.concatenate([picture[:2, :, :3].ravel(), picture[:, :2, :3].ravel(), picture[:, -2:, :3].ravel()])
    assert (border == 1).all(), "nothing is cut off at the edge"
    assert files[0].read_text().count("| depth=") == 3


def test_a_report_is_kept_with_the_sweeps_own_run(tmp_path: Path) -> None:
    from titanlab.platform.tracking.client import tracking_client
    from titanlab.sweeps.report import log_report

    client = tracking_client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.create_experiment("sweeps", artifact_location=(tmp_path / "artifacts").as_uri())
    run = client.create_run(experiment)
    summary = summary_of(tmp_path, VALUES)
    for _ in range(2):
        log_report(client, run.info.run_id, write_report(summary, tmp_path / "trials", tmp_path / "report"))
    listed = [item.path for item in client.list_artifacts(run.info.run_id, "report")]
    assert sorted(listed) == ["report/report.csv", "report/report.md", "report/report.png"]


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
