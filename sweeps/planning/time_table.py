"""What a probe found, for people: seconds a step and memory of every model, and the time of the whole sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from titanlab.sweeps.language.sweep_file import Resources
from titanlab.sweeps.planning.machine import machine_cpus, machine_gpus
from titanlab.sweeps.planning.plan import Cell, Plan
from titanlab.sweeps.planning.probe import STEPS, Probed
from titanlab.sweeps.readable import duration, readable, readable_bytes

if TYPE_CHECKING:
    from rich.table import Table

MOST_ROWS = 40


def probe_table(plan: Plan, probed: Mapping[str, Probed]) -> Table:
    """A line a cell that was probed, those of equal models together."""
    from rich.table import Table

    table = Table(title=f"probe: {STEPS} steps of each different model", title_justify="left")
    table.add_column("variant", overflow="fold")
    for heading in ("seconds/step", "peak memory", "a trial"):
        table.add_column(heading, justify="right")
    shown: set[int] = set()
    for cell in plan.cells:
        found = probed.get(cell.key)
        if found is None or id(found) in shown or len(shown) == MOST_ROWS:
            continue
        shown.add(id(found))
        alike = sum(other is found for other in probed.values()) - 1
        name = f"{cell.variant} (and {alike} more)" if alike else cell.variant
        peak = "" if found.peak_bytes is None else readable_bytes(found.peak_bytes)
        trial = trial_seconds(cell, found.seconds)
        table.add_row(name, readable(found.seconds, 3), peak, "" if trial is None else duration(trial))
    return table


def trial_seconds(cell: Cell, seconds: float | None) -> float | None:
    """Training of one trial of a cell, given the seconds of a step."""
    if cell.budget.steps is None:
        return cell.budget.amount
    return None if seconds is None else cell.budget.steps * seconds


def at_once(resources: Resources, cpus: float, gpus: float) -> int:
    """How many trials run beside each other on a machine."""
    fit = [cpus / resources.cpu] + ([gpus / resources.gpu] if resources.gpu else [])
    return max(1, math.floor(min(fit) + 1e-9))


def probe_lines(plan: Plan, probed: Mapping[str, Probed]) -> list[str]:
    """Failures, and the time of the whole sweep on this machine."""
    lines = []
    failures = {found.failure: cell.variant for cell in plan.cells if (found := probed.get(cell.key)) and found.failure}
    lines += [f"probe of '{variant}': {failure}" for failure, variant in failures.items()]
    seconds = {cell.key: trial_seconds(cell, _step_seconds(plan, cell, probed)) for cell in plan.cells}
    known = {key: value for key, value in seconds.items() if value is not None}
    if len(known) < len(seconds) or not known:
        return [*lines, "the time of the whole sweep is not known: no step of some model was taken"]
    beside = min(at_once(plan.resources, machine_cpus(), machine_gpus()), len(plan.trials))
    total = sum(known[trial.cell_key] for trial in plan.trials)
    tuned = 0 if plan.tuning is None else plan.tuning.runs * sum(known.values())
    whole = max((total + tuned) / beside, max(known.values()))
    scaled = sum(_own_seconds(probed, cell) is None and cell.budget.steps is not None for cell in plan.cells)
    notes = [f"{beside} trial{'s' if beside > 1 else ''} at a time here"]
    notes += ["tuning as if no trial were given up"] if tuned else []
    notes += [f"{scaled} cells not probed, by their FLOPs"] if scaled else []
    notes += ["evaluation, checkpoints and start not in it"]
    return [*lines, f"whole sweep: about {duration(whole)} of training ({'; '.join(notes)})"]


def _own_seconds(probed: Mapping[str, Probed], cell: Cell) -> float | None:
    found = probed.get(cell.key)
    return None if found is None else found.seconds


def _step_seconds(plan: Plan, cell: Cell, probed: Mapping[str, Probed]) -> float | None:
    """Measured, or as of the measured cell that is nearest in operations, in proportion to them."""
    own = _own_seconds(probed, cell)
    flops = cell.budget.step_flops
    if own is not None or not flops:
        return own
    others = [
        (other.budget.step_flops, seconds)
        for other in plan.cells
        if other.budget.step_flops and (seconds := _own_seconds(probed, other)) is not None
    ]
    if not others:
        return None
    nearest, seconds = min(others, key=lambda pair: abs(math.log(pair[0] / flops)))
    return seconds * flops / nearest
