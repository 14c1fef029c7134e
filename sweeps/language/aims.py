"""What a sweep aims at: the metric its cells are ranked by, and the cell they are compared to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from titanlab.platform.config import shown_value
from titanlab.platform.errors import ConfigError, nearest, unknown_name
from titanlab.platform.keys import key_path
from titanlab.platform.run_config import RunConfig
from titanlab.platform.task import TaskConfig, smaller_is_better
from titanlab.sweeps.language.references import Reference
from titanlab.sweeps.language.sweep_file import Sweep

COSTS = (
    *("cost/parameters", "cost/seconds", "cost/tokens_per_second", "cost/state_bytes", "cost/flops_per_token"),
    *("cost/flops", "cost/tokens", "cost/steps", "memory/state_bytes", "train/loss"),
)
"""Metrics of every run, whatever its task."""


class Aim(NamedTuple):
    """A sweep's objective with its defaults filled in."""

    metric: str
    direction: Literal["max", "min"]

    def is_better(self, value: float, than: float) -> bool:
        """Whether one value is better than another."""
        return value > than if self.direction == "max" else value < than


def aim_of(sweep: Sweep, runs: Sequence[RunConfig]) -> Aim:
    """The objective of a sweep.

    Raises:
        ConfigError: a metric that a task of the sweep does not declare.
    """
    objective = sweep.config.objective
    by_task = {run.task.model_dump_json(): run.task for run in runs}
    tasks = list(by_task.values())
    metric = objective.metric or f"final/{tasks[0].metrics()[0]}"
    for task in tasks:
        known = known_metrics(task)
        if metric not in known:
            what = f"metric of the task '{task.type_name}'"
            # `accuracy` alone is nearest to `final/accuracy`, however the letters compare.
            guess = f"final/{metric}" if metric in task.metrics() else nearest(metric, known)
            message = unknown_name(what, metric, known, guess)
            raise ConfigError(sweep.document.problem(("objective", "metric"), message))
    return Aim(metric, objective.direction or ("min" if smaller_is_better(metric) else "max"))


def known_metrics(task: TaskConfig) -> list[str]:
    """Every metric that a run of the task ends with and that cells can be compared by."""
    return [*COSTS, *(f"{stage}/{name}" for stage in ("final", "val") for name in task.metrics())]


def references_of(sweep: Sweep, runs: Sequence[RunConfig], aim: Aim) -> tuple[Reference, ...]:
    """The published values, each with its metric filled in.

    Raises:
        ConfigError: a metric that no task of the sweep declares.
    """
    if not sweep.config.reference:
        return ()
    tasks = {run.task.model_dump_json(): run.task for run in runs}.values()
    known = list(dict.fromkeys(metric for task in tasks for metric in known_metrics(task)))
    found = []
    for index, reference in enumerate(sweep.config.reference):
        metric = reference.metric or aim.metric
        if metric not in known:
            message = unknown_name("metric", metric, known)
            raise ConfigError(sweep.document.problem(("reference", index, "metric"), message))
        found.append(reference.replace(metric=metric))
    return tuple(found)


class Candidate(NamedTuple):
    """A planned cell as the baseline's settings are compared to it."""

    variant: str
    run: RunConfig


def find_baseline(sweep: Sweep, candidates: Sequence[Candidate]) -> int | None:
    """The number of the cell that `baseline` names, or None without one.

    Raises:
        ConfigError: it names no cell, or several.
    """
    wanted = sweep.config.baseline
    if wanted is None:
        return None
    misses = [_differences(wanted, candidate.run.settings()) for candidate in candidates]
    found = [index for index, miss in enumerate(misses) if not miss]
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(f"'{candidates[index].variant}'" for index in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        message = f"names {len(found)} planned cells ({shown}{more}); add settings until it names one"
    else:
        index = min(range(len(misses)), key=lambda index: len(misses[index]))
        wrong = "; ".join(misses[index])
        message = f"names no planned cell; the nearest is '{candidates[index].variant}', but {wrong}"
    raise ConfigError(sweep.document.problem(("baseline",), message))


def _differences(wanted: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Each wanted setting that a run does not have, in words."""
    words = []
    for key, value in wanted.items():
        held: Any = settings
        for part in key_path(key):
            if not isinstance(held, Mapping) or part not in held:
                known = list(held) if isinstance(held, Mapping) else []
                guess = nearest(part, known)
                words.append(f"it has no {key}" + (f" (did you mean '{guess}'?)" if guess else ""))
                break
            held = held[part]
        else:
            if not _same(value, held):
                words.append(f"its {key} is {shown_value(held)}, not {shown_value(value)}")
    return words


def _same(wanted: Any, held: Any) -> bool:
    """Whether a wanted value is the held one; of a block, only what is wanted counts."""
    if isinstance(wanted, Mapping):
        return isinstance(held, Mapping) and all(
            key in held and _same(value, held[key]) for key, value in wanted.items()
        )
    if isinstance(wanted, list) and isinstance(held, list):
        return len(wanted) == len(held) and all(map(_same, wanted, held))
    return isinstance(wanted, bool) == isinstance(held, bool) and wanted == held
