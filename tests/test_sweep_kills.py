"""Real kills of real processes: nothing stays RUNNING, nothing is there twice, and the same command goes on."""

import json
import os
import signal

import psutil
import pytest

from titanlab.platform.tracking.client import tracking_client
from titanlab.platform.tracking.store import open_store
from titanlab.platform.tracking.ui_server import UiServer

STEPS = 40
SLOW = {"model.memory.delay": [0.1]}


def pid_of(folder):
    return json.loads((folder / "attempt.json").read_text())["pid"]


def begun(lab, sweep_id, step, attempt=1):
    """Folders of the trials whose attempt wrote that step."""
    return [
        folder
        for folder in lab.trials(sweep_id).values()
        if (folder / "attempt.json").exists()
        and json.loads((folder / "attempt.json").read_text())["attempt"] >= attempt
        and max(lab.steps(folder), default=0) >= step
    ]


def assert_whole(lab, sweep_id, trials, steps=STEPS):
    """Every trial finished, with every step once on disk and once in MLflow; one run a trial, one parent."""
    runs = lab.runs(sweep_id)
    assert sorted(run.data.tags["trial.key"] for run in runs) == sorted(lab.trials(sweep_id))
    assert len(runs) == trials
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.tags["trial.stop_reason"] == "complete"
        assert lab.steps(lab.trials(sweep_id)[run.data.tags["trial.key"]]) == list(range(1, steps + 1))
        assert lab.logged_steps(run) == list(range(1, steps + 1))
        assert run.data.metrics["progress/step"] == steps
    (parent,) = lab.runs(sweep_id, "sweep")
    assert parent.info.status == "FINISHED"


@pytest.mark.slow
def test_a_killed_worker_is_retried_from_its_checkpoint_and_leaves_no_trace(lab, wait, kill):
    file = lab.write("worker", SLOW, steps=STEPS, resources={"retries": 1})
    driver = lab.start(file)
    (folder,) = wait(lambda: begun(lab, "worker", 12))
    kill(pid_of(folder))
    out, err = driver.communicate(timeout=200)
    assert driver.returncode == 0, out + err
    assert "lost its process at step" in out and "attempt 2" in out
    assert_whole(lab, "worker", 1)
    (run,) = lab.runs("worker")
    assert run.data.tags["trial.attempt"] == "2"


@pytest.mark.slow
def test_a_killed_driver_leaves_what_the_same_command_finishes(lab, wait, kill):
    steps = 3 * STEPS  # long enough to be under way still when the second driver has been refused
    file = lab.write("driver", SLOW, steps=steps, seeds=3)
    driver = lab.start(file)
    folder = wait(lambda: begun(lab, "driver", 12))[0]
    second = lab.run(file, "--executor", "local")
    assert second.returncode == 2
    assert "being run by another process" in second.stderr and len(second.stderr.splitlines()) == 1
    worker = pid_of(folder)
    kill(driver.pid)
    driver.communicate()
    wait(lambda: not psutil.pid_exists(worker), 20)
    assert "RUNNING" in {run.info.status for run in lab.runs("driver")}
    known = {run.info.run_id for run in lab.runs("driver")}

    again = lab.run(file)
    assert again.returncode == 0, again.stdout + again.stderr
    assert_whole(lab, "driver", 3, steps)
    assert {run.info.run_id for run in lab.runs("driver")} == known


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_local_sweep_with_a_checkpoint_and_the_same_command_resumes(lab, wait, number):
    file = lab.write("signal", SLOW, steps=STEPS, seeds=2, checkpoint_every=1000)
    driver = lab.start(file, "--executor", "local")
    (folder,) = wait(lambda: begun(lab, "signal", 5))
    os.kill(driver.pid, number)
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, out + err
    stopped_at = max(lab.steps(folder))
    assert (folder / "checkpoint").exists() and stopped_at < STEPS
    statuses = {run.data.tags["trial.key"]: run.info.status for run in lab.runs("signal")}
    assert statuses.pop(folder.name) == "KILLED"
    assert list(statuses.values()) == ["SCHEDULED"]
    (run,) = [run for run in lab.runs("signal") if run.data.tags["trial.key"] == folder.name]
    assert run.data.tags["trial.stop_reason"] == "interrupted"
    assert lab.runs("signal", "sweep")[0].info.status == "KILLED"
    if number == signal.SIGINT:
        again = lab.run(file, "--executor", "local", "--set", "resources.retries=0")
        assert again.returncode == 0, again.stdout + again.stderr
        assert_whole(lab, "signal", 2)


@pytest.mark.slow
def test_ctrl_c_of_a_terminal_stops_a_ray_sweep_with_checkpoints_and_the_same_command_resumes(lab, wait):
    file = lab.write("control", SLOW, steps=STEPS, seeds=4, checkpoint_every=1000)
    driver = lab.start(file)
    wait(lambda: begun(lab, "control", 5))
    os.killpg(driver.pid, signal.SIGINT)  # a terminal signals the whole group, Ray's processes included
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, out + err
    assert "interrupted" in out
    running = [folder for folder in lab.trials("control").values() if (folder / "attempt.json").exists()]
    assert running and all((folder / "checkpoint").exists() for folder in running)
    by_key = {run.data.tags["trial.key"]: run for run in lab.runs("control")}
    assert {by_key[folder.name].info.status for folder in running} == {"KILLED"}
    assert {by_key[folder.name].data.tags["trial.stop_reason"] for folder in running} == {"interrupted"}
    assert {run.info.status for key, run in by_key.items() if key not in {f.name for f in running}} <= {"SCHEDULED"}
    again = lab.run(file)
    assert again.returncode == 0, again.stdout + again.stderr
    assert_whole(lab, "control", 4)


@pytest.mark.slow
def test_a_tracking_server_that_dies_stops_no_trial_and_the_same_command_later_sends_everything(lab, wait):
    served = open_store(lab.folder / "served")
    with served.setting_up():
        tracking_client(served.tracking_uri).search_experiments()
    file = lab.write("served", SLOW, steps=STEPS)
    with UiServer(served, 0) as server:
        port = server.port
        options = ("--tracking-uri", server.address, "--executor", "local")
        driver = lab.start(file, *options)
        wait(lambda: begun(lab, "served", 15))
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 0, out + err
    assert "1 of 1 trials complete" in out and "warning: MLflow lacks results" in out
    with UiServer(served, port):
        again = lab.run(file, *options)
    assert again.returncode == 0 and "warning" not in again.stdout and "started" not in again.stdout
    lab.mlflow = f"sqlite:///{served.root / 'mlflow.db'}"
    assert_whole(lab, "served", 1)
