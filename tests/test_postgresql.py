"""Sixteen trials write at once to an MLflow server on PostgreSQL; some of their processes are killed meanwhile."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from titanlab.platform.tracking.client import tracking_client
from titanlab.platform.tracking.journal import read_journal
from titanlab.platform.tracking.ledger import Ledger
from titanlab.platform.tracking.ledger_entries import Ending, SweepEntry, TrialEntry
from titanlab.platform.tracking.store import Store, open_store
from titanlab.platform.tracking.ui_server import UiServer

pytestmark = pytest.mark.slow

PROCESSES, EACH, STEPS = 4, 4, 200

WRITER = """
import sys, time
from pathlib import Path
from titanlab.platform.tracking.journal import Journal
from titanlab.platform.tracking.sync import JournalSync

JournalSync.SHORTEST_PAUSE, JournalSync.PAUSE_PER_COST, JournalSync.PATIENCE = 0.05, 0, 120.0  # as busy as can be
address, steps, halt, *trials = sys.argv[1:]
pairs = [trial.split("=") for trial in trials]
journals = [Journal(Path(folder) / "metrics.jsonl") for _, folder in pairs]
syncs = [JournalSync(address, run_id, Path(folder) / "metrics.jsonl") for run_id, folder in pairs]
syncs[0].prepare()
for sync in syncs:
    sync.start({"trial.attempt": "1"})
for step in range(int(steps)):
    while step == int(halt):
        time.sleep(1)  # until it is killed, while the threads go on sending
    for number, journal in enumerate(journals):
        journal.write(step, {"train/loss": step + number / 10, "val/loss": -float(step)})
    time.sleep(0.02)
print([sync.close(finished={"data.digest": "d" * 64}) or sync.error or "no answer" for sync in syncs])
"""


def program(name: str) -> str | None:
    """PostgreSQL's own programs; Debian keeps them out of the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next(filter(None, [shutil.which(name), *(shutil.which(name, path=str(folder)) for folder in folders)]), None)


@pytest.fixture(scope="module")
def database():
    """The address of a PostgreSQL of its own; it refuses to run as root."""
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    initdb, control = program("initdb"), program("pg_ctl")
    if initdb is None or control is None:
        pytest.skip("there is no PostgreSQL (initdb, pg_ctl): install your system's package")
    folder = Path(tempfile.mkdtemp(prefix="titanlab-postgresql-"))
    user = "nobody" if os.geteuid() == 0 else getpass.getuser()
    if os.geteuid() == 0:
        shutil.chown(folder, user)
    port, data = free_port(), folder / "data"

    def run(*command: str) -> None:
        options = {"user": user, "group": None, "extra_groups": []} if os.geteuid() == 0 else {}
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, **options)

    settings = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=50"
    try:
        run(initdb, "-D", str(data), "-U", "titanlab", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        run(control, "-D", str(data), "-o", settings, "-l", str(folder / "log"), "-w", "start")
        yield f"postgresql+psycopg2://titanlab@127.0.0.1:{port}/postgres"
        run(control, "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def store(database, tmp_path_factory):
    """A store whose tracking server is MLflow's own, over HTTP, on that database."""
    root = tmp_path_factory.mktemp("store")
    with UiServer(Store(root, database), 0) as server:
        yield open_store(root, server.address)


def sweep_in(store: Store) -> SweepEntry:
    keys = [f"{number:02}" for number in range(PROCESSES * EACH)]
    trials = [
        TrialEntry(key, f"trial {key}", {"task.type": "mqar", "n": key}, {}, "{}\n", store.trial("busy", key))
        for key in keys
    ]
    return SweepEntry("busy", "Busy", "val/loss", "min", {"sweep.id": "busy"}, {}, trials)


def start_writer(store: Store, ledger: Ledger, keys: list[str], halt: int = -1) -> "subprocess.Popen[str]":
    trials = [f"{ledger.run_ids[key]}={ledger.entries[key].folder}" for key in keys]
    command = [sys.executable, "-c", WRITER, store.tracking_uri, str(STEPS), str(halt), *trials]
    # A busy machine may keep a request waiting for longer than training would: what is asked is whether all arrives.
    environment = os.environ | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_sixteen_writers_lose_nothing_and_double_nothing_although_some_are_killed(store, wait):
    with store.driving("busy"):
        ledger = Ledger(store, sweep_in(store))
        runs = ledger.open()
        keys = list(ledger.entries)
        for entry in ledger.entries.values():
            entry.folder.mkdir(parents=True)
        client = tracking_client(store.tracking_uri)
        groups = [keys[start : start + EACH] for start in range(0, len(keys), EACH)]
        writers = [start_writer(store, ledger, group, STEPS // 2 if group is groups[0] else -1) for group in groups]
        victim = groups[0][0]
        wait(lambda: client.get_run(ledger.run_ids[victim]).data.metrics.get("progress/step", 0) > STEPS / 4)
        writers[0].send_signal(signal.SIGKILL)
        writers[0].communicate()
        assert STEPS / 4 < len(read_journal(ledger.entries[victim].folder / "metrics.jsonl")) <= STEPS / 2
        writers[0] = start_writer(store, ledger, groups[0])  # goes on where its journals end
        assert [writer.communicate(timeout=200)[0].strip() for writer in writers] == [str([True] * EACH)] * PROCESSES
        ended = Ending("FINISHED", "complete", metrics={"val/loss": 1.0 - STEPS}, data_digest="d" * 64)
        ledger.close(dict.fromkeys(keys, ended), interrupted=False)
        assert ledger.unsent == []

        again = Ledger(store, sweep_in(store))  # the same command once more
        assert again.open() == runs and again.run_ids == ledger.run_ids
        again.close(dict.fromkeys(keys, ended), interrupted=False)

    found = client.search_runs([runs.experiment_id], max_results=100)
    assert len(found) == PROCESSES * EACH + 1
    assert {run.info.status for run in found} == {"FINISHED"}
    for number, key in enumerate(keys):
        run_id = ledger.run_ids[key]
        loss = client.get_metric_history(run_id, "train/loss")
        assert sorted((point.step, point.value) for point in loss) == [
            (step, step + (number % EACH) / 10) for step in range(STEPS)
        ]
        assert sorted(point.step for point in client.get_metric_history(run_id, "val/loss")) == list(range(STEPS))
        (data,) = client.get_run(run_id).inputs.dataset_inputs
        assert (data.dataset.name, data.dataset.digest) == ("mqar", "d" * 36)
