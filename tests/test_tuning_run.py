"""Tuned sweeps that really train: who reads which split, what MLflow holds, and a kill in the middle of the tuning."""

import io
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient
from rich.console import Console
from safetensors.torch import load_file

from titanlab.platform.plugins import load_plugin
from titanlab.platform.run_config import RunConfig
from titanlab.platform.task import TASKS
from titanlab.platform.tracking.journal import read_journal
from titanlab.platform.tracking.links import trials_filter
from titanlab.platform.tracking.store import open_store
from titanlab.platform.training.loop import train
from titanlab.platform.training.run_directory import METRICS, read_outcome
from titanlab.sweeps.conclusions.summary import summarize
from titanlab.sweeps.execution.local_executor import LocalExecutor
from titanlab.sweeps.execution.run import run_sweep
from titanlab.sweeps.language.sweep_file import load_sweep
from titanlab.sweeps.planning.plan import make_plan


@pytest.fixture(scope="module", autouse=True)
def tiny_kinds() -> None:
    """Registered when the tests run: tests of every registered kind are collected before."""
    load_plugin(str(Path(__file__).with_name("tiny_kinds.py")))


BASE = {
    "model": {"dim": 16, "layers": 1, "architecture": {"type": "tiny_block"}, "memory": {"type": "tiny_average"}},
    "task": {"type": "tiny_count"},
    "train": {"steps": 12, "batch_size": 4, "device": "cpu", "log_every": 1},
}
BLOWN_UP = 1.0e30
"""A learning rate at which every training diverges."""


