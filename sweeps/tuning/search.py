"""Which points of a space are tried: pure functions of the space, the seed and the results so far.

Nothing is kept between calls, so a search that was killed goes on with the very points it would have tried.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from titanlab.platform.errors import ConfigError, Problem
from titanlab.sweeps.language.search_space import Span

DIGITS = 4
"""Significant digits of a value: readable, and the same on every machine."""
TRIES = 1000
Values: TypeAlias = dict[str, Any]


def random_points(space: Mapping[str, Span], seed: int, count: int) -> list[Values]:
    """The first points of a random search, no two alike; a longer search begins with those of a shorter one."""
    points: list[Values] = []
    for number in range(count):
        drawn = (_draw(space, f"{seed}/{number}/{attempt}") for attempt in range(TRIES))
        fresh = next((point for point in drawn if point not in points), None)
        points.append(fresh if fresh is not None else _draw(space, f"{seed}/{number}/0"))
    return points


def optuna_point(
    space: Mapping[str, Span],
    seed: int,
    number: int,
    results: Sequence[tuple[Values, float]],
    direction: Literal["max", "min"],
) -> Values:
    """The point that Optuna's TPE would try next.

    Args:
        number: of the point; with the seed it fixes what TPE draws.
        results: points that were tried, with their values; the worst possible one is infinite.

    Raises:
        ConfigError: Optuna is not installed.
    """
    spans = json.dumps({key: span.settings() for key, span in space.items()})
    return dict(_suggestion(spans, seed, number, json.dumps(results), direction))


@lru_cache(maxsize=100_000)
def _suggestion(spans: str, seed: int, number: int, results: str, direction: str) -> Values:
    """`optuna_point` of what can be compared: whoever looks at a sweep again asks for the same points again."""
    optuna = _optuna()
    space = {key: Span.model_validate(span) for key, span in json.loads(spans).items()}
    distributions = {key: _distribution(optuna, span) for key, span in space.items()}
    sampler = optuna.samplers.TPESampler(seed=random.Random(f"{seed}/{number}").getrandbits(32), n_startup_trials=0)
    study = optuna.create_study(sampler=sampler, direction="maximize" if direction == "max" else "minimize")
    for values, value in json.loads(results):
        params = {key: _as_param(space[key], held) for key, held in values.items()}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
    params = study.ask(distributions).params
    return {
        key: span.choices[params[key]] if span.choices else _rounded(params[key], span) for key, span in space.items()
    }


def require_optuna() -> None:
    """Asks for Optuna before anything runs.

    Raises:
        ConfigError: it is not installed.
    """
    _optuna()


def random_first(trials: int) -> int:
    """How many points of an Optuna search are drawn at random before there is anything to go by."""
    return min(10, max(3, trials // 3))


def _draw(space: Mapping[str, Span], stream: str) -> Values:
    # A stream for each key: another key in the space changes no value of this one.
    return {key: _value(span, random.Random(f"{stream}/{key}").random()) for key, span in space.items()}


def _value(span: Span, fraction: float) -> Any:
    """The value at a fraction of the span, below 1."""
    if span.choices:
        return span.choices[int(fraction * len(span.choices))]
    assert span.low is not None and span.high is not None
    if span.scale == "log":
        return _rounded(math.exp(math.log(span.low) + fraction * math.log(span.high / span.low)), span)
    return _rounded(span.low + fraction * (span.high - span.low), span)


def _rounded(value: float, span: Span) -> float:
    assert span.low is not None and span.high is not None
    return min(max(float(f"{value:.{DIGITS}g}"), float(span.low)), float(span.high))


def _as_param(span: Span, value: Any) -> Any:
    """A value as Optuna holds it: of a choice its number, since a choice may be of any kind."""
    return span.choices.index(value) if span.choices else value


def _distribution(optuna: Any, span: Span) -> Any:
    if span.choices:
        return optuna.distributions.CategoricalDistribution(list(range(len(span.choices))))
    return optuna.distributions.FloatDistribution(float(span.low or 0), float(span.high or 0), log=span.scale == "log")


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        message = "needs Optuna: pip install 'titanlab[tune]', or write method: random"
        raise ConfigError(Problem(message, "tune.method")) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
