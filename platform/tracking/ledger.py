"""The driver's side of tracking: one parent run, one child run per trial, found again by their tags.

The driver alone creates runs and alone knows what became of a trial that cannot say it itself. It holds the sweep's
lock (`Store.driving`) all the while. Whatever was RUNNING when it comes was left by a driver that died.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from titanlab.platform.tracking.chart_view import VIEW_TAG
from titanlab.platform.tracking.client import TrackingError, one_line, tracking_client
from titanlab.platform.tracking.ledger_entries import Ending, SweepEntry, TrialEntry
from titanlab.platform.tracking.naming import clean_key
from titanlab.platform.tracking.notes import NOTE, own_note, write_note
from titanlab.platform.tracking.store import Store, SweepRuns
from titanlab.platform.tracking.sync import finish_run, replay, set_tags

if TYPE_CHECKING:
    from mlflow.entities import Run

PARENT = "mlflow.parentRunId"


class Ledger:
    """A sweep in MLflow.

    Args:
        store: where; the caller holds `store.driving(sweep.id)`.
        sweep: what shall be there.
    """

    def __init__(self, store: Store, sweep: SweepEntry) -> None:
        self.store, self.sweep = store, sweep
        self.entries = {entry.key: entry for entry in sweep.trials}
        self.run_ids: dict[str, str] = {}
        """Trial key -> run id, once opened."""
        self.unsent: list[str] = []
        """What the server did not take; the same command again sends it."""
        has_view = bool(sweep.view)
        self._runs = SweepRuns("", "", sweep.id, sweep.metric, sweep.direction, store.tracking_uri, has_view)

    def open(self) -> SweepRuns:
        """Creates what is missing, mends what a killed driver left, and marks the sweep RUNNING.

        Raises:
            TrackingError: the server does not answer: nothing was run yet, so this is the moment to say so.
        """
        with self.store.setting_up(), self._answering():
            self._client = tracking_client(self.store.tracking_uri)
            experiment = self._experiment()
            parent = self._parent(experiment)
            self._runs = replace(self._runs, experiment_id=experiment, parent_run_id=parent)
            self._runs.write(self.store.sweep(self.sweep.id))
            children = self._children()
            for run in children.values():
                if run.info.status == "RUNNING":
                    self._interrupt(run.info.run_id)
            for entry in self.sweep.trials:
                self.run_ids[entry.key] = self._prepare(entry, children.get(entry.key))
        return self._runs

    def add(self, trials: Sequence[TrialEntry]) -> None:
        """Takes up trials that became known while the sweep runs; a server that is gone stops none of them."""
        new = [entry for entry in trials if entry.key not in self.entries]
        self.entries.update({entry.key: entry for entry in new})
        self.run_ids.update({entry.key: "" for entry in new})
        if new:
            self._attempt(lambda: self._prepare_all(new))

    def _prepare_all(self, entries: Sequence[TrialEntry]) -> None:
        with self.store.setting_up():
            children = self._children()
            for entry in entries:
                self.run_ids[entry.key] = self._prepare(entry, children.get(entry.key))
            set_tags(self._client, self._runs.parent_run_id, {"sweep.trials": str(len(self.entries))})

    def close(self, endings: Mapping[str, Ending], *, interrupted: bool, whole: bool = True) -> None:
        """Writes what became of every trial, and of the sweep; a server that is gone leaves `unsent` behind.

        Args:
            endings: by trial key; a trial that is not named was not begun.
            interrupted: whether the driver was asked to stop.
            whole: whether the ledger knows all trials of the sweep: not before its tuning has ended.
        """
        try:
            children = self._children()
        except Exception as error:  # MLflow raises many kinds, each of which only means: not now
            self.unsent.append(one_line(error))
            return
        for key, run in children.items():
            self._attempt(lambda key=key, run=run: self._settle(run, endings.get(key)))  # type: ignore[misc]
        others = {key: _ending_of(run) for key, run in children.items() if key in self.sweep.others}
        self._attempt(lambda: self._close_parent({**others, **endings}, interrupted, whole))

    def annotate(self, note: str) -> None:
        """Replaces what the parent's page says, once there is more to say than the plan."""
        self._attempt(lambda: write_note(self._client, self._runs.parent_run_id, note))

    def _settle(self, run: Run, ending: Ending | None) -> None:
        """Makes a run say what became of its trial; a finished one is left alone."""
        run_id, status = run.info.run_id, run.info.status
        if ending is None:
            if status == "RUNNING":
                self._interrupt(run_id)
            return
        if ending.warning:
            set_tags(self._client, run_id, {"trial.warning": ending.warning})
        if ending.status == "FINISHED":
            if status != "FINISHED":
                replay(self._client, run_id, self.entries[run.data.tags["trial.key"]].folder / "metrics.jsonl")
                finish_run(self._client, run_id, {"data.digest": ending.data_digest} if ending.data_digest else {})
            return
        replay(self._client, run_id, self.entries[run.data.tags["trial.key"]].folder / "metrics.jsonl")
        if ending.status == "KILLED":
            self._interrupt(run_id, ending.stop_reason)
            return
        tags = {
            "trial.stop_reason": ending.stop_reason,
            "error.type": ending.error_type,
            "error.message": ending.message,
        }
        set_tags(self._client, run_id, tags)
        if ending.traceback:
            self._client.log_text(run_id, ending.traceback, "traceback.txt")
        self._client.set_terminated(run_id, "FAILED")

    def _close_parent(self, endings: Mapping[str, Ending], interrupted: bool, whole: bool) -> None:
        parent = self._runs.parent_run_id
        over = {key for key, ending in endings.items() if ending.is_over or ending.status == "FINISHED"}
        statuses = {endings[key].status for key in endings.keys() - over}
        complete = whole and {*self.entries, *self.sweep.others} <= over
        best = self._best(endings)
        if best:
            self._show_best(parent, best, endings[best])
        if not complete and whole and not interrupted and self.entries.keys() <= over and "FAILED" not in statuses:
            self._client.update_run(parent, status="SCHEDULED")  # a part is done; the others wait
            return
        failed = "FAILED" if "FAILED" in statuses and not interrupted else "KILLED"
        self._client.set_terminated(parent, "FINISHED" if complete else failed)

    def _best(self, endings: Mapping[str, Ending]) -> str | None:
        metric, sign = self.sweep.metric, -1 if self.sweep.direction == "max" else 1
        ranked = [
            (sign * ending.metrics[metric], key)
            for key, ending in endings.items()
            if ending.status == "FINISHED" and metric in ending.metrics
            if key in self.sweep.others or self.entries[key].kind == "trial"
        ]
        return min(ranked)[1] if ranked else None

    def _show_best(self, parent: str, key: str, ending: Ending) -> None:
        """The UI draws nothing for a parent without metrics of its own."""
        from math import isfinite

        known = self._client.get_run(parent).data.metrics
        for name, value in ending.metrics.items():
            if name.startswith("final/") and isfinite(value) and known.get(name) != value:
                self._client.log_metric(parent, clean_key(name), value)
        set_tags(self._client, parent, {"best.trial": key, "best.name": ending.name or self.entries[key].name})

    def _experiment(self) -> str:
        """One experiment a sweep, named like it."""
        name = self.sweep.id
        found = self._client.get_experiment_by_name(name)
        if found is None:
            place = self.store.artifact_location
            return self._shown(self._client.create_experiment(name, artifact_location=place))
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"the MLflow experiment '{name}' was deleted; restore it in the UI or give the sweep another name"
            )
        return self._shown(found.experiment_id)

    def _shown(self, experiment: str) -> str:
        if self.sweep.view:
            self._client.set_experiment_tag(experiment, VIEW_TAG, self.sweep.view)
        return experiment

    def _parent(self, experiment: str) -> str:
        filters = f"tags.`sweep.id` = '{self.sweep.id}' and tags.`run.kind` = 'sweep'"
        found = self._client.search_runs([experiment], filters, max_results=1, order_by=["attributes.start_time ASC"])
        tags = {
            **self.sweep.tags,
            "run.kind": "sweep",
            "sweep.trials": str(len(self.entries) + len(self.sweep.others)),
            "objective.metric": self.sweep.metric,
            "objective.direction": self.sweep.direction,
        }
        if found:
            run_id = found[0].info.run_id
            self._client.update_run(run_id, status="RUNNING")
        else:
            noted = {**tags, NOTE: own_note(self.sweep.note)} if self.sweep.note else tags
            run_id = self._client.create_run(experiment, run_name=self.sweep.name, tags=noted).info.run_id
        set_tags(self._client, run_id, tags)
        for name, text in self.sweep.artifacts.items():
            self._client.log_text(run_id, text, name)
        return run_id

    def _children(self) -> dict[str, Run]:
        """Every child run of the sweep by trial key, also those of an earlier, longer grid."""
        filters = f"tags.`sweep.id` = '{self.sweep.id}' and tags.`run.kind` != 'sweep'"
        runs: dict[str, Run] = {}
        token = None
        while True:
            page = self._client.search_runs(
                [self._runs.experiment_id],
                filters,
                max_results=1000,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            for run in page:
                runs.setdefault(run.data.tags["trial.key"], run)
            token = page.token
            if not token:
                return runs

    def _prepare(self, entry: TrialEntry, run: Run | None) -> str:
        """Makes a trial's run hold what the plan says; one that is not finished waits as SCHEDULED."""
        from mlflow.entities import Param

        tags = {
            **self.sweep.tags,
            **entry.tags,
            PARENT: self._runs.parent_run_id,
            "run.kind": entry.kind,
            "trial.key": entry.key,
            "trial.folder": str(entry.folder),
        }
        is_new = run is None
        if run is None:
            noted = {**tags, NOTE: entry.note} if entry.note else tags  # later it is the reader's to change
            run = self._client.create_run(self._runs.experiment_id, run_name=entry.name, tags=noted)
        run_id = run.info.run_id
        finished = run.info.status == "FINISHED"
        # What a finished run was made with stays; the names that the sweep's file gives it may change.
        renamed = {
            key: value for key, value in (entry.tags if finished else tags).items() if run.data.tags.get(key) != value
        }
        if renamed:
            set_tags(self._client, run_id, renamed)
        for key in ("error.type", "error.message"):  # of the attempt before
            if not finished and key in run.data.tags:
                self._client.delete_tag(run_id, key)
        missing = [Param(key, value) for key, value in entry.params.items() if key not in run.data.params]
        for start in range(0, len(missing), 100):
            self._client.log_batch(run_id, params=missing[start : start + 100])
        if finished:
            return run_id
        if is_new or missing:
            self._client.log_text(run_id, entry.config_text, "config.yaml")
        self._client.update_run(run_id, status="SCHEDULED")
        return run_id

    def _interrupt(self, run_id: str, reason: str = "interrupted") -> None:
        set_tags(self._client, run_id, {"trial.stop_reason": reason})
        self._client.set_terminated(run_id, "KILLED")

    def _attempt(self, act: Callable[[], None]) -> None:
        """Does one thing; a server that went away must not hide what became of the trials."""
        if self.unsent:
            return  # it was gone a moment ago: do not wait for it once a trial
        try:
            act()
        except Exception as error:
            self.unsent.append(one_line(error))

    @contextmanager
    def _answering(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            where = self.store.tracking_uri
            raise TrackingError(f"the tracking server at {where} cannot be used: {one_line(error)}") from error


def _ending_of(run: Run) -> Ending:
    """What became of a trial earlier, by its run."""
    return Ending(run.info.status, "", metrics=run.data.metrics, name=run.info.run_name or "")
