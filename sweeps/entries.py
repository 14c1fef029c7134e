"""A plan as MLflow shall hold it: the params, tags and artifacts of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from titanlab.platform.config import Config, decides_result
from titanlab.platform.files import yaml_text
from titanlab.platform.plugins import Plugin
from titanlab.platform.tracking.environment import environment_text, git_state
from titanlab.platform.tracking.ledger import SweepEntry, TrialEntry
from titanlab.platform.tracking.naming import clean_key, dotted_settings, value_text
from titanlab.sweeps.plan import Cell, Plan, Trial


def sweep_entry(plan: Plan, folders: Mapping[str, Path], plugins: Sequence[Plugin]) -> SweepEntry:
    """The sweep and its trials, with the state of the code and the software around it.

    Args:
        folders: of the trials, by key.
        plugins: loaded; their digests become tags and their sources artifacts.
    """
    git = git_state(Path.cwd())
    tags = {
        "sweep.id": plan.id,
        "sweep.name": plan.name,
        **git.tags(),
        **{f"plugin.{plugin.name}": plugin.digest for plugin in plugins},
    }
    artifacts = {
        "sweep.yaml": plan.text,
        "environment.txt": environment_text(),
        "git.txt": git.text(),
        **{f"plugins/{plugin.name}.py": plugin.source for plugin in plugins},
    }
    cells = {cell.key: cell for cell in plan.cells}
    return SweepEntry(
        id=plan.id,
        name=plan.name,
        metric=plan.objective.metric,
        direction=plan.objective.direction,
        tags=tags,
        artifacts=artifacts,
        trials=[_trial_entry(trial, cells[trial.cell_key], folders[trial.key]) for trial in plan.trials],
    )


def _trial_entry(trial: Trial, cell: Cell, folder: Path) -> TrialEntry:
    axes = {key: value_text(value) for key, value in cell.settings.items()}
    return TrialEntry(
        key=trial.key,
        name=trial.config.name,
        params={
            **{clean_key(key): value for key, value in axes.items()},
            **dotted_settings(_deciding(trial.config)),
        },
        tags={
            "cell.key": cell.key,
            "variant": cell.variant,
            "baseline": str(cell.is_baseline).lower(),
            **cell_costs(cell),
            **{clean_key(f"axis.{key}"): value for key, value in axes.items()},
        },
        config_text=yaml_text(trial.config.settings()),
        folder=folder,
    )


def cell_costs(cell: Cell) -> dict[str, str]:
    """What the cell's model costs, known before it trains; an ended run has the same as metrics."""
    known = {
        "model.parameters": cell.parameters,
        "model.memory_bytes": cell.memory_bytes,
        "model.state_bytes": cell.state_bytes,
        "model.flops_per_token": cell.flops,
    }
    return {name: f"{value:.0f}" for name, value in known.items() if value is not None}


def _deciding(config: Config) -> dict[str, Any]:
    """The settings that decide the result. Others may change between commands, and a param never can."""
    written = config.settings()
    settings = {"type": written["type"]} if "type" in written else {}
    for name, field in type(config).model_fields.items():
        if decides_result(field):
            value = getattr(config, name)
            settings[name] = _deciding(value) if isinstance(value, Config) else written[name]
    return settings
