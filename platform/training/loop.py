"""Training one run: from a configuration to a directory with metrics, a checkpoint and an outcome.

The loop is written for ranks: a single process is a world of one. All ranks compute; the main one alone writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from titanlab.platform.budgets import budget_of
from titanlab.platform.costs import model_costs
from titanlab.platform.debugging import NonFiniteError, debug, first_name
from titanlab.platform.distributed import is_main, process_group, sum_over_ranks, world_size
from titanlab.platform.errors import NonFiniteLossError
from titanlab.platform.model import Model
from titanlab.platform.run_config import RunConfig
from titanlab.platform.task import Batch, Split
from titanlab.platform.tracking.journal import Journal
from titanlab.platform.training.checkpoint import Position, load_checkpoint, save_checkpoint
from titanlab.platform.training.device import autocast, choose_device, own_random_state, seed_step
from titanlab.platform.training.meter import LossWindow, Speed
from titanlab.platform.training.optimizer import all_finite
from titanlab.platform.training.pace import Pace
from titanlab.platform.training.parallel import check_split
from titanlab.platform.training.retention import BestWeights, keep_of_complete
from titanlab.platform.training.run_directory import (
    METRICS,
    check_configuration,
    claimed,
    finished_run,
    write_configuration,
    write_outcome,
)
from titanlab.platform.training.step import TrainingStep


class Progress(NamedTuple):
    """Where a run stands, after each step."""

    step: int
    steps: int
    """Of the whole run; where seconds are its budget, what they come to at the present speed."""
    loss: float
    """Nats per counted token at the last step whose loss was read: every one on a CPU, those of a line on a GPU."""
    learning_rate: float
    tokens_per_second: float
    """Of all ranks, over the last steps, evaluation left out."""
    seconds_left: float
    """Until the last step, evaluation left out."""
    metrics: dict[str, float]
    """The line that belongs to this step in the journal; mostly empty."""


class Outcome(NamedTuple):
    """How a run ended."""

    status: Literal["complete", "stopped"]
    metrics: dict[str, float]
    """The last line: train/, val/, final/ (the test split), cost/ and memory/; empty for a stopped run."""
    step: int
    data_digest: str
    """sha256 of the task's data."""


def train(
    config: RunConfig,
    directory: Path,
    *,
    observe: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    warn: Callable[[str], None] = lambda text: None,
    pause_at: int | None = None,
) -> Outcome:
    """Trains a run in its directory: begins it, goes on from its checkpoint, or returns at once if it is complete.

    Started by torchrun, all ranks call this and return the same outcome.

    Args:
        observe: called after each step on the main rank; must be quick.
        should_stop: asked after each step (with several ranks: when losses are read); on a yes, a checkpoint is
            written and the run can go on later.
        warn: is told of a damaged file, and of what stands in for it; on every rank.
        pause_at: a step after which the run is evaluated on the validation split and stops, to go on later or never.

    Raises:
        ConfigError: device or batch size do not fit the machine or the number of ranks.
        CheckpointError: the directory holds another configuration's run.
        DiskFullError: metrics or a checkpoint cannot be written; the checkpoint of before stays.
        NonFiniteLossError: the loss became NaN or infinite; the last good checkpoint stays.
        TitanlabError: another process trains in the directory.
    """
    device = choose_device(config.train)
    with process_group(device.type), own_random_state(device):
        check_split(config.train)
        with claimed(directory) if is_main() else nullcontext():
            check_configuration(directory, config)
            finished = finished_run(directory, warn)
            if finished is not None:
                step, metrics, data_digest = finished
                return Outcome("complete", metrics, step, data_digest)
            run = _Run(config, directory, device, observe, warn)
            run.pause_at = math.inf if pause_at is None else pause_at
            with debug(config.train.debug):
                return run.run(lambda: run.pauses or should_stop())


