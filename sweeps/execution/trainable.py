"""One trial, run where an executor puts it: it gets plain data and never raises for a trial's own fault.

An error that a retry would repeat is returned as the trial's record. So whatever makes Ray start a trial again is a
process that died, and the trial goes on from its checkpoint.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from titanlab.platform.config import problems_of
from titanlab.platform.errors import ConfigError, DiskFullError
from titanlab.platform.plugins import Plugin, install
from titanlab.platform.run_config import RunConfig
from titanlab.platform.tracking.sync import JournalSync
from titanlab.platform.training.loop import train
from titanlab.platform.training.run_directory import METRICS
from titanlab.sweeps.execution.failure import failure_of
from titanlab.sweeps.execution.trial_record import TrialRecord, begin_attempt, write_failure


@dataclass(frozen=True)
class Job:
    """What a process needs to run a trial; plain data, so that it travels."""

    key: str
    settings: dict[str, Any]
    """The resolved configuration, `RunConfig.settings()`."""
    folder: str
    """Absolute; on a cluster, on storage that every node sees."""
    run_id: str
    tracking_uri: str
    plugins: tuple[Plugin, ...]
    cpu: float
    gpu: float
    stop_file: str
    """A trial that sees this file writes a checkpoint and stops."""
    pause_at: int | None = None
    """A step after which it stops, evaluated on the validation split; see `titanlab.sweeps.tuning.halving`."""


def run_trial(job: Job) -> TrialRecord:
    """Trains a trial to its end, its stop or its failure, and keeps a failure in its folder."""
    folder = Path(job.folder)
    if Path(job.stop_file).exists():
        return TrialRecord("stopped")  # its turn came after the driver was asked to stop
    sync = JournalSync(job.tracking_uri, job.run_id, folder / METRICS)
    sync.prepare()
    try:
        attempt = begin_attempt(folder)
    except (DiskFullError, OSError) as error:
        return failure_of(error)
    sync.start({"trial.attempt": str(attempt)})
    record, finished = _train(job, folder)
    if record.failed:
        with suppress(DiskFullError, OSError):  # the driver has the record, and tries too
            write_failure(folder, record)
    sync.close(finished=finished)
    return record


def _train(job: Job, folder: Path) -> tuple[TrialRecord, dict[str, str] | None]:
    """The trial's record, and the tags of a finished run."""
    warnings: list[str] = []
    try:
        for plugin in job.plugins:
            install(plugin)
        with _threads(job.cpu):
            stop = _stop_check(Path(job.stop_file))
            outcome = train(_config(job), folder, should_stop=stop, warn=warnings.append, pause_at=job.pause_at)
    except (Exception, SystemExit) as error:  # a plug-in may raise anything; it must cost no other trial anything
        return failure_of(error, warnings), None
    record = TrialRecord(outcome.status, outcome.step, dict(outcome.metrics), warnings=warnings)
    return record, {"data.digest": outcome.data_digest} if outcome.status == "complete" else None


def _config(job: Job) -> RunConfig:
    try:
        config = RunConfig.model_validate(job.settings)
    except ValidationError as error:
        raise ConfigError(problems_of(error, lambda path: (".".join(map(str, path)), None))) from None
    if job.gpu == 0 and config.train.device == "auto":
        # Ray hides no GPU from a trial that asked for none.
        return config.replace(train=config.train.replace(device="cpu"))
    return config


def _stop_check(stop_file: Path) -> Callable[[], bool]:
    """Whether the driver asked to stop; asks the disk at most once a second."""
    asked, answer = 0.0, False

    def check() -> bool:
        nonlocal asked, answer
        now = time.monotonic()
        if not answer and now - asked >= 1.0:
            asked, answer = now, stop_file.exists()
        return answer

    return check


@contextmanager
def _threads(cpu: float) -> Iterator[None]:
    """As many threads as the trial has cores: more would slow its neighbours, and change the last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, int(cpu)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tune_trial(config: Mapping[str, Any], jobs: Mapping[str, Job], folder: str) -> None:
    """The function that Ray Tune calls; lives in an importable module, so that it travels by name.

    Args:
        folder: the driver's working folder, where relative paths of a configuration start.
    """
    from ray import tune

    if Path(folder).is_dir():
        os.chdir(folder)  # a cluster's processes start where the cluster was started
    tune.report({"record": json.dumps(asdict(run_trial(jobs[config["trial"]])))})
