"""A plan for people: every trial as a table or as CSV, or what is varied and the range of the costs."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from titanlab.sweeps.planning.expansion import Refused
from titanlab.sweeps.planning.plan import Cell, Plan
from titanlab.sweeps.readable import readable_bytes, readable_count

if TYPE_CHECKING:
    from rich.table import Table

    from titanlab.sweeps.planning.probe import Probed

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
    is_matched = any(cell.match is not None for cell in plan.cells)
    if is_matched:
        table.add_column("matched")
    table.add_column("key")
    if states:
        table.add_column("state")
    cells = {cell.key: cell for cell in plan.cells}
    for trial in plan.trials:
        cell = cells[trial.cell_key]
        state_in_all = "" if cell.state_bytes is None else readable_bytes(cell.state_bytes)
        sizes = [f"{cell.parameters:,}", readable_bytes(cell.memory_bytes), state_in_all, readable_count(cell.flops)]
        if is_matched:
            sizes.append("as written" if cell.match is None else cell.match.words)
        state = (states.get(trial.key, "planned"),) if states else ()
        key = "after tuning" if trial.pending else trial.key
        table.add_row(cell.variant, str(trial.seed), *sizes, key, *state)
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
    table.add_row("steps", _range((cell.budget.steps for cell in plan.cells), "{:,}".format))
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


def plan_csv(plan: Plan, states: States, probed: Mapping[str, Probed] | None = None) -> str:
    """Every trial as a line of CSV with the settings that its cell varies; cells that cannot run at the end."""
    keys = _keys([*plan.cells, *plan.refused])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    costs = ["parameters", "memory_bytes", "state_bytes", "flops_per_token"]
    costs += ["steps", "tokens", "training_flops", "training_seconds", "matched_value", "matched_deviation"]
    costs += ["step_seconds", "peak_bytes"]
    # Only a tuned sweep has these, so that other tables stay as their readers know them.
    tuned = [] if plan.tuning is None else ["stage", *plan.tuning.space]
    writer.writerow(["variant", "seed", "baseline", *costs, "key", "cell_key", "state", "reason", *keys, *tuned])
    cells = {cell.key: cell for cell in plan.cells}
    for trial in plan.stages:
        cell = cells[trial.cell_key]
        budget = cell.budget
        numbers = [cell.parameters, cell.memory_bytes, cell.state_bytes, cell.flops]
        numbers += [budget.steps, budget.tokens, budget.flops, budget.amount if budget.unit == "seconds" else None]
        numbers += [None, None] if cell.match is None else [cell.match.value, round(cell.match.deviation, 6)]
        measured = (probed or {}).get(cell.key)
        numbers += [None, None] if measured is None else [measured.seconds, measured.peak_bytes]
        state = states.get(trial.key, "planned")
        key = "" if trial.pending else trial.key
        head = [cell.variant, trial.seed, str(cell.is_baseline).lower(), *numbers, key, cell.key, state, ""]
        values = {**trial.values, "stage": trial.stage}
        writer.writerow([*head, *_values(cell.settings, keys), *_values(values, tuned)])
    for refused in plan.refused:
        reason = "; ".join(str(problem) for problem in refused.problems)
        head = [refused.variant, "", "false", *[""] * len(costs), "", "", "invalid", reason]
        writer.writerow([*head, *_values(refused.settings, keys)])
    return text.getvalue()


def _keys(cells: Iterable[Cell | Refused]) -> list[str]:
    """The dotted keys that any of the cells sets, in order of appearance."""
    return list(dict.fromkeys(key for cell in cells for key in cell.settings))


def _values(settings: Mapping[str, Any], keys: list[str]) -> list[str]:
    return [_text(settings[key]) if key in settings else "" for key in keys]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