def tuned_plan(folder):
    sweep = {
        "name": "watched",
        "base": BASE,
        "axes": {"model.memory.keep": [0.5, 0.9]},
        "tune": {
            "train.learning_rate": {"choices": [1.0e-4, 1.0e-2, 3.0e-2, BLOWN_UP]},
            "trials": 4,
            "scheduler": "halving",
            "reduction": 2,
        },
        "seeds": 2,
    }
    (folder / "watched.yaml").write_text(yaml.safe_dump(sweep))
    return make_plan(load_sweep(folder / "watched.yaml"))


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A tuned sweep with every reading of a split counted: its result, its store, and the counts."""
    folder, read = tmp_path_factory.mktemp("watched"), Counter()
    task = type(TASKS["tiny_count"]().build())
    evaluate = task.evaluate

    def noted(self, model, split):
        read[split] += 1
        return evaluate(self, model, split)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "evaluate", noted)
        store, said = open_store(folder / "store"), io.StringIO()
        result = run_sweep(tuned_plan(folder), store, LocalExecutor(), [], Console(file=said, width=300))
        counted = Counter(read)
        again = run_sweep(tuned_plan(folder), store, LocalExecutor(), [], Console(file=io.StringIO()))
        yield folder, store, result, counted, (again, read - counted), said.getvalue()


def trials_of(folder, store):
    summary = summarize(tuned_plan(folder), store.sweep("watched") / "trials")
    return summary.plan, {trial.key: store.trial("watched", trial.key) for trial in summary.plan.stages}


def test_the_test_split_is_read_once_by_each_compared_trial_and_never_by_the_tuning(watched):
    folder, store, result, counted, (again, later), _ = watched
    plan, folders = trials_of(folder, store)
    assert result.exit_code == again.exit_code == 0
    assert counted["test"] == len(plan.trials) == 4
    # 3 points get to the first rung, 2 to the second, 1 to the end, of 2 cells; then the compared trials
    assert counted["val"] == 2 * (3 + 2 + 1) + 4
    assert not later
    for trial in plan.stages:
        outcome = read_outcome(folders[trial.key])
        names = set() if outcome is None else set(outcome[1])
        assert any(name.startswith("final/") for name in names) == (trial.stage == "final")


def test_points_that_diverge_or_are_given_up_are_no_failures_of_the_sweep(watched):
    folder, store, result, *_, said = watched
    plan, _ = trials_of(folder, store)
    counts = Counter(row.status for row in result.progress.rows.values())
    assert counts == {"complete": 6, "given up": 4, "diverged": 2}
    assert "failed" not in said.replace("(1 failed)", "") and "diverged at step" in said
    for search in plan.tuning.searches:
        states = [point.state for point in search.tried]
        assert Counter(states) == {"failed": 1, "given up": 2, "complete": 1}
        assert [point.values["train.learning_rate"] for point in search.tried if point.state == "failed"] == [BLOWN_UP]
        assert f"{search.cell.variant}: learning_rate={search.chosen.values['train.learning_rate']:g}, " in said
    assert result.skipped == 0


def test_mlflow_holds_one_run_a_trial_and_tells_the_stages_apart(watched):
    folder, store, *_ = watched
    plan, folders = trials_of(folder, store)
    client = MlflowClient(tracking_uri=store.tracking_uri)
    experiment = client.get_experiment_by_name("watched").experiment_id
    runs = client.search_runs([experiment], "tags.`run.kind` != 'sweep'")
    assert Counter(run.data.tags["run.kind"] for run in runs) == {"tune": 8, "trial": 4}
    assert sorted(run.data.tags["trial.key"] for run in runs) == sorted(folders)
    reasons = Counter((run.data.tags["trial.stop_reason"], run.info.status) for run in runs)
    assert reasons == {("complete", "FINISHED"): 6, ("given_up", "KILLED"): 4, ("diverged", "FAILED"): 2}
    shown = client.search_runs([experiment], trials_filter("watched"))
    assert {run.data.tags["trial.key"] for run in shown} == {trial.key for trial in plan.trials}
    for trial in plan.trials:
        (run,) = [run for run in shown if run.data.tags["trial.key"] == trial.key]
        rate = plan.tuning.search(trial.cell_key).chosen.values["train.learning_rate"]
        assert float(run.data.params["train.learning_rate"]) == rate
        assert float(run.data.tags["tune.train.learning_rate"]) == rate
    (parent,) = client.search_runs([experiment], "tags.`run.kind` = 'sweep'")
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["best.trial"] in {trial.key for trial in plan.trials}


def test_a_run_that_pauses_at_rungs_is_the_run_that_never_paused(tmp_path):
    config = RunConfig.model_validate({**BASE, "train": {**BASE["train"], "learning_rate": 0.01, "log_every": 5}})
    straight = train(config, tmp_path / "straight")
    steps = []
    for rung in (3, 7, None):
        outcome = train(config, tmp_path / "paused", pause_at=rung)
        steps.append((outcome.status, outcome.step))
    assert steps == [("stopped", 3), ("stopped", 7), ("complete", 12)]
    apart = {name for name in straight.metrics if name.startswith("cost/")}
    assert {name: value for name, value in outcome.metrics.items() if name not in apart} == {
        name: value for name, value in straight.metrics.items() if name not in apart
    }
    evaluated = [point.step for point in read_journal(tmp_path / "paused" / METRICS) if "val/loss" in point.metrics]
    assert evaluated == [3, 7, 12]
    weights = [load_file(next((tmp_path / name).rglob("model.safetensors"))) for name in ("straight", "paused")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_a_sweep_killed_while_it_tunes_is_finished_by_the_same_command(lab, wait, kill):
    file = lab.write("killed", {"model.memory.keep": [0.5, 0.9]})
    sweep = yaml.safe_load(file.read_text())
    sweep["base"]["model"]["memory"]["delay"] = 0.02
    sweep["tune"] = {"train.learning_rate": {"low": 1.0e-3, "high": 1.0e-1}, "trials": 3}
    file.write_text(yaml.safe_dump(sweep))
    driver = lab.start(file, "--executor", "local")
    wait(lambda: len([folder for folder in lab.trials("killed").values() if len(lab.steps(folder)) >= 7]) >= 2)
    kill(driver.pid)
    driver.communicate()
    assert not any(
        (folder / "outcome.json").exists() and "final/" in (folder / "outcome.json").read_text()
        for folder in lab.trials("killed").values()
    )
    again = lab.run(file, "--executor", "local")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "8 of 8 trials complete (1 of them before)" in again.stdout
    runs = [*lab.runs("killed"), *lab.runs("killed", "tune")]
    assert len(lab.runs("killed")) == 2 and len(runs) == len(lab.trials("killed")) == 8
    for run in runs:
        assert run.info.status == "FINISHED"
        assert lab.steps(lab.trials("killed")[run.data.tags["trial.key"]]) == list(range(1, 21))
        assert lab.logged_steps(run) == list(range(1, 21))
        assert ("final/loss" in run.data.metrics) == (run.data.tags["run.kind"] == "trial")
    assert lab.runs("killed", "sweep")[0].info.status == "FINISHED"
