"""What the ledger is told: a sweep, its trials, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class TrialEntry:
    """A trial as the ledger keeps it."""

    key: str
    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    config_text: str
    """The resolved configuration as YAML, kept as an artifact."""
    folder: Path
    note: str = ""
    """What its page says, in Markdown."""
    kind: Literal["trial", "tune"] = "trial"
    """`tune`: it serves to choose settings and is no part of the comparison; its run's tag `run.kind`."""


@dataclass(frozen=True)
class SweepEntry:
    """A sweep as the ledger keeps it."""

    id: str
    name: str
    metric: str
    direction: str
    tags: Mapping[str, str]
    """Of every run."""
    artifacts: Mapping[str, str]
    """File name -> text, kept with the parent."""
    trials: Sequence[TrialEntry]
    others: frozenset[str] = frozenset()
    """Keys of its trials that are not touched this time; it is finished once they are, too."""
    note: str = ""
    """What the parent's page says, in Markdown."""
    view: str = ""
    """How MLflow's charts open, `chart_view.saved_view`."""


@dataclass(frozen=True)
class Ending:
    """What became of a trial, as its run shall say it."""

    status: str
    """MLflow's: FINISHED, FAILED or KILLED."""
    stop_reason: str
    """complete, diverged, out_of_memory, disk_full, failed, interrupted or given_up."""
    error_type: str = ""
    message: str = ""
    traceback: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The last ones; the best trial's are shown on the parent."""
    data_digest: str = ""
    """Of what a finished one was trained on."""
    warning: str = ""
    """What went wrong and was mended."""
    name: str = ""
    """Of its run, where no entry says it."""
    is_over: bool = False
    """Whether nothing is missing although the run is not FINISHED: a trial of the tuning that was given up."""
