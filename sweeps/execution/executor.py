"""What runs trials: the interface of the two executors, and what a machine has to offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from titanlab.platform.errors import ConfigError, Problem
from titanlab.sweeps.execution.interruption import Interruption
from titanlab.sweeps.execution.trainable import Job
from titanlab.sweeps.execution.trial_record import TrialRecord
from titanlab.sweeps.language.sweep_file import Resources


class Watcher(Protocol):
    """Who is told what happens to trials, by key."""

    def started(self, key: str) -> None:
        """A process took the trial up."""

    def died(self, key: str) -> None:
        """Its process died; it starts again from its checkpoint."""

    def ended(self, key: str, record: TrialRecord) -> None:
        """It is over, for this session."""

    def remark(self, text: str) -> None:
        """Something happened that is of no single trial."""


class Executor(ABC):
    """Runs trials."""

    @abstractmethod
    def check(self, resources: Resources) -> None:
        """Refuses what could never start, before anything is written.

        Raises:
            ConfigError: a trial wants more than there is.
        """

    @abstractmethod
    def execute(
        self, jobs: Sequence[Job], resources: Resources, watcher: Watcher, interruption: Interruption, folder: Path
    ) -> None:
        """Runs the trials in their order, as many at a time as fit, until all ended or a stop was asked for.

        Args:
            folder: of the sweep, for files of the executor's own.
        """

    @abstractmethod
    def close(self) -> None:
        """Ends what the executor started; safe to call twice, and if nothing was."""


def check_fits(resources: Resources, nodes: Sequence[tuple[float, float]], where: str) -> None:
    """Refuses a trial that fits on no node.

    Args:
        nodes: (CPU cores, GPUs) of each.
        where: what the nodes are, as a reader knows them.

    Raises:
        ConfigError: naming the resource.
    """
    if any(resources.cpu <= cpus and resources.gpu <= gpus for cpus, gpus in nodes):
        return
    most_cpus, most_gpus = (max((node[index] for node in nodes), default=0) for index in (0, 1))
    wants, has, name = (
        (resources.gpu, most_gpus, "gpu") if resources.gpu > most_gpus else (resources.cpu, most_cpus, "cpu")
    )
    unit = "GPUs" if name == "gpu" else "CPU cores"
    raise ConfigError(
        Problem(
            f"a trial wants {wants:g} {unit}, but {where} has {has:g}; lower it, or run on another machine or cluster"
            " (--ray-address)",
            f"resources.{name}",
        )
    )
