"""How far a run is in its budget: its learning rate, its checkpoints and its end follow from that."""

from __future__ import annotations

import math

from titanlab.platform.budgets import Budget
from titanlab.platform.distributed import sum_over_ranks, world_size
from titanlab.platform.run_config import TrainConfig
from titanlab.platform.training.meter import Speed
from titanlab.platform.training.schedule import learning_rate, learning_rate_at

CHECKPOINTS = 10
"""Over a run that does not say how often."""


class Pace:
    """Counts steps, or the seconds of training steps where those are the budget.

    With seconds, every rank goes by the mean of all ranks' clocks, so they agree on the rate and on the last step.

    Args:
        speed: measures the seconds, those of earlier sessions included.
    """

    def __init__(self, budget: Budget, config: TrainConfig, speed: Speed) -> None:
        self.budget, self.config, self.speed = budget, config, speed
        self.seconds = self._before = speed.seconds

    @property
    def is_timed(self) -> bool:
        """Whether seconds are the budget; the clock is then read after every step, and a GPU waited for."""
        return self.budget.steps is None

    def take_time(self) -> None:
        """Reads the clock of a timed run, after `Speed.lap`; all ranks call it, and go on with what they agree on."""
        if self.is_timed:
            self._before = self.seconds
            self.seconds = self.speed.seconds = sum_over_ranks([self.speed.seconds])[0] / world_size()

    def at_end(self, step: int) -> bool:
        """Whether the budget is spent after step `step`."""
        return self.seconds >= self.budget.amount if self.budget.steps is None else step >= self.budget.steps

    def learning_rate(self, step: int) -> float:
        """The rate of step `step`, counted from 1; with seconds, by the fraction of them that has passed before it."""
        if self.budget.steps is None:
            return learning_rate_at(self.seconds / self.budget.amount, self.config)
        return learning_rate(step, self.budget.steps, self.config)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after step `step`."""
        if self.config.checkpoint_every:
            return step % self.config.checkpoint_every == 0
        if self.budget.steps is not None:
            return step % math.ceil(self.budget.steps / CHECKPOINTS) == 0
        tenth = self.budget.amount / CHECKPOINTS
        return self.seconds // tenth > self._before // tenth

    def seconds_left(self, step: int) -> float:
        """Of training, after step `step`."""
        if self.budget.steps is None:
            return max(0.0, self.budget.amount - self.seconds)
        return self.speed.seconds_per_step * (self.budget.steps - step)

    def steps(self, step: int) -> int:
        """Of the whole run; with seconds, what they come to at the present speed."""
        if self.budget.steps is not None:
            return self.budget.steps
        each = self.speed.seconds_per_step
        return step + (math.ceil(self.seconds_left(step) / each) if each else 0)
