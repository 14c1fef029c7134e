"""The ledger: one run a trial whoever creates it, every point once whoever sends it; a dead server holds nothing up."""

import math
import socket
import subprocess
import time
from dataclasses import replace

import pytest

from titanlab.platform.errors import ConfigError
from titanlab.platform.tracking.client import TrackingError
from titanlab.platform.tracking.environment import environment_text, git_state
from titanlab.platform.tracking.journal import Journal
from titanlab.platform.tracking.ledger import Ledger
from titanlab.platform.tracking.ledger_entries import Ending, SweepEntry, TrialEntry
from titanlab.platform.tracking.naming import dotted_settings
from titanlab.platform.tracking.store import SweepBusyError, open_store, read_sweep_runs
from titanlab.platform.tracking.sync import JournalSync, finish_run, high_water, replay, send_points


def entry(store, key, **changes):
    fields = {
        "key": key,
        "name": f"variant {key}",
        "params": {"model.dim": "16", "train.seed": key},
        "tags": {"variant": f"variant {key}"},
        "config_text": "model: {dim: 16}\n",
        "folder": store.trial("tidy", key),
    }
    return TrialEntry(**fields | changes)


def sweep_of(*trials):
    return SweepEntry("tidy", "Tidy", "final/loss", "min", {"sweep.id": "tidy"}, {"sweep.yaml": "name: Tidy\n"}, trials)


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


@pytest.fixture
def ledger(store):
    with store.driving("tidy"):
        opened = Ledger(store, sweep_of(entry(store, "a"), entry(store, "b")))
        opened.open()
        yield opened


def client_of(ledger):
    from titanlab.platform.tracking.client import tracking_client

    return tracking_client(ledger.store.tracking_uri)


def write_points(ledger, key, steps, **metrics):
    folder = ledger.entries[key].folder
    folder.mkdir(parents=True, exist_ok=True)
    with Journal(folder / "metrics.jsonl") as journal:
        for step in steps:
            journal.write(step, {"train/loss": 1 / (1 + step), **metrics})
    return folder / "metrics.jsonl"


def history(ledger, key, metric="train/loss"):
    return [(point.step, point.value) for point in client_of(ledger).get_metric_history(ledger.run_ids[key], metric)]


def status(ledger, key):
    return client_of(ledger).get_run(ledger.run_ids[key]).info.status


def test_opening_again_creates_nothing_and_a_longer_sweep_adds_its_runs(ledger, store):
    again = Ledger(store, sweep_of(entry(store, "a"), entry(store, "b"), entry(store, "c")))
    runs = again.open()
    assert ledger.run_ids.items() <= again.run_ids.items() and len(again.run_ids) == 3
    assert read_sweep_runs(store.sweep("tidy")) == runs
    found = client_of(ledger).search_runs([runs.experiment_id])
    assert len(found) == 4
    assert {run.info.status for run in found if run.data.tags["run.kind"] == "trial"} == {"SCHEDULED"}


def test_a_run_that_a_dead_driver_left_half_made_is_completed(ledger, store):
    wider = entry(store, "a", params={"model.dim": "16", "train.seed": "a", "model.layers": "2"})
    again = Ledger(store, sweep_of(wider, entry(store, "b", tags={"variant": "renamed"})))
    again.open()
    assert client_of(ledger).get_run(again.run_ids["a"]).data.params["model.layers"] == "2"
    assert client_of(ledger).get_run(again.run_ids["b"]).data.tags["variant"] == "renamed"


