"""Which of a sweep's trials a verb is about: some of the plan by key, and those in the store that no plan names."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from titanlab.platform.errors import TitanlabError
from titanlab.platform.run_config import load_config
from titanlab.platform.training.run_directory import CONFIG
from titanlab.sweeps.planning.plan import Plan

SHOWN = 3


def with_trials(plan: Plan, keys: Collection[str]) -> Plan:
    """The plan of some of its trials; the rest counts among its `others`."""
    cells = tuple(
        replace(cell, trials=trials)
        for cell in plan.cells
        if (trials := tuple(trial for trial in cell.trials if trial.key in keys))
    )
    trials = tuple(trial for trial in plan.trials if trial.key in keys)
    present = {trial.seed for trial in trials}
    return replace(
        plan,
        cells=cells,
        trials=trials,
        seeds=tuple(seed for seed in plan.seeds if seed in present),
        baseline=next((cell for cell in cells if cell.is_baseline), None),
        others=(*plan.others, *(trial.key for trial in plan.trials if trial.key not in keys)),
    )


def strays(plan: Plan, trials: Path) -> list[Path]:
    """Folders of trials that the sweep's file does not name any more.

    Args:
        trials: the folder with one folder a trial.
    """
    if plan.tuning is not None or not trials.is_dir():  # a search names its trials as it goes
        return []
    known = {trial.key for trial in plan.trials} | set(plan.others)
    return sorted(folder for folder in trials.iterdir() if folder.is_dir() and folder.name not in known)


def strays_note(folders: list[Path]) -> str | None:
    """Says that they are left alone; None if there are none."""
    if not folders:
        return None
    names = ", ".join(_name(folder) for folder in folders[:SHOWN])
    more = f" and {len(folders) - SHOWN} more" if len(folders) > SHOWN else ""
    return (
        f"{len(folders)} trial{'s' if len(folders) > 1 else ''} in the store "
        f"{'are' if len(folders) > 1 else 'is'} not in this sweep's file as it is now; left as they are: {names}{more}"
    )


def _name(folder: Path) -> str:
    try:
        return load_config(folder / CONFIG).name
    except (OSError, TitanlabError):  # begun and no more, or of a plug-in that is not loaded
        return folder.name
