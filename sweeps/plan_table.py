"""A plan for people: every trial as a table or as CSV, or what is varied and the range of the costs."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from titanlab.sweeps.expansion import Refused
from titanlab.sweeps.plan import Cell, Plan
from titanlab.sweeps.readable import readable_bytes, readable_count

if TYPE_CHECKING:
    from rich.table import Table

LARGEST_TABLE = 200
"""Trials beyond which the screen shows an overview."""

SHOWN_VALUES = 8
SHOWN_NOTES = 20

States = Mapping[str, str]
"""How trials stand in the store, by key; those that were never begun are left out."""


def trial_table(plan: Plan, states: States) -> Table:
    """A line for every trial."""
    from rich.table import Table

    table = Table(title=plan.name, title_justify="left")
    table.add_column("variant", overflow="fold")
    for heading in ("seed", "parameters", "memory state", "state in all", "FLOPs/token"):
        table.add_column(heading, justify="right")
    table.add_column("key")
    if states:
        table.add_column("state")
    cells = {cell.key: cell for cell in plan.cells}
    for trial in plan.trials:
        cell = cells[trial.cell_key]
        state_in_all = "" if cell.state_bytes is None else readable_bytes(cell.state_bytes)
        sizes = (f"{cell.parameters:,}", readable_bytes(cell.memory_bytes), state_in_all, readable_count(cell.flops))
        state = (states.get(trial.key, "planned"),) if states else ()
        table.add_row(cell.variant, str(trial.seed), *sizes, trial.key, *state)
    return table


def overview(plan: Plan, states: States) -> Table:
    """What is varied, and from where to where the costs go."""
    from rich.table import Table

    table = Table(title=plan.name, title_justify="left")
    table.add_column("varied")
    table.add_column("values", overflow="fold")
    for key in _keys(plan.cells):
        values = list(dict.fromkeys(_text(cell.settings[key]) for cell in plan.cells if key in cell.settings))
        more = f", ... ({len(values)} values)" if len(values) > SHOWN_VALUES else ""
        table.add_row(key, ", ".join(values[:SHOWN_VALUES]) + more)
    table.add_section()
    table.add_row("parameters", _range((cell.parameters for cell in plan.cells), "{:,}".format))
    table.add_row("memory state", _range((cell.memory_bytes for cell in plan.cells), readable_bytes))
    table.add_row("state in all", _range((cell.state_bytes for cell in plan.cells), readable_bytes))
    table.add_row("FLOPs/token", _range((cell.flops for cell in plan.cells), readable_count))
    if states:
        counts = Counter(states.get(trial.key, "planned") for trial in plan.trials)
        table.add_row("state", ", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    return table


def _range(values: Iterable[Any], shown: Callable[[Any], str]) -> str:
    known = {value for value in values if value is not None}
    if not known:
        return ""
    low, high = shown(min(known)), shown(max(known))
    return low if low == high else f"{low} to {high}"


def note_lines(plan: Plan) -> list[str]:
    """What a reader should know before a run, as many lines as can be read."""
    more = len(plan.notes) - SHOWN_NOTES
    return [f"note: {note}" for note in plan.notes[:SHOWN_NOTES]] + ([f"and {more} more notes"] if more > 0 else [])


def plan_csv(plan: Plan, states: States) -> str:
    """Every trial as a line of CSV with the settings that its cell varies; cells that cannot run at the end."""
    keys = _keys([*plan.cells, *plan.refused])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    costs = ["parameters", "memory_bytes", "state_bytes", "flops_per_token"]
    writer.writerow(["variant", "seed", "baseline", *costs, "key", "cell_key", "state", "reason", *keys])
    cells = {cell.key: cell for cell in plan.cells}
    for trial in plan.trials:
        cell = cells[trial.cell_key]
        numbers = [cell.parameters, cell.memory_bytes, cell.state_bytes, cell.flops]
        state = states.get(trial.key, "planned")
        head = [cell.variant, trial.seed, str(cell.is_baseline).lower(), *numbers, trial.key, cell.key, state, ""]
        writer.writerow([*head, *_values(cell.settings, keys)])
    for refused in plan.refused:
        reason = "; ".join(str(problem) for problem in refused.problems)
        head = [refused.variant, "", "false", "", "", "", "", "", "", "invalid", reason]
        writer.writerow([*head, *_values(refused.settings, keys)])
    return text.getvalue()


def _keys(cells: Iterable[Cell | Refused]) -> list[str]:
    """The dotted keys that any of the cells sets, in order of appearance."""
    return list(dict.fromkeys(key for cell in cells for key in cell.settings))


def _values(settings: Mapping[str, Any], keys: list[str]) -> list[str]:
    return [_text(settings[key]) if key in settings else "" for key in keys]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
