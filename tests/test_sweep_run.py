"""A sweep through real Ray and real MLflow: what is promised is there, and a broken trial costs no other."""

import json

import pytest
import yaml

FAULTS = ["none", "raise", "nan", "memory", "leave"]
AXES = {"model.memory.fault": FAULTS, "model.memory.keep": [0.9]}
STEPS = 20


@pytest.fixture(scope="module")
def faulty(shared_lab):
    """One sweep on Ray in which four of five cells fail, each in its way."""
    file = shared_lab.write("Faulty Sweep", AXES, seeds=2, resources={"retries": 2})
    done = shared_lab.run(file)
    return shared_lab, file, done


def by_fault(lab, fault):
    return [run for run in lab.runs("faulty-sweep") if run.data.params["model.memory.fault"] == fault]


def test_a_sweep_with_broken_trials_completes_the_others_and_says_which_failed_and_why(faulty):
    lab, _, done = faulty
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 of 10 trials complete" in done.stdout
    for text in (
        "RuntimeError: this memory is broken",
        "NonFiniteLossError: the loss became nan",
        "OutOfMemory",
        "SystemExit: 3",
    ):
        assert len([line for line in done.stdout.splitlines() if line.startswith("failed: ") and text in line]) == 2, (
            text
        )
    assert "second line" not in done.stdout and "Traceback" not in done.stdout + done.stderr
    assert [run.info.status for run in by_fault(lab, "none")] == ["FINISHED"] * 2
    assert lab.runs("faulty-sweep", "sweep")[0].info.status == "FAILED"


@pytest.mark.parametrize(
    ("fault", "reason", "error"),
    [
        ("raise", "failed", "RuntimeError"),
        ("nan", "diverged", "NonFiniteLossError"),
        ("memory", "out_of_memory", "OutOfMemory"),
        ("leave", "failed", "SystemExit"),
    ],
)
def test_a_failed_trial_is_tagged_with_its_cause_and_never_retried(faulty, fault, reason, error):
    lab, _, _ = faulty
    runs = by_fault(lab, fault)
    assert len(runs) == 2
    for run in runs:
        assert run.info.status == "FAILED"
        assert run.data.tags["trial.stop_reason"] == reason
        assert run.data.tags["error.type"] == error
        assert run.data.tags["trial.attempt"] == "1"
        assert [file.path for file in lab.client().list_artifacts(run.info.run_id)] == ["config.yaml", "traceback.txt"]


def test_a_complete_trial_carries_the_promised_params_tags_metrics_and_artifacts(faulty):
    lab, _, _ = faulty
    (parent,) = lab.runs("faulty-sweep", "sweep")
    for run in by_fault(lab, "none"):
        params, tags, metrics = run.data.params, run.data.tags, run.data.metrics
        assert params["model.memory.keep"] == "0.9" and params["model.dim"] == "16" and params["train.steps"] == "20"
        assert params["train.seed"] in "01"
        assert not {"name", "train.device", "train.log_every", "train.checkpoint_every"} & params.keys()
        folder = lab.trials("faulty-sweep")[tags["trial.key"]]
        outcome = json.loads((folder / "outcome.json").read_text())
        expected = {
            "sweep.id": "faulty-sweep",
            "sweep.name": "Faulty Sweep",
            "run.kind": "trial",
            "mlflow.parentRunId": parent.info.run_id,
            "baseline": "false",
            "axis.model.memory.fault": "none",
            "axis.model.memory.keep": "0.9",
            "trial.attempt": "1",
            "trial.stop_reason": "complete",
            "data.digest": outcome["data_digest"],
        }
        assert {key: tags.get(key) for key in expected} == expected
        assert tags["variant"] in run.info.run_name and len(tags["plugin.fragile"]) == 64
        assert lab.logged_steps(run) == lab.steps(folder) == list(range(1, STEPS + 1))
        assert metrics["progress/step"] == STEPS
        assert {name: metrics[name] for name in outcome["metrics"]} == outcome["metrics"]
        config = lab.client().download_artifacts(run.info.run_id, "config.yaml", str(lab.folder))
        with open(config) as text:
            assert yaml.safe_load(text)["model"]["memory"]["keep"] == 0.9


