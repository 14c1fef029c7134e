"""Which trial of a sweep is taken out of it, and what its MLflow model says of itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from titanlab.platform.errors import ConfigError, Problem, nearest
from titanlab.platform.plugins import Plugin
from titanlab.platform.tracking.mlflow_model import Export
from titanlab.sweeps.execution.trial_record import TrialRecord, read_record
from titanlab.sweeps.planning.plan import Plan, Trial
from titanlab.sweeps.readable import readable


class Choice(NamedTuple):
    """A trial, and why it is the one."""

    trial: Trial
    metrics: Mapping[str, float]
    reason: str


def choose(plan: Plan, trials: Path, key: str | None = None) -> Choice:
    """The trial to export: the named one, or the best seed of the cell with the best mean.

    Args:
        trials: the folder with one folder a trial.
        key: a trial's key, or a beginning that no other trial shares.

    Raises:
        ConfigError: no such trial, or none that is complete.
    """
    if key is not None:
        return _named(plan, trials, key)
    metric = plan.objective.metric
    values = {
        trial.key: record.metrics[metric]
        for trial in plan.trials
        if (record := _complete(trials / trial.key)) and math.isfinite(record.metrics.get(metric, math.nan))
    }
    if not values:
        raise ConfigError(
            Problem(f"no trial of '{plan.name}' is complete with a finite {metric}; `titanlab sweep run {plan.file}`")
        )
    sign = 1 if plan.objective.direction == "max" else -1
    means = {cell.key: _mean([values[t.key] for t in cell.trials if t.key in values]) for cell in plan.cells}
    finished = [trial for trial in plan.trials if trial.key in values]
    best = max(finished, key=lambda trial: (sign * means[trial.cell_key], sign * values[trial.key]))
    cell, record = plan.cell(best.cell_key), _complete(trials / best.key)
    reason = (
        f"the best cell has {metric} {readable(means[cell.key])} over its seeds, this seed {readable(values[best.key])}"
    )
    return Choice(best, record.metrics if record else {}, reason)


def _named(plan: Plan, trials: Path, key: str) -> Choice:
    found = [trial for trial in plan.trials if trial.key.startswith(key)]
    if len(found) != 1:
        guess = nearest(key, [trial.key for trial in plan.trials])
        hint = f"; did you mean {guess}?" if guess and not found else ""
        what = f"{len(found)} trials of '{plan.name}' begin with" if found else f"no trial of '{plan.name}' has the key"
        raise ConfigError(Problem(f"--trial: {what} '{key}'{hint}; `titanlab sweep plan {plan.file}` lists them"))
    record = _complete(trials / found[0].key)
    if record is None:
        raise ConfigError(
            Problem(f"--trial: {key} ({found[0].config.name}) is not complete; `titanlab sweep run {plan.file}`")
        )
    return Choice(found[0], record.metrics, "named by --trial")


def export_of(plan: Plan, choice: Choice, directory: Path, plugins: Sequence[Plugin]) -> Export:
    """What becomes the MLflow model of a trial."""
    trial, metric = choice.trial, plan.objective.metric
    facts = {
        "sweep.id": plan.id,
        "trial.key": trial.key,
        "cell.key": trial.cell_key,
        "variant": plan.cell(trial.cell_key).variant,
        "seed": trial.seed,
        metric: choice.metrics.get(metric),
    }
    return Export(directory, trial.config, plugins, facts)


def _complete(folder: Path) -> TrialRecord | None:
    record = read_record(folder)
    return record if record is not None and record.status == "complete" else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
