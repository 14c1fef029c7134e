"""A trial's journal, sent to its MLflow run: from a thread beside the training, or replayed later.

The run's metric `progress/step` is the high-water mark: it goes in the same batch as the points it stands for, so
whoever sends next - after a kill, another process - starts behind it and no point is there twice.
"""

from __future__ import annotations

import gc
import math
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from titanlab.platform.tracking.client import import_mlflow, one_line, tracking_client
from titanlab.platform.tracking.datasets import log_data
from titanlab.platform.tracking.journal import Point, read_journal
from titanlab.platform.tracking.naming import LONGEST_VALUE, clean_key
from titanlab.platform.tracking.system_metrics import SystemMeter

if TYPE_CHECKING:
    from mlflow import MlflowClient

HIGH_WATER = "progress/step"
BATCH = 900  # metrics; MLflow takes at most 1000 in a request


def high_water(client: MlflowClient, run_id: str) -> int:
    """The last step the run has, or -1."""
    return int(client.get_run(run_id).data.metrics.get(HIGH_WATER, -1))


def send_points(client: MlflowClient, run_id: str, points: Sequence[Point]) -> None:
    """Sends points in batches that each end with their `progress/step`; values that are no numbers become tags."""
    from mlflow.entities import Metric

    metrics: list[Metric] = []
    for point in points:
        if len(metrics) + len(point.metrics) + 1 > BATCH:
            _send_batch(client, run_id, metrics)
            metrics = []
        stamp = int(point.time * 1000)
        finite = {key: value for key, value in point.metrics.items() if math.isfinite(value)}
        metrics += [Metric(clean_key(key), value, stamp, point.step) for key, value in finite.items()]
        metrics.append(Metric(HIGH_WATER, float(point.step), stamp, point.step))
        for key in point.metrics.keys() - finite.keys():
            client.set_tag(run_id, clean_key(f"nonfinite.{key}"), f"{point.metrics[key]} at step {point.step}")
    if metrics:
        _send_batch(client, run_id, metrics)


def _send_batch(client: MlflowClient, run_id: str, metrics: list) -> None:
    # The marks of earlier points in the batch say nothing once the last one is there.
    last = metrics[-1]
    client.log_batch(run_id, metrics=[metric for metric in metrics if metric.key != HIGH_WATER] + [last])


def finish_run(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Marks a run whose every point is sent as FINISHED: the last thing that happens to it.

    Args:
        tags: among them `data.digest`, by which its data are listed.
    """
    if digest := tags.get("data.digest"):
        log_data(client, run_id, digest)
    set_tags(client, run_id, {"trial.stop_reason": "complete", **tags})
    client.set_terminated(run_id, "FINISHED")


def set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Sets tags in one request."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(clean_key(key), value[:LONGEST_VALUE]) for key, value in tags.items()])


def replay(client: MlflowClient, run_id: str, journal: Path) -> None:
    """Sends what the journal holds beyond the run's high-water mark."""
    send_points(client, run_id, read_journal(journal, after=high_water(client, run_id)))


class JournalSync:
    """Sends a growing journal from a thread of its own. It never raises and never holds the training up.

    When the server fails it tries again later, ever more rarely; what is not sent in the end, the driver replays.

    Args:
        tracking_uri: the MLflow server or database.
        run_id: a run that exists; this class creates none.
        journal: the trial's metrics.jsonl.
    """

    SHORTEST_PAUSE = 1.0
    LONGEST_PAUSE = 60.0
    PATIENCE, LAST_PATIENCE = 15.0, 2.0
    PAUSE_PER_COST = 50  # so that sending takes at most 2 % of the time

    def __init__(self, tracking_uri: str, run_id: str, journal: Path) -> None:
        self.tracking_uri, self.run_id, self.journal = tracking_uri, run_id, journal
        self.error = ""
        """Why the last attempt failed; empty if it did not."""
        self._tags: dict[str, str] = {}
        self._client: MlflowClient | None = None
        self._meter = SystemMeter()
        self._sent = -1
        self._finished: Mapping[str, str] | None = None
        self._done, self._abandoned = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)

    def prepare(self) -> None:
        """Imports MLflow; called before the training, since in a thread beside it the import holds up both."""
        if "mlflow" in sys.modules:
            return
        try:
            import_mlflow(self.tracking_uri)
        except Exception as error:  # the training does not need it
            self.error = one_line(error)
        gc.freeze()  # else the collector goes through all imported objects during the training: 5 % of its time

    def start(self, tags: Mapping[str, str]) -> None:
        """Marks the run RUNNING with these tags and begins to send."""
        self._tags = dict(tags)
        self._thread.start()

    def close(self, *, finished: Mapping[str, str] | None = None) -> bool:
        """Sends the rest, but waits for a server only so long, and for one that failed before hardly at all.

        Args:
            finished: marks the run FINISHED with these tags; None leaves its status to the driver.

        Returns:
            Whether everything reached the server.
        """
        self._finished = finished
        self._done.set()
        self._thread.join(self.LAST_PATIENCE if self.error else self.PATIENCE)
        self._abandoned.set()
        return not self._thread.is_alive() and not self.error

    def _run(self) -> None:
        pause = 0.0
        while not self._done.wait(pause):
            cost = self._attempt()
            shortest = 10 * self.SHORTEST_PAUSE if self.error else self.SHORTEST_PAUSE
            pause = min(max(shortest, self.PAUSE_PER_COST * cost), self.LONGEST_PAUSE)
        self._attempt()
        if self._finished is not None and self._client is not None and not self.error:
            self._guard(lambda client: finish_run(client, self.run_id, self._finished or {}))

    def _attempt(self) -> float:
        """Sends what is new; the seconds it took, connecting left out."""
        if self._client is None:
            self._guard(self._connect)
        began = time.perf_counter()
        if self._client is not None:
            self._guard(self._send)
        return time.perf_counter() - began

    def _guard(self, act: Callable[[MlflowClient], None]) -> None:
        """Does one thing with the server; whatever goes wrong there must not reach the training."""
        if self._abandoned.is_set():
            return
        try:
            act(self._client or tracking_client(self.tracking_uri))
            self.error = ""
        except Exception as error:  # the journal has it all: the driver replays what is missing
            self.error = one_line(error)
            self._client = None  # the server may have taken a batch it did not acknowledge: ask it for its mark again

    def _connect(self, client: MlflowClient) -> None:
        self._sent = high_water(client, self.run_id)
        client.update_run(self.run_id, status="RUNNING")
        set_tags(client, self.run_id, self._tags)
        self._client = client

    def _send(self, client: MlflowClient) -> None:
        points = read_journal(self.journal, after=self._sent)
        if points:
            # Of this moment and this process, so no part of the journal; sent with its last point, each goes once.
            points[-1] = points[-1]._replace(metrics=points[-1].metrics | self._meter.read())
        send_points(client, self.run_id, points)
        if points:
            self._sent = points[-1].step
