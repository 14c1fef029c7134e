"""`--ray-address`: a sweep on a Ray cluster that stands already, as `ray start` makes it."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import yaml


def free_port():
    """Below 10000, where Ray's workers take theirs."""
    for port in range(6390, 7390):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError("no free port")


@pytest.fixture
def cluster(wait):
    """Its address; its processes are children of one that ends with the test."""
    port = free_port()
    # Not pytest's folder: the path of a socket below may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        log = open(Path(folder) / "start.log", "w+")
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
                *("--port", str(port), "--num-cpus", "2", "--include-dashboard=false"),
                *("--object-store-memory", str(80 * 2**20), "--temp-dir", folder),
            ],
            cwd=folder,
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait(lambda: "Ray runtime started" in (Path(folder) / "start.log").read_text() or process.poll(), 120)
            assert process.poll() is None, (Path(folder) / "start.log").read_text()
            yield f"127.0.0.1:{port}"
        finally:
            started = [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
            process.terminate()
            _, left = psutil.wait_procs(started, timeout=10)
            for child in left:
                child.kill()
            process.kill()
            process.wait()
            log.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_with_a_plugin_runs_on_a_cluster_and_leaves_it_standing(lab, cluster):
    file = lab.write("cluster", {"model.memory.keep": [0.5, 0.9]}, steps=8)
    # A relative path starts where the driver stands, wherever the cluster was started.
    (lab.folder / "texts").mkdir()
    for name in "abcd":
        (lab.folder / "texts" / f"{name}.txt").write_text(f"{name} is a letter. " * 40)
    sweep = yaml.safe_load(file.read_text())
    sweep["base"]["task"] = {"type": "language_modeling", "path": "texts", "length": 12, "eval_tokens": 64}
    file.write_text(yaml.safe_dump(sweep))
    first = lab.run(file, "--ray-address", cluster)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "2 of 2 trials complete" in first.stdout and first.stderr == ""
    assert {run.info.status for run in lab.runs("cluster")} == {"FINISHED"}
    assert all(lab.logged_steps(run) == list(range(1, 9)) for run in lab.runs("cluster"))
    assert not (lab.store / "sweeps" / "cluster" / "tune").exists()

    more = lab.run(file, "--ray-address", cluster, "--set", "seeds=2")
    assert more.returncode == 0, more.stdout + more.stderr
    assert "4 of 4 trials complete (2 of them before)" in more.stdout

    greedy = lab.run(lab.write("greedy", {"model.memory.keep": [0.5]}, resources={"cpu": 3}), "--ray-address", cluster)
    assert greedy.returncode == 2 and len(greedy.stderr.splitlines()) == 1
    assert "no node of the cluster" in greedy.stderr and "resources.cpu" in greedy.stderr
    assert not (lab.store / "sweeps" / "greedy").exists()


def test_an_address_where_nobody_listens_is_said_at_once_in_one_line(lab):
    file = lab.write("nobody", {"model.memory.keep": [0.5]})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        done = lab.run(file, "--ray-address", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "no Ray cluster answers at --ray-address 127.0.0.1:" in done.stderr and "`ray start --head`" in done.stderr
    assert not lab.store.exists()
