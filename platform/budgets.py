"""What a run may spend - steps, tokens, floating-point operations or seconds - and how many steps that is."""

from __future__ import annotations

from typing import NamedTuple

from titanlab.platform.costs import Costs
from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.run_config import BudgetUnit, RunConfig


class Budget(NamedTuple):
    """What a run may spend."""

    unit: BudgetUnit
    amount: float
    steps: int | None
    """Optimizer steps; None: as many as the seconds allow."""
    step_tokens: int | None
    """Tokens of a step, padding included: rows times the length of the longest; None: the task does not say."""
    step_flops: float | None
    """Operations of a step, forward and backward; None: not known."""

    @property
    def tokens(self) -> int | None:
        """Tokens that training sees; None: not known before it runs."""
        return None if self.steps is None or self.step_tokens is None else self.steps * self.step_tokens

    @property
    def flops(self) -> float | None:
        """Operations of training; None: not known before it runs."""
        return None if self.steps is None or self.step_flops is None else self.steps * self.step_flops

    @property
    def words(self) -> str:
        """`1e+06 tokens: 3,906 steps of 256 tokens, 999,936 in all`, for people."""
        if self.unit == "seconds":
            return f"{self.amount:g} seconds of training"
        steps = f"{self.steps:,} step{'' if self.steps == 1 else 's'}"
        if self.unit == "steps":
            return steps
        if self.unit == "tokens":
            return f"{int(self.amount):,} tokens: {steps} of {self.step_tokens:,}, {self.tokens:,} in all"
        return f"{self.amount:.4g} FLOPs: {steps} of {self.step_flops:.4g}, {self.flops:.4g} in all"


def budget_of(config: RunConfig, costs: Costs) -> Budget:
    """A run's budget in steps, rounded down: no run spends more than its budget says.

    Args:
        costs: of its model.

    Raises:
        ConfigError: the budget is less than one step, or how many steps it is cannot be known.
    """
    unit, amount = config.train.budget
    tokens = None if costs.row_length is None else config.train.batch_size * costs.row_length
    flops = None if tokens is None else costs.training_flops(tokens)
    found = Budget(unit, amount, None, tokens, flops)
    if unit == "seconds":
        return found
    if unit == "steps":
        return found._replace(steps=int(amount))
    price = _price(found, costs)
    steps = int(amount // price)
    if steps < 1:
        message = f"is less than one step, which takes {price:,.0f}; raise it, or lower `train.batch_size`"
        raise ConfigError(Problem(message, f"train.{unit}"))
    return found._replace(steps=steps)


def _price(budget: Budget, costs: Costs) -> float:
    """What a step takes of the budget."""
    if budget.step_tokens is None:
        message = "the task does not say how long its rows are (`row_length`); give `train.steps` instead"
        raise ConfigError(Problem(message, f"train.{budget.unit}"))
    if budget.unit == "tokens":
        return budget.step_tokens
    if not budget.step_flops:
        reason = costs.failure or "the model computes none"
        message = f"operations cannot be counted ({reason}); give `train.steps` or `train.tokens` instead"
        raise ConfigError(Problem(message, "train.flops"))
    return budget.step_flops
