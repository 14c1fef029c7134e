"""What a reader finds in MLflow before any report: charts in order, columns, notes, datasets, what the machine did."""

import json
import math
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from titanlab.platform.config import digest
from titanlab.platform.tracking.chart_view import SECTIONS, Shown, saved_view, view_state
from titanlab.platform.tracking.client import tracking_client
from titanlab.platform.tracking.journal import Journal
from titanlab.platform.tracking.ledger import Ledger
from titanlab.platform.tracking.ledger_entries import Ending
from titanlab.platform.tracking.links import trials_link
from titanlab.platform.tracking.notes import OURS
from titanlab.platform.tracking.store import SweepRuns, open_store
from titanlab.platform.tracking.sync import JournalSync
from titanlab.platform.tracking.system_metrics import SystemMeter
from titanlab.sweeps.execution.entries import sweep_entry
from titanlab.sweeps.execution.notes import outcome_lines, sweep_note, trial_note
from titanlab.sweeps.execution.trial_record import TrialRecord
from titanlab.sweeps.language.sweep_file import load_sweep
from titanlab.sweeps.planning.plan import make_plan

SWEEP = {
    "name": "Pages",
    "base": {
        "model": {"dim": 16, "layers": 1, "architecture": {"type": "lmm"}, "memory": {"type": "linear"}},
        "task": {"type": "mqar", "vocab": 32, "length": 12, "pairs": 2},
        "train": {"steps": 10, "evaluate_every": 5},
    },
    "axes": {"model.expansion": [1, 2]},
    "baseline": {"model.expansion": 1},
    "seeds": 2,
    "objective": {"metric": "final/accuracy", "direction": "max"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def plan(folder):
    (folder / "pages.yaml").write_text(yaml.safe_dump(SWEEP))
    return make_plan(load_sweep(str(folder / "pages.yaml")))


@pytest.fixture(scope="module")
def ledger(plan, folder):
    """The sweep in MLflow, nothing run yet."""
    store = open_store(folder / "store")
    with store.driving("pages"):
        opened = Ledger(store, sweep_entry(plan, {trial.key: folder / trial.key for trial in plan.trials}, []))
        opened.open()
        yield opened


def client_of(ledger):
    return tracking_client(ledger.store.tracking_uri)


def shown(**changes):
    fields = {
        "filter": "tags.x = '1'",
        "metric": "final/accuracy",
        "direction": "max",
        "axes": ["model.memory.depth"],
        "metrics": ["loss", "accuracy"],
        "trials": 4,
        "cost": "cost/state_bytes",
        "validated": True,
    }
    return Shown(**fields | changes)


def test_charts_begin_with_the_objective_and_end_with_costs() -> None:
    view = view_state(shown())
    assert [section["name"] for section in view["compareRunSections"]] == list(SECTIONS)
    charts = view["compareRunCharts"]
    assert (charts[0]["type"], charts[0]["metricKey"]) == ("BAR", "final/accuracy")
    known = {section["uuid"] for section in view["compareRunSections"]} | {"progress"}
    assert {chart["metricSectionId"] for chart in charts} <= known
    assert len({chart["uuid"] for chart in charts}) == len(charts)
    assert [chart["metricKey"] for chart in charts if chart["deleted"]] == ["progress/step"]
    assert view["selectedColumns"][0] == view["orderByKey"] == "metrics.`final/accuracy`"
    assert "params.`model.memory.depth`" in view["selectedColumns"]
    assert (view["orderByAsc"], view["runsHiddenMode"]) == (False, "SHOW_ALL")


def test_a_chart_that_could_show_nothing_is_left_out() -> None:
    kinds = [chart["type"] for chart in view_state(shown(axes=[], cost=""))["compareRunCharts"]]
    assert "PARALLEL" not in kinds and "SCATTER" not in kinds
    charts = view_state(shown(validated=False, trials=500))["compareRunCharts"]
    assert {chart["type"] for chart in charts if chart["metricSectionId"] == "val"} == {"BAR"}


def test_the_view_of_a_large_sweep_fits_into_a_tag() -> None:
    large = shown(axes=[f"model.memory.setting_{n}" for n in range(40)], metrics=[f"accuracy/{n}x8" for n in range(60)])
    assert len(saved_view(large)) < 5000


def test_a_link_opens_the_view_and_without_one_says_the_filter_itself() -> None:
    runs = SweepRuns("7", "p", "pages", "final/loss", "min", "http://host", has_view=True)
    assert trials_link("http://host/", runs).startswith("http://host/#/experiments/7/runs?viewStateShareKey=titanlab&")
    older = trials_link("http://host", SweepRuns("7", "p", "pages", "final/loss", "min", "http://host"))
    assert "searchFilter=tags.%60run.kind%60" in older and "orderByAsc=true" in older


def test_the_sweeps_note_has_the_conclusion_before_the_plan(plan) -> None:
    note = sweep_note(plan, ["Best: a|b *c* <script>."])
    assert note.index("### Conclusion") < note.index("### Plan")
    assert "Best: a\\|b \\*c\\* \\<script\\>." in note
    assert "4 trials (2 cells x 2 seeds)" in note and "`expansion=1` (baseline)" in note
    assert "### Conclusion" not in sweep_note(plan)
    cell = plan.cells[1]
    assert "| `model.expansion` | `2` |" in trial_note(plan, cell, cell.trials[0])


def test_the_note_of_an_ended_run_names_the_best_trial_and_how_many_are_complete(plan) -> None:
    keys = [trial.key for trial in plan.trials]
    records = {
        keys[0]: TrialRecord("complete", metrics={"final/accuracy": 0.25}),
        keys[1]: TrialRecord("complete", metrics={"final/accuracy": 0.75}),
        keys[2]: TrialRecord("complete", metrics={"final/accuracy": math.nan}),
        keys[3]: TrialRecord("diverged"),
    }
    complete, best = outcome_lines(plan, records)
    assert complete == "3 of 4 trials complete."
    assert best.startswith(f"Best trial: {plan.trials[1].config.name}, final/accuracy 0.7500.")
    assert outcome_lines(plan, {}) == ["0 of 4 trials complete."]


def test_every_run_says_what_it_is_and_where_it_came_from(ledger, plan) -> None:
    client = client_of(ledger)
    for trial in plan.trials:
        tags = client.get_run(ledger.run_ids[trial.key]).data.tags
        assert f"seed {trial.seed}" in tags["mlflow.note.content"]
        assert tags["mlflow.source.name"] == plan.file and tags["mlflow.source.type"] == "LOCAL"
    parent = client.get_run(ledger._runs.parent_run_id)
    assert "### Plan" in parent.data.tags["mlflow.note.content"]
    experiment = client.get_experiment(ledger._runs.experiment_id)
    assert json.loads(experiment.tags["mlflow.sharedViewState.titanlab"])["name"]


def test_what_a_reader_writes_above_our_note_stays(ledger) -> None:
    client, parent = client_of(ledger), ledger._runs.parent_run_id
    ours = client.get_run(parent).data.tags["mlflow.note.content"]
    client.set_tag(parent, "mlflow.note.content", f"Mine.\n\n{ours}")
    ledger.annotate("New.")
    assert client.get_run(parent).data.tags["mlflow.note.content"] == f"Mine.\n\n{OURS}\n\nNew."


def test_the_data_of_a_finished_trial_are_listed_with_their_digest_whoever_finishes_it(ledger, plan) -> None:
    client, sha = client_of(ledger), digest({"some": "data"})
    first, second, *_ = (trial.key for trial in plan.trials)
    for key in (first, second):
        ledger.entries[key].folder.mkdir()
        with Journal(ledger.entries[key].folder / "metrics.jsonl") as journal:
            journal.write(1, {"train/loss": 1.0})
    sync = JournalSync(ledger.store.tracking_uri, ledger.run_ids[first], ledger.entries[first].folder / "metrics.jsonl")
    sync.start({})
    assert sync.close(finished={"data.digest": sha})
    ending = Ending("FINISHED", "complete", metrics={"final/accuracy": 0.5}, data_digest=sha)
    ledger.close({first: ending, second: ending}, interrupted=False)
    for key in (first, second):
        run = client.get_run(ledger.run_ids[key])
        (data,) = run.inputs.dataset_inputs
        assert (data.dataset.name, data.dataset.digest) == ("mqar", sha[:36])
        source = json.loads(data.dataset.source)
        assert source["sha256"] == sha == run.data.tags["data.digest"] and source["task"]["vocab"] == "32"
        assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "training")]
    sent = client.get_run(ledger.run_ids[first]).data.metrics
    assert sent["system/process_memory_megabytes"] > 10


def test_the_machine_is_measured_at_intervals() -> None:
    meter = SystemMeter(pause=0.2)
    first = meter.read()
    assert set(first) >= {"system/process_memory_megabytes", "system/process_cpu_percentage"}
    assert meter.read() == {}
    time.sleep(0.25)
    assert meter.read()


def test_uncommitted_changes_are_kept_as_a_patch(plan, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (folder / "file").write_text("one\n")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "Begin"], check=True)
    monkeypatch.chdir(folder)
    folders = {trial.key: tmp_path / trial.key for trial in plan.trials}
    assert "git.diff" not in sweep_entry(plan, folders, []).artifacts
    (folder / "file").write_text("two\n")
    made = sweep_entry(plan, folders, [])
    assert made.tags["git.dirty"] == "true" and made.tags["mlflow.source.git.commit"] == made.tags["git.sha"]
    subprocess.run([*git, "checkout", "-q", "file"], check=True)
    subprocess.run([*git, "apply", "-"], input=made.artifacts["git.diff"], text=True, check=True)
    assert (folder / "file").read_text() == "two\n"
