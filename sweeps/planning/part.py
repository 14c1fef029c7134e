"""`--only CONDITION`: a part of a sweep, its cells and trials as they are in the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from titanlab.platform.errors import ConfigError, Location, Problem
from titanlab.sweeps.language.conditions import ABSENT, Condition, ConditionError, Lookup, parse_condition
from titanlab.sweeps.language.lookup import Lookups, dotted_keys, unknown_key
from titanlab.sweeps.language.sweep_file import Sweep
from titanlab.sweeps.planning.expansion import Refused
from titanlab.sweeps.planning.plan import Cell, Plan, require_runnable, survey


def plan_part(sweep: Sweep, only: str | None) -> Plan:
    """The plan of the trials that fulfil a condition, of all without one; cells left out may be wrong.

    Raises:
        ConfigError: as `make_plan`; also a condition that is none, names unknown keys or is fulfilled by no cell.
    """
    return require_runnable(survey_part(sweep, only))


def survey_part(sweep: Sweep, only: str | None) -> Plan:
    """As `plan_part`, with the cells that cannot run as `refused`."""
    plan = survey(sweep)
    return plan if only is None else part(plan, only)


def part(plan: Plan, only: str) -> Plan:
    """The trials of a plan that fulfil a condition; see `plan_part`."""
    try:
        condition = parse_condition(only)
        _refuse_unknown_keys(plan, condition)
        cells = tuple(kept for cell in plan.cells if (kept := _kept(cell, condition)).trials)
        refused = tuple(cell for cell in plan.refused if _is_refused(cell, condition))
    except ConditionError as error:
        raise _error(only, str(error)) from None
    if not cells and not refused:
        raise _error(only, f"no cell of the sweep fulfils it, of {len(plan.cells)}")
    keys = {trial.key for cell in cells for trial in cell.trials}
    trials = tuple(trial for trial in plan.trials if trial.key in keys)
    present = {trial.seed for trial in trials}
    baseline = next((cell for cell in cells if cell.is_baseline), None)
    notes = [f"a part of the sweep: {len(trials)} of {len(plan.trials)} trials fulfil {only}"]
    if plan.baseline is not None and baseline is None:
        notes.append(f"the baseline '{plan.baseline.variant}' is not in this part")
    return replace(
        plan,
        cells=cells,
        trials=trials,
        seeds=tuple(seed for seed in plan.seeds if seed in present),
        baseline=baseline,
        refused=refused,
        notes=(*plan.notes, *notes),
        others=(*plan.others, *(trial.key for trial in plan.trials if trial.key not in keys)),
    )


def _kept(cell: Cell, condition: Condition) -> Cell:
    """The cell with the trials that fulfil the condition."""
    settings = cell.trials[0].config.settings()
    if "train.seed" not in condition.keys:
        return cell if condition.holds(_look(settings)) else replace(cell, trials=())
    train = settings["train"]
    trials = tuple(
        trial for trial in cell.trials if condition.holds(_look({**settings, "train": {**train, "seed": trial.seed}}))
    )
    return replace(cell, trials=trials)


def _is_refused(cell: Refused, condition: Condition) -> bool:
    return condition.holds(_look(cell.written))


def _look(run: Mapping[str, Any]) -> Lookup:
    return Lookups().of(run)


def _refuse_unknown_keys(plan: Plan, condition: Condition) -> None:
    unknown = set(condition.keys)
    known: dict[str, None] = {}
    for cell in plan.cells:
        if not unknown:
            return
        settings = cell.trials[0].config.settings()
        look = _look(settings)
        unknown = {key for key in unknown if look(key) is ABSENT}
        known.update(dict.fromkeys(dotted_keys(settings)))
    if unknown:
        raise _error(condition.text, unknown_key(min(unknown), known))


def _error(only: str, message: str) -> ConfigError:
    return ConfigError(Problem(message, "", Location(f"--only {only}")))