def test_the_parent_shows_the_best_trial_and_how_everything_was_made(faulty):
    lab, file, _ = faulty
    (parent,) = lab.runs("faulty-sweep", "sweep")
    losses = [run.data.metrics["final/loss"] for run in by_fault(lab, "none")]
    assert parent.data.metrics["final/loss"] == min(losses)
    client = lab.client()
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert names == {"sweep.yaml", "environment.txt", "git.txt", "plugins"}
    with open(client.download_artifacts(parent.info.run_id, "sweep.yaml", str(lab.folder))) as kept:
        assert kept.read() == file.read_text()
    with open(client.download_artifacts(parent.info.run_id, "environment.txt", str(lab.folder))) as kept:
        assert "\ntorch==" in kept.read()


def test_ray_prints_nothing_of_its_own_and_leaves_no_files_behind(faulty):
    lab, _, done = faulty
    assert done.stderr == ""
    assert not any("ray" in line.lower() for line in done.stdout.splitlines())
    assert not (lab.store / "sweeps" / "faulty-sweep" / "tune").exists()
    assert not (lab.store / "sweeps" / "faulty-sweep" / "stop").exists()


def test_the_local_executor_gives_the_same_numbers_as_ray(faulty, lab):
    ray_lab, _, _ = faulty
    file = lab.write("Faulty Sweep", AXES | {"model.memory.fault": ["none"]}, seeds=2)
    done = lab.run(file, "--executor", "local")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(lab.trials("faulty-sweep")) == 2
    for key, folder in lab.trials("faulty-sweep").items():
        ours, theirs = (
            [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
            for place in (folder, ray_lab.trials("faulty-sweep")[key])
        )
        costs = ("cost/seconds", "cost/tokens_per_second")
        for mine, other in zip(ours, theirs, strict=True):
            assert mine["step"] == other["step"]
            assert {name: value for name, value in mine["metrics"].items() if name not in costs} == {
                name: value for name, value in other["metrics"].items() if name not in costs
            }


def test_the_same_command_again_runs_nothing_and_a_longer_grid_adds_its_cells(lab):
    file = lab.write("grid", {"model.memory.keep": [0.5, 0.9]})
    first = lab.run(file, "--executor", "local")
    assert first.returncode == 0, first.stdout + first.stderr
    ends = {run.info.run_id: run.info.end_time for run in lab.runs("grid")}
    again = lab.run(file)  # on Ray, which has nothing to do and is not even started
    assert again.returncode == 0 and "(2 of them before)" in again.stdout
    assert "started" not in again.stdout
    assert {run.info.run_id: run.info.end_time for run in lab.runs("grid")} == ends

    longer = lab.write("grid", {"model.memory.keep": [0.5, 0.7, 0.9]}, log_every=2)
    done = lab.run(longer, "--executor", "local")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 trials complete (2 of them before)" in done.stdout
    runs = lab.runs("grid")
    assert len(runs) == 3 and ends.items() <= {run.info.run_id: run.info.end_time for run in runs}.items()
    (parent,) = lab.runs("grid", "sweep")
    assert parent.info.status == "FINISHED"


@pytest.mark.parametrize(
    ("resources", "options", "words"),
    [
        ({"gpu": 512}, [], "resources.gpu: a trial wants 512 GPUs, but this machine has"),
        ({"cpu": 4000}, [], "resources.cpu: a trial wants 4000 CPU cores, but this machine has"),
        ({"cpu": 4000}, ["--executor", "local"], "resources.cpu"),
        ({}, ["--tracking-uri", "nowhere"], "--tracking-uri nowhere"),
    ],
)
def test_what_could_never_run_is_refused_in_one_line_and_nothing_is_written(lab, resources, options, words):
    file = lab.write("greedy", {"model.memory.keep": [0.5, 0.9]}, **({"resources": resources} if resources else {}))
    done = lab.run(file, *options)
    assert done.returncode == 2
    assert words in done.stderr and len(done.stderr.splitlines()) == 1
    assert not lab.store.exists()


def test_status_shows_what_is_complete_failed_and_waiting(lab):
    import subprocess
    import sys

    file = lab.write("states", {"model.memory.fault": ["none", "raise"]})
    assert lab.run(file, "--executor", "local").returncode == 1
    lab.write("states", {"model.memory.fault": ["none", "raise", "nan"]})
    command = [sys.executable, "-m", "titanlab", "sweep", "status", str(file), "--store", str(lab.store)]
    shown = subprocess.run(
        [*command, "--plugin", str(lab.folder / "fragile.py")], capture_output=True, text=True, check=True
    ).stdout
    assert "1 complete, 1 failed, 1 waiting" in shown
    assert "20/20" in shown and "this memory is broken" in " ".join(shown.split())
