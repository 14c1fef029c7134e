"""`titanlab ui` really serves the store, and its link finds exactly the sweep's trials."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from urllib.parse import parse_qs

import psutil
import pytest


@pytest.fixture(scope="module")
def ran(shared_lab):
    """A store with two sweeps."""
    for name in ("first", "second"):
        file = shared_lab.write(name, {"model.memory.keep": [0.5, 0.9]}, steps=4)
        assert shared_lab.run(file, "--executor", "local").returncode == 0
    return shared_lab


def ui(lab, *options):
    return [sys.executable, "-m", "titanlab", "ui", "--store", str(lab.store), *options]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def link_parts(line):
    sweep, address, experiment, query = re.fullmatch(
        r"([^:]+): (http://127\.0\.0\.1:\d+)/#/experiments/(\d+)/runs\?(.*)", line.strip()
    ).groups()
    return sweep, address, experiment, {key: values[0] for key, values in parse_qs(query).items()}


def saved_state(tag):
    """A saved view as MLflow's page reads it."""
    packed = json.loads(tag)["state"].removeprefix("deflate;")
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def test_the_link_of_a_running_ui_finds_the_sweeps_trials_and_a_signal_ends_it(ran):
    file = str(ran.folder / "first.yaml")
    canary = ran.store / "uvicorn.py"
    canary.write_text(f"open({str(canary.with_name('CANARY'))!r}, 'w')")
    server = subprocess.Popen(ui(ran, file, "--port", str(free_port())), stdout=subprocess.PIPE, text=True)
    try:
        sweep, address, experiment, query = link_parts(server.stdout.readline())
        assert sweep == "first"
        assert query["viewStateShareKey"] == "titanlab" and query["compareRunsMode"] == "CHART"
        with urllib.request.urlopen(address) as page:
            assert b"MLflow" in page.read()
        view = saved_state(ran.client().get_experiment(experiment).tags["mlflow.sharedViewState.titanlab"])
        assert view["orderByKey"] == "metrics.`final/loss`" and view["orderByAsc"] is True
        request = urllib.request.Request(
            f"{address}/api/2.0/mlflow/runs/search",
            json.dumps({"experiment_ids": [experiment], "filter": view["searchFilter"]}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            runs = json.load(answer)["runs"]
        keys = {tag["value"] for run in runs for tag in run["data"]["tags"] if tag["key"] == "trial.key"}
        assert keys == set(ran.trials("first")) and len(runs) == 2
        processes = psutil.Process(server.pid).children(recursive=True)
        assert len(processes) == 2
        assert not [*canary.parent.glob("CANARY*")], "what lies in a store is not imported"
        assert ran.mlflow not in str([process.cmdline() for process in processes]), "it may hold a password"
        listening = [found for process in processes for found in process.net_connections() if not found.raddr]
        assert {found.laddr.ip for found in listening} == {"127.0.0.1"}
        search = f"{address}/api/2.0/mlflow/experiments/search?max_results=1"
        request = urllib.request.Request(search, headers={"Host": "elsewhere.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):  # a page elsewhere whose name leads here
            urllib.request.urlopen(request)
    finally:
        os.kill(server.pid, signal.SIGTERM)
        server.communicate(timeout=30)
    assert server.returncode == 0
    assert not [process for process in processes if process.is_running()]


def test_without_a_sweep_the_links_of_all_are_printed_and_nothing_is_served(ran):
    shown = subprocess.run(ui(ran, "--link"), capture_output=True, text=True, check=True).stdout
    assert [link_parts(line)[0] for line in shown.splitlines()] == ["first", "second"]


def test_a_taken_port_is_said_in_one_line(ran):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(ui(ran, "--port", str(port)), capture_output=True, text=True)
    assert done.returncode == 2
    assert f"port {port}" in done.stderr and "--port" in done.stderr and len(done.stderr.splitlines()) == 1


def test_an_empty_store_and_a_sweep_that_never_ran_are_said_in_one_line(ran, tmp_path):
    empty = subprocess.run(ui(ran, "--store", str(tmp_path / "none")), capture_output=True, text=True)
    assert empty.returncode == 2 and "no sweep was run in" in empty.stderr
    assert not (tmp_path / "none").exists()
    never = ran.write("never", {"model.memory.keep": [0.5]})
    done = subprocess.run(ui(ran, str(never)), capture_output=True, text=True)
    assert done.returncode == 2 and "'never' was never run" in done.stderr
