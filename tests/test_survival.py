"""What clusters do to a sweep, done to one: nothing stays RUNNING, nothing is there twice, the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml

from titanlab.sweeps.execution import ray_folders

STEPS = 20
MISHAPS = '''
import resource
import time
from pathlib import Path

import torch
from torch import nn

from titanlab import MEMORY_MODULES, MemoryConfig, MemoryModule

HERE = Path(__file__).parent


@MEMORY_MODULES.register("mishap")
class MishapConfig(MemoryConfig):
    """Forgets everything; fails until a file named `mended` is beside this one, is slow while one named `slow` is."""

    fault: str = "none"
    """none, memory, shape, once or nan."""

    def build(self, dim: int) -> "Mishap":
        return Mishap(dim, self)


class Mishap(MemoryModule):
    def __init__(self, dim: int, config: MishapConfig) -> None:
        super().__init__()
        self.config, self.write = config, nn.Linear(dim, dim)

    def initial_state(self, batch: int) -> torch.Tensor:
        return self.write.weight.new_zeros(batch, 1)

    def forward(self, x, state):
        time.sleep(0.5 if (HERE / "slow").exists() and len(x) == 4 else 0)
        fails = len(x) == 4 and self.training and not (HERE / "mended").exists()  # a training batch, no plan's probe
        if fails and self.config.fault == "memory":
            before = resource.getrlimit(resource.RLIMIT_AS)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, before[1]))
            try:
                torch.ones(2**28)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, before)
        if fails and self.config.fault == "shape":
            x @ torch.ones(3, 3)
        if fails and self.config.fault == "once" and not (HERE / "failed").exists():
            (HERE / "failed").touch()
            raise RuntimeError("the machine hiccuped")
        y = self.write(x)
        return (y * float("nan") if fails and self.config.fault == "nan" else y), state

    def read(self, x, state):
        return self.write(x)
'''


@pytest.fixture
def verb(lab):
    """`titanlab sweep VERB FILE` in the lab's store, waited for."""

    def call(name, file, *options):
        return subprocess.run(
            [sys.executable, "-m", "titanlab", "sweep", name, str(file), "--store", str(lab.store)]
            + ["--plugin", str(lab.folder / "fragile.py"), *options],
            cwd=lab.folder,
            env={**os.environ, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=200,
        )

    return call


def begun(lab, sweep_id, step):
    return [folder for folder in lab.trials(sweep_id).values() if max(lab.steps(folder), default=0) >= step]


def assert_whole(lab, sweep_id, trials, steps):
    """Every trial finished, every step once on disk and once in MLflow; one run a trial, one parent, no error left."""
    runs = lab.runs(sweep_id)
    assert len(runs) == trials == len({run.data.tags["trial.key"] for run in runs})
    for run in runs:
        assert (run.info.status, run.data.tags["trial.stop_reason"]) == ("FINISHED", "complete")
        assert not {"error.type", "error.message"} & run.data.tags.keys()
        folder = lab.trials(sweep_id)[run.data.tags["trial.key"]]
        assert lab.steps(folder) == lab.logged_steps(run) == list(range(1, steps + 1))
        assert not list(folder.glob("checkpoint.*")) and not (folder / "checkpoint" / "training.pt").exists()
    assert [run.info.status for run in lab.runs(sweep_id, "sweep")] == ["FINISHED"]


def mishaps(lab, name, axes, **changes):
    """A sweep of that memory, and the options of `run`."""
    (lab.folder / "mishaps.py").write_text(MISHAPS)
    file = lab.write(name, axes, **changes)
    sweep = yaml.safe_load(file.read_text())
    sweep["base"]["model"]["memory"] = {"type": "mishap"}
    file.write_text(yaml.safe_dump(sweep))
    return file, ("--executor", "local", "--plugin", str(lab.folder / "mishaps.py"))


@pytest.mark.slow
def test_every_failure_is_of_its_class_and_retried_or_not_and_once_mended_the_same_command_finishes(lab, verb):
    faults = ["none", "memory", "shape", "once", "nan"]
    file, options = mishaps(lab, "mishaps", {"model.memory.fault": faults}, resources={"failure_retries": 1})
    done = lab.run(file, *options)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 of 5 trials complete" in done.stdout and done.stderr == ""
    by_fault = {run.data.params["model.memory.fault"]: run for run in lab.runs("mishaps")}
    shown = {
        fault: (run.info.status, run.data.tags["trial.stop_reason"], run.data.tags.get("error.type"))
        for fault, run in by_fault.items()
    }
    assert shown == {
        "none": ("FINISHED", "complete", None),
        "memory": ("FAILED", "out_of_memory", "OutOfMemory"),
        "shape": ("FAILED", "failed", "RuntimeError"),
        "once": ("FINISHED", "complete", None),
        "nan": ("FAILED", "diverged", "NonFiniteLossError"),
    }
    attempts = {fault: run.data.tags["trial.attempt"] for fault, run in by_fault.items()}
    assert attempts == {"none": "1", "memory": "2", "shape": "1", "once": "2", "nan": "1"}
    for reason in ("OutOfMemory: ", "can't allocate memory", "RuntimeError: mat1 and mat2", "the loss became nan"):
        assert reason in done.stdout, reason

    seen = json.loads(verb("status", file, "--json", *options[2:]).stdout)
    assert seen["counts"] == {"complete": 2, "out_of_memory": 1, "failed": 1, "diverged": 1}
    assert seen["driver"] is None and {trial["steps"] for trial in seen["trials"]} == {STEPS}

    (lab.folder / "mended").touch()
    again = lab.run(file, *options)
    assert again.returncode == 1 and "4 of 5 trials complete (3 of them before)" in again.stdout
    assert "what diverged is not run again by itself" in again.stdout and "titanlab sweep retry" in again.stdout
    retried = verb("retry", file, *options, "--only", "model.memory.fault == nan")
    assert retried.returncode == 0, retried.stdout + retried.stderr
    assert "1 of 1 trials complete" in retried.stdout
    assert_whole(lab, "mishaps", 5, STEPS)


@pytest.mark.slow
def test_stop_a_full_disk_and_a_damaged_checkpoint_lose_nothing(lab, verb, wait):
    """One trial through all of it; at the end it is the trial that was never disturbed."""
    long = {"steps": 80, "checkpoint_every": 5}
    file, options = mishaps(lab, "tried", {"model.dim": [256]}, **long)
    (lab.folder / "slow").touch()
    driver = lab.start(file, *options)
    (folder,) = wait(lambda: begun(lab, "tried", 12))
    running = json.loads(verb("status", file, "--json", *options[2:]).stdout)
    assert running["driver"]["pid"] == driver.pid and running["counts"] == {"running": 1}
    assert 0 < running["seconds_left"] < 600
    stopped = verb("stop", file)
    assert stopped.returncode == 0 and f"asking process {driver.pid}" in stopped.stdout and "ended" in stopped.stdout
    out, err = driver.communicate(timeout=30)
    assert driver.returncode == 130 and "interrupted" in out, out + err
    (lab.folder / "slow").unlink()
    (run,) = lab.runs("tried")
    assert (run.info.status, run.data.tags["trial.stop_reason"]) == ("KILLED", "interrupted")

    weights = folder / "checkpoint" / "model.safetensors"
    good = weights.read_bytes()
    limit = max(path.stat().st_size for path in lab.store.rglob("*") if path.is_file() and path.suffix == ".db")
    limit = limit + 2**19  # the database goes on, AdamW's state does not fit
    assert limit < (folder / "checkpoint" / "training.pt").stat().st_size
    full = run_limited(lab, file, limit, *options)
    assert full.returncode == 1, full.stdout + full.stderr
    assert "DiskFull: " in full.stdout and "File too large" in full.stdout and full.stderr == ""
    assert weights.read_bytes() == good and not (folder / "checkpoint.writing").exists()
    (run,) = lab.runs("tried")
    assert (run.info.status, run.data.tags["error.type"]) == ("FAILED", "DiskFull")
    assert run.data.tags["trial.stop_reason"] == "disk_full"

    damaged = bytearray(good)
    damaged[-100] ^= 1
    weights.write_bytes(damaged)
    again = lab.run(file, *options)
    assert again.returncode == 0, again.stdout + again.stderr
    (warning,) = [line for line in again.stdout.splitlines() if line.startswith("warning: ")]
    assert "its content is not what was written" in warning and "the run goes on from step" in warning
    (run,) = lab.runs("tried")
    assert "its content is not what was written" in run.data.tags["trial.warning"]
    assert_whole(lab, "tried", 1, 80)

    calm, _ = mishaps(lab, "calm", {"model.dim": [256]}, **long)
    assert lab.run(calm, *options).returncode == 0
    (reference,) = lab.trials("calm").values()
    ours, theirs = (json.loads((place / "outcome.json").read_text())["metrics"] for place in (folder, reference))
    assert {name: value for name, value in ours.items() if not name.startswith("cost/")} == {
        name: value for name, value in theirs.items() if not name.startswith("cost/")
    }


def run_limited(lab, file, limit, *options):
    """The sweep with a limit on the size of files, as a full disk."""
    command = [sys.executable, "-m", "titanlab", "sweep", "run", str(file), "--store", str(lab.store)]
    command += ["--plugin", str(lab.folder / "fragile.py"), *options]
    code = (
        f"import os, resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY)); "
        f"os.execv({sys.executable!r}, {command!r})"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=lab.folder, capture_output=True, text=True, timeout=200)


@pytest.mark.slow
def test_a_changed_file_adds_its_cells_and_leaves_the_others_alone_and_a_part_finishes_no_sweep(lab):
    long = lab.write("changing", {"model.memory.keep": [0.5, 0.6, 0.7]}, keep_weights="none")
    part = lab.run(long, "--executor", "local", "--only", "model.memory.keep < 0.65")
    assert part.returncode == 0 and "2 of 2 trials complete" in part.stdout
    assert [run.info.status for run in lab.runs("changing", "sweep")] == ["SCHEDULED"]  # one trial still waits
    assert not any((folder / "checkpoint").exists() for folder in lab.trials("changing").values())
    before = {run.data.params["model.memory.keep"]: run for run in lab.runs("changing")}

    other = lab.write("changing", {"model.memory.keep": [0.6, 0.8]}, keep_weights="none")
    done = lab.run(other, "--executor", "local")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 trials complete (1 of them before)" in done.stdout
    assert "note: 1 trial in the store is not in this sweep's file as it is now; left as they are: keep=0.5" in (
        done.stdout
    )
    after = {run.data.params["model.memory.keep"]: run for run in lab.runs("changing")}
    assert after.keys() == {"0.5", "0.6", "0.8"}
    for value in ("0.5", "0.6"):
        assert after[value].info.end_time == before[value].info.end_time
    assert [run.info.status for run in lab.runs("changing", "sweep")] == ["FINISHED"]


@pytest.mark.slow
def test_a_killed_raylet_is_said_and_replaced_and_the_same_command_finishes(lab, wait, kill, verb):
    """Between them `stop`, of a sweep on Ray."""
    file, options = mishaps(lab, "raylet", {"model.dim": [16]}, steps=100, seeds=2)
    (lab.folder / "slow").touch()
    driver = lab.start(file, *options[2:])
    wait(lambda: all_attempts(lab, 1) and len(begun(lab, "raylet", 6)) == 2)
    raylet = next(child for child in psutil.Process(driver.pid).children(recursive=True) if child.name() == "raylet")
    workers = [psutil.Process(attempt(folder)["pid"]) for folder in lab.trials("raylet").values()]
    kill(raylet.pid)
    assert not psutil.wait_procs(workers, timeout=30)[1]
    wait(lambda: all_attempts(lab, 2))
    assert verb("stop", file).returncode == 0
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, out + err
    assert f"Ray's raylet (pid {raylet.pid}) died; starting Ray again" in out and "lost its process" in out
    assert {run.info.status for run in lab.runs("raylet")} == {"KILLED"}

    (lab.folder / "slow").unlink()
    again = lab.run(file, *options)
    assert again.returncode == 0, again.stdout + again.stderr
    assert_whole(lab, "raylet", 2, 100)


def attempt(folder):
    return json.loads((folder / "attempt.json").read_text())


def all_attempts(lab, number):
    """Whether every trial is in that attempt."""
    folders = [folder for folder in lab.trials("raylet").values() if (folder / "attempt.json").exists()]
    return len(folders) == 2 and all(attempt(folder)["attempt"] == number for folder in folders)


def test_what_a_killed_driver_left_of_ray_is_removed_and_what_a_living_one_uses_is_not(monkeypatch, tmp_path):
    monkeypatch.setattr(ray_folders, "tempfile", SimpleNamespace(gettempdir=lambda: "/tmp", mkdtemp=tempfile.mkdtemp))
    monkeypatch.setattr(ray_folders, "PREFIX", f"titanlab-ray-test-{os.getpid()}-")
    mine = ray_folders.make_ray_folder()
    code = (
        "import sys, time; from titanlab.sweeps.execution import ray_folders; "
        f"ray_folders.PREFIX = {ray_folders.PREFIX!r}; "
        "mine = ray_folders.make_ray_folder(); print(mine.path, flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    theirs = Path(other.stdout.readline().strip())
    old = time.time() - 3600
    for folder in (mine.path, theirs):
        os.utime(folder / ".owner", (old, old))
    third = ray_folders.make_ray_folder()
    assert mine.path.is_dir() and theirs.is_dir()
    other.kill()
    other.communicate()
    fourth = ray_folders.make_ray_folder()
    assert mine.path.is_dir() and not theirs.exists()
    for folder in (mine, third, fourth):
        folder.remove()
        assert not folder.path.exists()


@pytest.mark.slow
def test_a_terminal_that_goes_away_stops_the_sweep_with_a_checkpoint(lab, wait):
    file = lab.write("hangup", {"model.memory.delay": [0.1]}, steps=60, checkpoint_every=1000)
    driver = lab.start(file, "--executor", "local")
    (folder,) = wait(lambda: begun(lab, "hangup", 3))
    driver.stdout.close()  # nobody reads any more
    driver.stdout = None
    wait(lambda: begun(lab, "hangup", 5))
    os.kill(driver.pid, signal.SIGHUP)
    assert driver.wait(60) == 130
    assert (folder / "checkpoint").exists() and max(lab.steps(folder)) < 60
    assert [run.info.status for run in lab.runs("hangup")] == ["KILLED"]