@pytest.mark.parametrize(
    ("rest", "interrupted", "expected"),
    [("FINISHED", False, "FINISHED"), (None, False, "SCHEDULED"), ("FAILED", False, "FAILED"), (None, True, "KILLED")],
)
def test_a_sweep_of_which_a_part_ran_is_finished_once_the_others_are(ledger, store, rest, interrupted, expected):
    client = client_of(ledger)
    write_points(ledger, "a", range(3))
    if rest is not None:
        client.set_terminated(ledger.run_ids["b"], rest)
    part = Ledger(store, replace(sweep_of(entry(store, "a")), others=frozenset("b")))
    runs = part.open()
    part.close({"a": Ending("FINISHED", "complete", metrics={"final/loss": 0.5})}, interrupted=interrupted)
    assert not part.unsent
    assert client.get_run(runs.parent_run_id).info.status == expected
    assert client.get_run(runs.parent_run_id).data.tags["sweep.trials"] == "2"


def test_what_a_dead_driver_left_running_is_killed_even_if_the_sweep_no_longer_has_it(ledger, store):
    client = client_of(ledger)
    client.update_run(ledger.run_ids["b"], status="RUNNING")
    Ledger(store, sweep_of(entry(store, "a"))).open()
    assert status(ledger, "b") == "KILLED"
    assert client.get_run(ledger.run_ids["b"]).data.tags["trial.stop_reason"] == "interrupted"


def test_closing_writes_what_became_of_each_trial_and_shows_the_best_on_the_parent(ledger):
    write_points(ledger, "a", range(3))
    ledger.close(
        {
            "a": Ending("FINISHED", "complete", metrics={"final/loss": 0.5, "train/loss": 0.1}),
            "b": Ending("FAILED", "diverged", "NonFiniteLossError", "the loss became nan", "Traceback ..."),
        },
        interrupted=False,
    )
    assert status(ledger, "a") == "FINISHED" and len(history(ledger, "a")) == 3  # mended from the journal
    assert status(ledger, "b") == "FAILED"
    client = client_of(ledger)
    tags = client.get_run(ledger.run_ids["b"]).data.tags
    assert (tags["trial.stop_reason"], tags["error.type"]) == ("diverged", "NonFiniteLossError")
    parent = client.get_run(read_sweep_runs(ledger.store.sweep("tidy")).parent_run_id)
    assert parent.info.status == "FAILED"
    assert parent.data.metrics == {"final/loss": 0.5} and parent.data.tags["best.trial"] == "a"


def test_an_interrupted_sweep_kills_what_ran_and_leaves_the_rest_scheduled(ledger):
    client_of(ledger).update_run(ledger.run_ids["a"], status="RUNNING")
    ledger.close({}, interrupted=True)
    assert (status(ledger, "a"), status(ledger, "b")) == ("KILLED", "SCHEDULED")


def test_every_point_is_sent_once_whoever_sends_and_however_often(ledger):
    client, run_id = client_of(ledger), ledger.run_ids["a"]
    journal = write_points(ledger, "a", range(10))
    replay(client, run_id, journal)
    replay(client, run_id, journal)
    write_points(ledger, "a", range(10, 2000), other=1.0)  # more than a batch takes
    sync = JournalSync(ledger.store.tracking_uri, run_id, journal)
    sync.start({"trial.attempt": "2"})
    assert sync.close(finished={"data.digest": "d"})
    assert [step for step, _ in history(ledger, "a")] == list(range(2000))
    assert history(ledger, "a")[7] == (7, 1 / 8)
    assert high_water(client, run_id) == 1999
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert (run.data.tags["data.digest"], run.data.tags["trial.attempt"]) == ("d", "2")


def test_points_are_sent_while_the_trial_goes_on(ledger, wait):
    journal = write_points(ledger, "a", range(2))
    sync = JournalSync(ledger.store.tracking_uri, ledger.run_ids["a"], journal)
    sync.start({})
    wait(lambda: len(history(ledger, "a")) == 2, 30)
    assert status(ledger, "a") == "RUNNING"
    write_points(ledger, "a", range(2, 5))
    wait(lambda: len(history(ledger, "a")) == 5, 30)
    assert sync.close() and status(ledger, "a") == "RUNNING"  # the driver knows why it ended


