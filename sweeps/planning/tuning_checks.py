"""From the `tune` block to a plan's tuning: what it tries must be trainable, and nothing that is compared already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from titanlab.platform.config import problems_of
from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.run_config import TrainConfig
from titanlab.platform.yaml_source import KeyPath
from titanlab.sweeps.language.aims import Aim
from titanlab.sweeps.language.grid import Point
from titanlab.sweeps.language.search_space import Span, TuneConfig
from titanlab.sweeps.language.sweep_file import Sweep
from titanlab.sweeps.planning.expansion import Found
from titanlab.sweeps.planning.tuning import Tuning, aim_of_tuning
from titanlab.sweeps.tuning.search import require_optuna

BLOCK = "tune"


def tuning_of(
    sweep: Sweep, points: Sequence[Point], kept: Sequence[Found], seeds: Sequence[int], objective: Aim
) -> Tuning | None:
    """The tuning of a sweep; None without a `tune` block.

    Raises:
        ConfigError: a key that the sweep varies too, a value that no run may have, a seed of the comparison, a metric
            of the test split; Optuna is not installed.
    """
    config = sweep.config.tune
    if config is None:
        return None
    problems = [
        *_compared_already(sweep, config, points),
        *_shared_seeds(sweep, config, seeds),
        *_untrainable(sweep, config, kept),
        *_without_rungs(sweep, config, kept),
    ]
    if problems:
        raise ConfigError(problems)
    tasks = list({found.run.task.model_dump_json(): found.run.task for found in kept}.values())
    try:
        aim = aim_of_tuning(config, objective, tasks)
    except ValueError as error:
        raise ConfigError(_problem(sweep, ("metric",), str(error))) from None
    if config.method == "optuna":
        try:
            require_optuna()
        except ConfigError as error:
            raise sweep.document.located(error) from None
    return Tuning(config, aim)


def _compared_already(sweep: Sweep, config: TuneConfig, points: Sequence[Point]) -> Iterator[Problem]:
    varied = {setting.key: setting for point in points for setting in point.settings}
    for key in config.space:
        # `train: {...}` of an explicit cell replaces the whole block, and so the key with it.
        around = [other for other in varied if f"{key}.".startswith(f"{other}.")]
        if around:
            where = sweep.document.locate(varied[around[0]].key_place)[0]
            yield _problem(sweep, (key,), f"is compared by `{where}` already; a setting is tuned or compared")


def _shared_seeds(sweep: Sweep, config: TuneConfig, seeds: Sequence[int]) -> Iterator[Problem]:
    shared = sorted(set(config.seeds) & set(seeds))
    if shared:
        message = f"cells are compared with seed {shared[0]}: what they are tuned with must be others"
        yield _problem(sweep, ("seeds",), message)


def _untrainable(sweep: Sweep, config: TuneConfig, kept: Sequence[Found]) -> list[Problem]:
    """The ends of a range, and the choices, that `train` does not take."""
    problems: dict[Problem, None] = {}
    for train in {found.run.train.model_dump_json(): found.run.train for found in kept}.values():
        for key, span in config.space.items():
            for place, value in _ends(span):
                problems |= dict.fromkeys(_refusals(sweep, train, key, place, value))
    return list(problems)


def _ends(span: Span) -> list[tuple[KeyPath, Any]]:
    if span.choices:
        return [(("choices", index), value) for index, value in enumerate(span.choices)]
    return [(("low",), span.low), (("high",), span.high)]


def _refusals(sweep: Sweep, train: TrainConfig, key: str, place: KeyPath, value: Any) -> list[Problem]:
    try:
        train.replace(**{key.removeprefix("train."): value})
    except ValidationError as error:
        return problems_of(error, lambda path: sweep.document.locate((BLOCK, key, *place)))
    return []


def _without_rungs(sweep: Sweep, config: TuneConfig, kept: Sequence[Found]) -> Iterator[Problem]:
    if config.scheduler == "halving" and any(found.budget.steps is None for found in kept):
        yield _problem(sweep, ("scheduler",), "halving counts steps, and a budget in seconds has no number of them")


def _problem(sweep: Sweep, place: KeyPath, message: str) -> Problem:
    return sweep.document.problem((BLOCK, *place), message)
