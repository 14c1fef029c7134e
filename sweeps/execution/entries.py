"""A plan as MLflow shall hold it: the params, tags and artifacts of its runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from getpass import getuser
from pathlib import Path
from typing import Any

from titanlab.platform.config import Config, decides_result
from titanlab.platform.files import yaml_text
from titanlab.platform.plugins import Plugin, installed_plugins
from titanlab.platform.redaction import redacted
from titanlab.platform.run_config import RunConfig
from titanlab.platform.tracking.chart_view import Shown, saved_view
from titanlab.platform.tracking.environment import GitState, environment_text, git_state
from titanlab.platform.tracking.ledger_entries import SweepEntry, TrialEntry
from titanlab.platform.tracking.links import trials_filter
from titanlab.platform.tracking.naming import clean_key, dotted_settings, value_text
from titanlab.sweeps.execution.notes import sweep_note, trial_note
from titanlab.sweeps.planning.plan import Cell, Plan, Trial


def sweep_entry(plan: Plan, folders: Mapping[str, Path], plugins: Sequence[Plugin]) -> SweepEntry:
    """The sweep and its trials, with the state of the code and the software around it.

    Args:
        folders: of the trials, by key.
        plugins: loaded; their digests become tags and their sources artifacts.
    """
    git = git_state(Path.cwd())
    known = {plugin.name: plugin for plugin in (*installed_plugins(_configs(plan)), *plugins)}.values()
    tags = {
        "sweep.id": plan.id,
        "sweep.name": plan.name,
        **git.tags(),
        **_source_tags(plan, git),
        **{clean_key(f"plugin.{plugin.name}"): plugin.digest for plugin in known},
    }
    artifacts = {
        "sweep.yaml": plan.text,
        "environment.txt": environment_text(),
        "git.txt": git.text(),
        **({"git.diff": git.diff} if git.diff else {}),
        **{f"plugins/{plugin.name}.py": plugin.source for plugin in known},
    }
    return SweepEntry(
        id=plan.id,
        name=plan.name,
        metric=plan.objective.metric,
        direction=plan.objective.direction,
        tags={key: redacted(value) for key, value in tags.items()},
        artifacts={name: redacted(text) for name, text in artifacts.items()},
        trials=trial_entries(plan, folders),
        others=frozenset(plan.others),
        note=redacted(sweep_note(plan)),
        view=saved_view(_shown(plan)),
    )


def trial_entries(plan: Plan, folders: Mapping[str, Path]) -> list[TrialEntry]:
    """The trials whose settings are known."""
    cells = {cell.key: cell for cell in plan.cells}
    return [
        _without_secrets(_trial_entry(plan, trial, cells[trial.cell_key], folders[trial.key]))
        for trial in plan.stages
        if not trial.pending
    ]


def _without_secrets(entry: TrialEntry) -> TrialEntry:
    text = redacted(entry.config_text)
    if text == entry.config_text:  # all else that it says is made of it; of thousands none has a secret
        return entry
    params, tags = ({key: redacted(value) for key, value in kept.items()} for kept in (entry.params, entry.tags))
    return replace(
        entry, name=redacted(entry.name), params=params, tags=tags, config_text=text, note=redacted(entry.note)
    )


def _configs(plan: Plan) -> list[RunConfig]:
    return [cell.trials[0].config for cell in plan.cells]


def _source_tags(plan: Plan, git: GitState) -> dict[str, str]:
    """What MLflow's own columns show: who ran what."""
    tags = {"mlflow.source.name": plan.file, "mlflow.source.type": "LOCAL", "mlflow.source.git.commit": git.sha}
    try:
        tags["mlflow.user"] = getuser()
    except (OSError, KeyError):  # an account without a name, as some containers have
        tags["mlflow.user"] = ""
    return {key: value for key, value in tags.items() if value}


def _shown(plan: Plan) -> Shown:
    tasks = _configs(plan)
    return Shown(
        filter=trials_filter(plan.id),
        metric=plan.objective.metric,
        direction=plan.objective.direction,
        axes=list(dict.fromkeys(key for cell in plan.cells for key in cell.settings)),
        metrics=list(dict.fromkeys(name for run in tasks for name in run.task.metrics())),
        trials=len(plan.trials),
        cost=_cost(plan.cells),
        validated=any(0 < run.train.evaluate_every < (run.train.steps or math.inf) for run in tasks),
    )


def _cost(cells: Sequence[Cell]) -> str:
    """What tells the cells' costs apart, the state before the parameters."""
    if len({cell.state_bytes for cell in cells}) > 1:
        return "cost/state_bytes"
    return "cost/parameters" if len({cell.parameters for cell in cells}) > 1 else ""


def _trial_entry(plan: Plan, trial: Trial, cell: Cell, folder: Path) -> TrialEntry:
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
            "budget": cell.budget.words,
            **({} if cell.match is None else {"match": f"{cell.match.key}={cell.match.words.partition('=')[2]}"}),
            **{clean_key(f"axis.{key}"): value for key, value in axes.items()},
            **{clean_key(f"tune.{key}"): value_text(value) for key, value in trial.values.items()},
        },
        config_text=yaml_text(trial.config.settings()),
        folder=folder,
        note=trial_note(plan, cell, trial),
        kind="tune" if trial.stage == "tune" else "trial",
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
            if name in written:
                settings[name] = _deciding(value) if isinstance(value, Config) else written[name]
    return settings