def test_a_value_that_is_no_number_becomes_a_tag(ledger):
    client, run_id = client_of(ledger), ledger.run_ids["a"]
    replay(client, run_id, write_points(ledger, "a", [0, 1], bad=math.inf))
    run = client.get_run(run_id)
    assert "bad" not in run.data.metrics and run.data.tags["nonfinite.bad"].startswith("inf at step")
    assert len(history(ledger, "a")) == 2


@pytest.fixture
def black_hole():
    """A server that takes connections and never answers: the worst kind of dead."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_dead_tracking_server_does_not_hold_a_trial_up_and_the_driver_replays_its_journal(
    ledger, black_hole, monkeypatch
):
    monkeypatch.setattr(JournalSync, "PATIENCE", 1.0)
    journal = write_points(ledger, "a", range(3))
    began = time.perf_counter()
    sync = JournalSync(black_hole, ledger.run_ids["a"], journal)
    sync.start({})
    started = time.perf_counter() - began
    assert not sync.close(finished={})
    assert started < 0.1 and time.perf_counter() - began < 3
    ledger.close({"a": Ending("FINISHED", "complete", metrics={"final/loss": 1.0})}, interrupted=True)
    assert status(ledger, "a") == "FINISHED" and len(history(ledger, "a")) == 3


def test_a_server_that_is_gone_at_the_end_leaves_a_warning_and_not_an_error(ledger, monkeypatch):
    def gone(*arguments, **options):
        raise ConnectionError("connection refused")

    monkeypatch.setattr(type(ledger._client), "search_runs", gone)
    ledger.close({"a": Ending("FINISHED", "complete")}, interrupted=False)
    assert ledger.unsent == ["ConnectionError: connection refused"]


def test_a_server_that_does_not_answer_at_the_start_is_said_in_one_line(store):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    began = time.perf_counter()
    with pytest.raises(TrackingError, match=f"the tracking server at {address} cannot be used") as caught:
        Ledger(replace(store, tracking_uri=address), sweep_of(entry(store, "a"))).open()
    assert len(str(caught.value).splitlines()) == 1 and time.perf_counter() - began < 30


def test_a_finished_run_is_never_touched_again(ledger, store):
    client, run_id = client_of(ledger), ledger.run_ids["a"]
    send_points(client, run_id, [])
    finish_run(client, run_id, {})
    before = client.get_run(run_id).info.end_time
    Ledger(store, sweep_of(entry(store, "a"), entry(store, "b"))).open()
    ledger.close({"a": Ending("FINISHED", "complete")}, interrupted=False)
    assert client.get_run(run_id).info.end_time == before


def test_a_second_driver_is_refused_in_one_line(store):
    with (
        store.driving("tidy"),
        pytest.raises(SweepBusyError, match="'tidy' is being run by another process"),
        store.driving("tidy"),
    ):
        pass
    with store.driving("tidy"):
        pass


def test_a_store_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        open_store(tmp_path / "store")


def test_settings_become_dotted_params_in_the_alphabet_of_mlflow():
    settings = {"model": {"dim": 16, "layers": [{"dim": 8}, {"dim": 4}]}, "tags": ["x", 1], "a@b[c]": None, "empty": {}}
    assert dotted_settings(settings) == {
        "model.dim": "16",
        "model.layers.0.dim": "8",
        "model.layers.1.dim": "4",
        "tags": '["x", 1]',
        "a_b_c_": "null",
        "empty": "{}",
    }


def test_the_state_of_the_code_and_the_software_is_known(tmp_path):
    assert git_state(tmp_path).tags() == {}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file").write_text("one\n")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "Begin"], check=True)
    clean = git_state(tmp_path)
    assert clean.tags()["git.dirty"] == "false" and len(clean.sha) == 40
    (tmp_path / "file").write_text("two\n")
    dirty = git_state(tmp_path)
    assert dirty.tags() == {"git.sha": clean.sha, "git.dirty": "true"} and "+two" in dirty.text()
    assert "mlflow==" in environment_text()
