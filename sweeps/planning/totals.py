"""What a whole sweep spends, in one line, and what each of its trials may spend."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from titanlab.platform.training_memory import training_memory
from titanlab.sweeps.planning.plan import Cell, Plan
from titanlab.sweeps.readable import duration, readable_bytes, readable_count


def budget_line(plan: Plan) -> str:
    """`a trial trains on 1,000,000 tokens: 3,906 steps of 256, 999,936 in all`; with how far cells differ in it."""
    words = list(dict.fromkeys(cell.budget.words for cell in plan.cells))
    more = f" (and {len(words) - 1} other budgets of other cells)" if len(words) > 1 else ""
    return f"a trial's budget: {words[0]}{more}" if words else ""


def memory_line(plan: Plan) -> str:
    """The memory of a step of the largest cell, estimated for those with the most parameters, operations and state."""
    sizes: list[Callable[[Cell], float]] = [
        lambda cell: cell.parameters,
        lambda cell: cell.budget.step_flops or 0.0,
        lambda cell: (cell.state_bytes or 0) * cell.trials[0].config.train.batch_size,
    ]
    largest = {cell.key: cell for cell in (max(plan.cells, key=size) for size in sizes)} if plan.cells else {}
    estimates = {key: training_memory(cell.trials[0].config) for key, cell in largest.items()}
    if not estimates:
        return ""
    key = max(estimates, key=lambda key: estimates[key].total)
    found = estimates[key]
    parts = f"{readable_bytes(found.parameters)} of weights, gradients and AdamW"
    if found.activations is None:
        return f"memory of a step: {parts}; activations cannot be estimated ({found.failure}): see --probe"
    what = f"{parts}, about {readable_bytes(found.activations)} of activations in float32"
    return f"memory of a step: about {readable_bytes(found.total)} at most, '{largest[key].variant}' ({what})"


def total_line(plan: Plan) -> str:
    """`in all: 96 trials, 38 k steps, 9.8 M tokens, 1.2 T FLOPs of training`; what no one knows is left out."""
    cells = {cell.key: cell.budget for cell in plan.cells}
    budgets = [cells[trial.cell_key] for trial in plan.trials]
    at_most = ""
    if plan.tuning is not None:
        budgets += [cell.budget for cell in plan.cells for _ in range(plan.tuning.runs)]
        at_most = "at most " if plan.tuning.config.scheduler == "halving" else ""
    timed = [budget.amount for budget in budgets if budget.unit == "seconds"]
    steps = _total("steps", (budget.steps for budget in budgets))
    spent = [
        steps and at_most + steps,
        _total("tokens", (budget.tokens for budget in budgets)),
        _total("FLOPs of training", (budget.flops for budget in budgets)),
        f"{duration(sum(timed))} of training, one trial after another" if timed else "",
    ]
    trials = f"{len(budgets):,} trial{'' if len(budgets) == 1 else 's'}"
    return f"in all: {', '.join([trials, *filter(None, spent)])}"


def _total(name: str, amounts: Iterable[float | None]) -> str:
    """A sum with its name; nothing if a part of it is not known."""
    known = list(amounts)
    return "" if None in known else f"{readable_count(sum(amount for amount in known if amount is not None))} {name}"
