"""What a reader should know before comparing cells: that their state differs, and what of their costs is not known."""

from __future__ import annotations

from collections.abc import Sequence

from titanlab.platform.budgets import Budget
from titanlab.platform.costs import ASSUMED_ROW, Costs
from titanlab.sweeps.readable import readable_bytes


def inequalities(costs: Sequence[Costs]) -> list[str]:
    """Sentences for people about the costs of all cells."""
    notes = []
    memory = {cost.memory_bytes for cost in costs}
    in_all = {cost.state_bytes for cost in costs if cost.state_bytes is not None}
    if len(memory) > 1 and len(in_all) > 1:
        notes.append(f"memory state differs between cells: {_range(memory)} a sequence; state in all: {_range(in_all)}")
    elif len(memory) > 1 or len(in_all) > 1:
        name, sizes = ("memory state", memory) if len(memory) > 1 else ("state in all", in_all)
        notes.append(f"{name} differs between cells: {_range(sizes)} a sequence")
    return notes + unknown(costs)


def timed(budgets: Sequence[Budget]) -> list[str]:
    """A sentence if seconds are the budget of any trial."""
    if not any(budget.unit == "seconds" for budget in budgets):
        return []
    return [
        "budgets in seconds: results depend on the machine and what else it does; trials beside one another slow each "
        "other down, and no run can be repeated exactly"
    ]


def _range(sizes: set[int]) -> str:
    return f"{readable_bytes(min(sizes))} to {readable_bytes(max(sizes))}"


def unknown(costs: Sequence[Costs]) -> list[str]:
    """Sentences about costs that are assumed or not known."""
    notes = []
    if any(cost.row_length is None for cost in costs):
        notes.append(f"a task does not say how long its rows are (`row_length`): {ASSUMED_ROW:,} tokens are assumed")
    failures = dict.fromkeys(cost.failure for cost in costs if cost.failure)
    return notes + [f"state or operations cannot be counted: {failure}" for failure in failures]
