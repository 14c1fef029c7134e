"""`--probe`: a few real steps of every different model of a sweep, in a process of their own, within a time limit."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Self

import torch

from titanlab.platform.plugins import Plugin, install
from titanlab.platform.run_config import RunConfig
from titanlab.platform.training.measured_steps import MeasuredStep, measured_steps
from titanlab.sweeps.language.sweep_file import Resources
from titanlab.sweeps.planning.plan import Cell, Plan

STEPS = 3
LIMIT = 60.0
"""Seconds of a whole probe, the start of its process included."""


@dataclass(frozen=True)
class Probed:
    """What the steps of a cell's model took."""

    steps: tuple[MeasuredStep, ...] = ()
    failure: str = ""
    """Why there are fewer than `STEPS`."""

    @property
    def seconds(self) -> float | None:
        """Of a step: the mean of those after the first, which sets things up; None without a step."""
        later = [step.seconds for step in self.steps[1:] or self.steps]
        return sum(later) / len(later) if later else None

    @property
    def peak_bytes(self) -> int | None:
        """The most memory of its process, or of its GPU."""
        return max((step.peak_bytes for step in self.steps), default=None)


def probe(plan: Plan, plugins: Sequence[Plugin], limit: float = LIMIT) -> dict[str, Probed]:
    """Takes steps of every different model, the largest first, until the time is up.

    Args:
        plugins: loaded; the process loads them again.
        limit: seconds in all.

    Returns:
        By cell key; cells that differ in nothing that decides a step's time share theirs. What the time did not suffice
        for is left out.
    """
    deadline = time.monotonic() + limit
    groups: dict[Hashable, list[Cell]] = {}
    for cell in sorted(plan.cells, key=_size, reverse=True):
        groups.setdefault(_what_decides(cell), []).append(cell)
    found: dict[str, Probed] = {}
    with _Worker(plugins, plan.resources) as worker:
        for cells in groups.values():
            if time.monotonic() >= deadline:
                break
            probed = worker.measure(cells[0].trials[0].config, deadline)
            if probed.steps or probed.failure:
                found.update((cell.key, probed) for cell in cells)
    return found


def _size(cell: Cell) -> tuple[float, int]:
    return cell.budget.step_flops or 0.0, cell.parameters


def _what_decides(cell: Cell) -> Hashable:
    """What a step's time and memory depend on."""
    run = cell.trials[0].config
    train = (run.train.batch_size, run.train.accumulate, run.train.precision, run.train.device, run.train.debug)
    return run.model.model_dump_json(), run.task.model_dump_json(), train


class _Worker:
    """The process that takes the steps; one that dies takes none of this one's work with it, and is replaced."""

    def __init__(self, plugins: Sequence[Plugin], resources: Resources) -> None:
        self.plugins, self.resources = plugins, resources
        self._process: Any = None
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def measure(self, config: RunConfig, deadline: float) -> Probed:
        """Takes steps of a run until they are done, it fails or the time is up."""
        connection = self._connection or self._start()
        steps: list[MeasuredStep] = []
        try:
            connection.send(_placed(config, self.resources).settings())
            while len(steps) < STEPS:
                if not connection.poll(max(0.0, deadline - time.monotonic())):
                    self._end()
                    return Probed(tuple(steps), f"the time was up after {len(steps)} steps")
                told = connection.recv()
                if isinstance(told, str):
                    return Probed(tuple(steps), told)
                steps.append(MeasuredStep(*told))
        except (EOFError, OSError):
            self._process.join(5)
            code = self._process.exitcode
            self._end()
            killed = code is not None and code < 0
            what = f"was killed by signal {-code}; is there enough memory?" if killed else f"ended with {code}"
            return Probed(tuple(steps), f"its process {what}")
        return Probed(tuple(steps))

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        connection, other = context.Pipe()
        arguments = (other, tuple(self.plugins), self.resources.cpu)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        other.close()  # so that the end of the process is seen here
        self._connection = connection
        return connection

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._process.kill()
            self._process.join()
            self._connection = None


def _placed(config: RunConfig, resources: Resources) -> RunConfig:
    """On the CPU where a trial gets no GPU, as in the sweep itself."""
    if resources.gpu == 0 and config.train.device == "auto":
        return config.replace(train=config.train.replace(device="cpu"))
    return config


def _serve(connection: Connection, plugins: Sequence[Plugin], cpu: float) -> None:
    """The process's work: for each configuration it is sent, a tuple a step; a sentence instead if that fails."""
    torch.set_num_threads(max(1, int(cpu)))
    for plugin in plugins:
        install(plugin)
    while True:
        try:
            settings: Mapping[str, Any] = connection.recv()
        except EOFError:
            return
        try:
            for step in measured_steps(RunConfig.model_validate(settings), STEPS):
                connection.send(tuple(step))
        except (Exception, SystemExit) as error:  # a model may fail in any way, and the others are still to come
            connection.send(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
