"""One trial, run where an executor puts it: it gets plain data and never raises for a trial's own fault.

An error that a retry would repeat is returned as the trial's record. So whatever makes Ray start a trial again is a
process that died, and the trial goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from titanlab.platform.config import problems_of
from titanlab.platform.errors import ConfigError, NonFiniteLossError
from titanlab.platform.plugins import Plugin, install
from titanlab.platform.run_config import RunConfig
from titanlab.platform.task import TASKS
from titanlab.platform.tracking.sync import JournalSync
from titanlab.platform.training.loop import train
from titanlab.sweeps.trial_record import TrialRecord, begin_attempt, read_record, training


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


def run_trial(job: Job) -> TrialRecord:
    """Trains a trial to its end, its stop or its failure, and keeps the record in its folder."""
    folder = Path(job.folder)
    with training(folder):
        record = read_record(folder)
        if record is None or record.status != "complete":
            attempt = begin_attempt(folder)
        else:
            attempt = record.attempt
        sync = JournalSync(job.tracking_uri, job.run_id, folder / "metrics.jsonl")
        sync.start({"trial.attempt": str(attempt)})
        digest = ""
        if record is None or record.status != "complete":
            record, digest = _train(job, folder, attempt)
            record.write(folder)
        tags = {"data.digest": digest} if digest else {}
        sync.close(finished=tags if record.status == "complete" else None)
    return record


def _train(job: Job, folder: Path, attempt: int) -> tuple[TrialRecord, str]:
    digest = ""
    try:
        for plugin in job.plugins:
            install(plugin)
        config = _config(job)
        with _threads(job.cpu):
            digest = _data_digest(config)
            outcome = train(config, folder, should_stop=_stop_check(Path(job.stop_file)))
    except NonFiniteLossError as error:
        return _failure("diverged", error, attempt), digest
    except (Exception, SystemExit) as error:  # a plug-in may raise anything; it must cost no other trial anything
        return _failure("out_of_memory" if _is_out_of_memory(error) else "failed", error, attempt), digest
    return TrialRecord(outcome.status, outcome.step, dict(outcome.metrics), attempt=attempt), digest


def _config(job: Job) -> RunConfig:
    try:
        config = RunConfig.model_validate(job.settings)
    except ValidationError as error:
        raise ConfigError(problems_of(error, lambda path: (".".join(map(str, path)), None))) from None
    if job.gpu == 0 and config.train.device == "auto":
        # Ray hides no GPU from a trial that asked for none.
        return config.replace(train=config.train.replace(device="cpu"))
    return config
