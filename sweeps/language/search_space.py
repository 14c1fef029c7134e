"""The `tune` block of a sweep: which settings of training are tried, how often, and what they are judged by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from titanlab.platform.config import UNKNOWN_KEY, Config, shown_value, validation_error
from titanlab.platform.errors import unknown_name
from titanlab.platform.run_config import BUDGET_UNITS, TrainConfig
from titanlab.sweeps.language.field_checks import MAX_SEEDS, seeds_of

FIRST_SEED = 1_000_000
"""A count of tuning seeds starts here, far from the seeds that cells are compared with."""
MAX_POINTS = 10_000
_BUDGET = (*BUDGET_UNITS, "batch_size", "accumulate")
_PLUMBING = (
    *("seed", "evaluate_test", "evaluate_every", "keep_weights"),
    *("log_every", "checkpoint_every", "device", "debug"),
)


class Span(Config):
    """The values of a setting that are tried: a range, or a list of choices."""

    low: float | None = None
    """The smallest value."""
    high: float | None = None
    """The largest value."""
    scale: Literal["log", "linear"] = "log"
    """How a range is drawn from: every factor of ten alike, or every unit alike."""
    choices: list[Any] = Field(default_factory=list, max_length=1000)
    """The values themselves, instead of a range."""

    @model_validator(mode="after")
    def _is_a_range_or_a_list(self) -> Self:
        problem = self._problem()
        if problem is not None:
            name, message = problem
            raise validation_error("Span", [((name,) if name else (), message, getattr(self, name or "choices"))])
        return self

    def _problem(self) -> tuple[str, str] | None:
        """The name of a wrong setting, and what is wrong."""
        if self.choices:
            twice = next((value for i, value in enumerate(self.choices) if value in self.choices[:i]), None)
            if twice is not None:
                return "choices", f"{shown_value(twice)} stands here twice"
            given = next((name for name in ("low", "high") if getattr(self, name) is not None), None)
            return (given, "a list of `choices` has no range; leave one of them out") if given else None
        if self.low is None or self.high is None:
            return "", "expected a range, {low: 1.0e-4, high: 1.0e-2}, or a list, {choices: [0.0, 0.1]}"
        if not self.low < self.high:
            return "high", f"expected more than low, which is {self.low:g}, got {self.high:g}"
        if self.scale == "log" and self.low <= 0:
            return "low", f"a log scale starts above 0, got {self.low:g}; raise it, or write scale: linear"
        return None

    @property
    def words(self) -> str:
        """`0.0001 to 0.01 (log)`, `one of 0, 0.1`."""
        if self.choices:
            return f"one of {', '.join(map(value_words, self.choices))}"
        return f"{self.low:g} to {self.high:g} ({self.scale})"


def value_words(value: Any) -> str:
    """A value of a setting as people read it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


class TuneConfig(Config):
    """Settings of training that are chosen for every cell, by the validation split, before cells are compared.

    Keys with a dot are what is tried, as in `train.learning_rate: {low: 1.0e-4, high: 1.0e-2}`.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Span]

    trials: int = Field(8, ge=1, le=MAX_POINTS)
    """How many points of the space are tried for each cell: the same number for all."""
    method: Literal["random", "optuna"] = "random"
    """`random` tries the same points for every cell; `optuna` (TPE) begins with them and then goes where a cell does
    well."""
    parallel: int = Field(1, ge=1, le=1000)
    """With `optuna`, how many points of a cell are tried at a time; each batch knows the results of those before."""
    scheduler: Literal["fifo", "halving"] = "fifo"
    """`fifo` trains every point to its end; `halving` (successive halving) goes on with the best ones only."""
    reduction: int = Field(3, ge=2, le=100)
    """With `halving`, one point in so many goes on, for so many times as many steps."""
    metric: str | None = None
    """What a point is judged by, of the validation split; by default the objective's metric, as `val/...`."""
    direction: Literal["max", "min"] | None = None
    """Whether more or less of it is better; by default as for the objective."""
    seed: int = Field(0, ge=0)
    """Fixes which points are drawn."""
    seeds: Annotated[tuple[int, ...], BeforeValidator(seeds_of)] = Field(
        default=(FIRST_SEED,), min_length=1, max_length=MAX_SEEDS
    )
    """How many seeds each point is trained with, or which; none of the sweep's own. A point's value is their mean."""

    @property
    def space(self) -> dict[str, Span]:
        """Dotted key -> the values that are tried."""
        return dict(self.__pydantic_extra__)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any) -> Any:
        """Takes the place of the base's check: keys with a dot are what is tried."""
        if not isinstance(value, Mapping):
            return value
        wrong = [(key, why) for key in value if key not in cls.model_fields and (why := _why_not(str(key)))]
        if wrong:
            errors = [((str(key),), why, value[key]) for key, why in wrong]
            raise validation_error(cls.__name__, errors, kind=UNKNOWN_KEY)
        count = value.get("seeds")
        if isinstance(count, int) and not isinstance(count, bool) and 1 <= count <= MAX_SEEDS:
            return {**value, "seeds": tuple(range(FIRST_SEED, FIRST_SEED + count))}
        return value

    @model_validator(mode="after")
    def _tries_something(self) -> Self:
        if not self.space:
            message = "names nothing to tune; expected a key as in train.learning_rate: {low: 1.0e-4, high: 1.0e-2}"
            raise validation_error("TuneConfig", [((), message, None)])
        if self.method == "optuna" and self.scheduler == "halving":
            message = "`halving` needs all points at once, and `optuna` picks them one after another; take `fifo`"
            raise validation_error("TuneConfig", [(("scheduler",), message, self.scheduler)])
        sizes = [len(span.choices) for span in self.space.values()]
        if all(sizes):
            points = 1
            for size in sizes:
                points *= size
            if points < self.trials:
                message = f"the choices make {points} points only, fewer than {self.trials}"
                raise validation_error("TuneConfig", [(("trials",), message, self.trials)])
        return self


def _why_not(key: str) -> str | None:
    """Why a key cannot be tuned; None if it can."""
    if "." not in key:
        return unknown_name("key", key, [*TuneConfig.model_fields, "train.learning_rate", "train.weight_decay"])
    block, _, name = key.partition(".")
    if block != "train":
        return "only settings of training are tuned; what is compared belongs into `axes`"
    if name not in TrainConfig.model_fields:
        tunable = [field for field in TrainConfig.model_fields if field not in _BUDGET + _PLUMBING]
        return unknown_name("key", key, [f"train.{field}" for field in tunable])
    if name in _BUDGET:
        return "is the budget of a run, which is the same for all"
    if name in _PLUMBING:
        return "is no setting that a search could choose"
    return None