class _Run:
    """One session of a run: what it holds in memory, and the order in which things happen."""

    def __init__(
        self,
        config: RunConfig,
        directory: Path,
        device: torch.device,
        observe: Callable[[Progress], None],
        warn: Callable[[str], None],
    ) -> None:
        self.config, self.directory, self.device, self.observe = config, directory, device, observe
        self.task = config.task.build()
        torch.manual_seed(config.train.seed)
        self.model: Model = config.model.build(config.task.vocab_size).to(device)
        self.costs = model_costs(config.model, config.task.vocab_size, config.task.row_length)
        budget = budget_of(config, self.costs)
        self.take_step = TrainingStep(self.model, config.train, device)
        position = load_checkpoint(directory, config, self.model, self.take_step.optimizer, warn) or Position()
        self.step = self.first_step = position.step
        self.gradient_norm = torch.tensor(position.gradient_norm)
        self.window = LossWindow(position.nats, position.counted)
        self.speed = Speed(position.seconds, position.tokens)
        self.pace = Pace(budget, config.train, self.speed)
        self.learning_rate = self.pace.learning_rate(self.step) if self.step else 0.0
        self.loss = position.nats[-1] / max(position.counted[-1], 1.0) if position.nats else math.nan
        self.pause_at = math.inf
        self.journal: Journal | None = None
        self.best: BestWeights | None = None
        if is_main():
            write_configuration(directory, config)
            self.journal = Journal(directory / METRICS)
            self.best = BestWeights(directory, config) if config.train.keep_weights == "best" else None

    @property
    def pauses(self) -> bool:
        """Whether this is the step, or one beyond it, at which the run was to pause."""
        return self.step >= self.pause_at

    def run(self, should_stop: Callable[[], bool]) -> Outcome:
        with self.journal or nullcontext():
            if not self.pace.at_end(self.step) and not self._train(should_stop):
                return Outcome("stopped", {}, self.step, self.task.digest)
            metrics = self._last_line()
            self._report(metrics)
            if is_main():
                write_outcome(self.directory, self.step, metrics, self.task.digest)
                keep_of_complete(self.directory, self.config)
        return Outcome("complete", metrics, self.step, self.task.digest)

    def _train(self, should_stop: Callable[[], bool]) -> bool:
        """Takes the steps that are left, each followed by its checkpoint if due; whether it came to the end."""
        train = self.config.train
        batches = self.task.train_batches(train.seed, train.batch_size, start=self.step)
        self.model.train()
        self.take_step.prepare(batch := next(batches))
        self.speed.pause_ended()
        while True:
            self._take_step(batch)
            stop = self._settle(should_stop)
            last = self.pace.at_end(self.step)
            if not last:
                self._report(self._line())
            if last or stop or self.pace.saves(self.step):
                # The last one comes before the last evaluation: a kill there costs the evaluation alone.
                self._save()
            if last or stop:
                return last
            batch = next(batches)

    def _take_step(self, batch: Batch) -> None:
        train = self.config.train
        self.step += 1
        seed_step(train.seed, self.step)
        self.learning_rate = self.pace.learning_rate(self.step)
        with self._naming_layers():
            nats, counted, self.gradient_norm = self.take_step(batch, self.learning_rate)
        self.window.add(nats, counted)
        self.speed.add(batch.ids.numel())

    @contextmanager
    def _naming_layers(self) -> Iterator[None]:
        """Turns what debug mode finds into the end of the run, with the layer's name."""
        try:
            yield
        except NonFiniteError as error:
            layer = first_name(self.model, error)
            self._refuse(f"{f'{layer}: ' if layer else ''}{error}, at step {self.step}", self.step)

    def _settle(self, should_stop: Callable[[], bool]) -> bool:
        """Reads the losses in the steps that wait for the device anyway; whether all ranks are to stop."""
        alone = world_size() == 1
        stop = alone and should_stop()
        if stop or self._reads_losses():
            self._take_losses(self.window.read())
            self.speed.lap()
            self.pace.take_time()
            if not alone:
                stop = sum_over_ranks([should_stop()])[0] > 0
        return stop

    def _reads_losses(self) -> bool:
        train = self.config.train
        waits_for_nothing = self.device.type == "cpu" and world_size() == 1
        first_or_last = self.step == self.first_step + 1 or self.pace.at_end(self.step)
        due = self._due(train.log_every) or self._due(train.evaluate_every) or self.pace.saves(self.step)
        return waits_for_nothing or self.pace.is_timed or first_or_last or due or self.pauses

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _take_losses(self, losses: list[float]) -> None:
        for step, loss in enumerate(losses, start=self.step - len(losses) + 1):
            if not math.isfinite(loss):
                self._refuse(f"the loss became {loss} at step {step}", step)
            self.loss = loss
        if not math.isfinite(float(self.gradient_norm)):
            self._refuse(f"the gradient became {float(self.gradient_norm)} at step {self.step}", self.step)

    def _refuse(self, what: str, step: int) -> None:
        raise NonFiniteLossError(
            f"{what} of {self.pace.steps(step)}; the last finite loss was {self.loss:.4g}, the learning rate "
            f"{self.pace.learning_rate(step):.3g}. Try a lower `train.learning_rate`, a longer "
            "`train.warmup`, a smaller `train.clip`, or a smaller step of the memory; a checkpoint from before it stays"
        )

    def _line(self) -> dict[str, float]:
        """The metrics due after this step; none after most steps."""
        metrics: dict[str, float] = {}
        if self._due(self.config.train.log_every):
            metrics |= self._train_metrics()
        if self._due(self.config.train.evaluate_every) or self.pauses:
            metrics |= self._evaluate("val", "val")
        return metrics

    def _last_line(self) -> dict[str, float]:
        metrics = self._train_metrics() | self._evaluate("val", "val")
        if self.config.train.evaluate_test:
            metrics |= self._evaluate("test", "final")
        return metrics | self.speed.metrics() | {"cost/steps": float(self.step)} | self.costs.metrics()

    def _train_metrics(self) -> dict[str, float]:
        metrics = {
            "train/loss": self.window.mean(),
            "train/learning_rate": self.learning_rate,
            "train/gradient_norm": float(self.gradient_norm),
        }
        self.window.clear()
        if self.pace.is_timed:
            metrics["cost/seconds"] = self.pace.seconds
        flops = self.costs.training_flops(self.speed.tokens)
        return metrics if flops is None else metrics | {"cost/flops": flops}

    def _evaluate(self, split: Split, prefix: str) -> dict[str, float]:
        self.model.eval()
        seed_step(self.config.train.seed, self.step)
        with torch.no_grad(), autocast(self.config.train, self.device), self._naming_layers():
            metrics = self.task.evaluate(self.model, split)
        self.model.train()
        self.speed.pause_ended()
        return {f"{prefix}/{name}": float(value) for name, value in metrics.items()}

    def _report(self, metrics: dict[str, float]) -> None:
        if self.journal is None:
            return
        if metrics:
            self.journal.write(self.step, metrics)
            if self.best is not None:
                self.best.offer(self.step, metrics, self.model)
        self.observe(
            Progress(
                step=self.step,
                steps=self.pace.steps(self.step),
                loss=self.loss,
                learning_rate=self.learning_rate,
                tokens_per_second=self.speed.tokens_per_second,
                seconds_left=self.pace.seconds_left(self.step),
                metrics=metrics,
            )
        )

    def _save(self) -> None:
        if not all_finite(self.model):
            self._refuse(f"the weights became non-finite by step {self.step}", self.step)
        if self.journal is not None:
            position = Position(
                step=self.step,
                nats=self.window.nats,
                counted=self.window.counted,
                gradient_norm=float(self.gradient_norm),
                seconds=self.speed.seconds,
                tokens=self.speed.tokens,
            )
            self.journal.sync()
            save_checkpoint(self.directory, self.config, self.model, self.take_step.optimizer, position)
        self.speed.pause_ended()
