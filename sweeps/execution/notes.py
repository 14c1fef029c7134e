"""What a run's page in MLflow says first, in Markdown: what it is, and of a sweep what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from titanlab.platform.tracking.naming import value_text
from titanlab.sweeps.execution.trial_record import TrialRecord
from titanlab.sweeps.planning.plan import Cell, Plan, Trial
from titanlab.sweeps.planning.tuning import settings_words
from titanlab.sweeps.readable import readable, readable_bytes, readable_count

SHOWN_CELLS = 30
LONGEST_SETTING = 120


def sweep_note(plan: Plan, conclusion: Sequence[str] = ()) -> str:
    """The conclusion, if there is one yet, then the plan."""
    lines = ["### Conclusion", *(f"- {_plain(line)}" for line in conclusion), ""] if conclusion else []
    better = "higher" if plan.objective.direction == "max" else "lower"
    lines += [
        "### Plan",
        f"{plan.summary}. Objective: {_code(plan.objective.metric)}, {better} is better.",
        "",
        "| variant | parameters | state | FLOPs a token |",
        "|---|---|---|---|",
        *(_row(cell) for cell in plan.cells[:SHOWN_CELLS]),
    ]
    if len(plan.cells) > SHOWN_CELLS:
        lines += ["", f"and {len(plan.cells) - SHOWN_CELLS} more; all are in the artifact `sweep.yaml`."]
    if plan.notes:
        lines += ["", *(f"- {_plain(note)}" for note in plan.notes)]
    lines += ["", f"`titanlab sweep report {plan.file}` compares them; the page is kept as `report/report.html`."]
    return "\n".join(lines)


def outcome_lines(plan: Plan, records: Mapping[str, TrialRecord]) -> list[str]:
    """How many trials are complete and which is best: what can be said without a report."""
    metric, direction = plan.objective.metric, plan.objective.direction
    own = {trial.key for trial in plan.trials}
    complete = {key: record for key, record in records.items() if key in own and record.status == "complete"}
    lines = [f"{len(complete)} of {len(plan.trials)} trials complete."]
    values = [
        (record.metrics[metric], trial.config.name)
        for trial in plan.trials
        if (record := complete.get(trial.key)) and math.isfinite(record.metrics.get(metric, math.nan))
    ]
    if values:
        value, name = (max if direction == "max" else min)(values)
        lines.append(f"Best trial: {name}, {metric} {readable(value)}. How sure that is, the report says.")
    return lines


def trial_note(plan: Plan, cell: Cell, trial: Trial) -> str:
    """Which trial this is, and what its model costs."""
    role = ", the baseline" if cell.is_baseline else ""
    return "\n".join(
        [
            f"{_code(cell.variant)}{role}, seed {trial.seed}, of the sweep {_code(plan.name)}: {plan.summary}.",
            "",
            *_tuning(trial),
            *_settings(cell.settings),
            f"{cell.parameters:,} parameters, {_state(cell)} of state a sequence, "
            f"{readable_count(cell.flops) or 'unknown'} FLOPs a token of the forward pass.",
            "",
            "The same cell with other seeds has the tag `cell.key` in common with this run.",
        ]
    )


def _tuning(trial: Trial) -> list[str]:
    if not trial.values:
        return []
    what = "A point that is tried, without a look at the test split" if trial.stage == "tune" else "Chosen by tuning"
    return [f"{what}: {_code(settings_words(trial.values))}.", ""]


def _settings(settings: Mapping[str, Any]) -> list[str]:
    if not settings:
        return []
    rows = [f"| {_code(key)} | {_code(value_text(value))} |" for key, value in settings.items()]
    return ["| setting | value |", "|---|---|", *rows, ""]


def _row(cell: Cell) -> str:
    name = _code(cell.variant) + (" (baseline)" if cell.is_baseline else "")
    return f"| {name} | {cell.parameters:,} | {_state(cell)} | {readable_count(cell.flops)} |"


def _state(cell: Cell) -> str:
    return readable_bytes(cell.memory_bytes if cell.state_bytes is None else cell.state_bytes)


def _code(text: str) -> str:
    """As code, in one line of one cell of a table: names are the user's and may hold anything."""
    words = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{words if len(words) <= LONGEST_SETTING else words[:LONGEST_SETTING] + ' ...'}`"


def _plain(text: str) -> str:
    """A sentence without what Markdown would take for emphasis or HTML."""
    return "".join(f"\\{letter}" if letter in "\\`*_<>[]#|" else letter for letter in text)
