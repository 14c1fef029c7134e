"""The tuning of a sweep as its plan holds it: what is tried for every cell, and what came of it so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from titanlab.platform.errors import nearest, unknown_name
from titanlab.platform.task import smaller_is_better
from titanlab.sweeps.language.aims import Aim
from titanlab.sweeps.language.search_space import Span, TuneConfig, value_words
from titanlab.sweeps.tuning.halving import Rung, rungs, steps_taken
from titanlab.sweeps.tuning.search import Values, random_first

if TYPE_CHECKING:
    from titanlab.platform.task import TaskConfig
    from titanlab.sweeps.planning.plan import Cell, Trial

State: TypeAlias = Literal["open", "complete", "given up", "failed"]


@dataclass(frozen=True)
class Tried:
    """A point that is tried for a cell."""

    number: int
    """From 0, in the order of the search."""
    values: Values
    """Dotted key -> value."""
    trials: tuple[Trial, ...]
    """One a seed."""
    state: State = "open"
    """`given up`: a rung stopped it; `failed`: it diverged, or could not be trained."""
    value: float | None = None
    """The mean of the metric, of a point that was given up at its last rung; infinite, as the worst, if it failed."""


@dataclass(frozen=True)
class Search:
    """The tuning of one cell."""

    cell: Cell
    tried: tuple[Tried, ...] = ()
    """The points that are known by now, in their order."""
    to_come: int = 0
    """Points that are picked when others have ended."""
    chosen: Tried | None = None
    """The best point, once all have ended; None also if none has a value."""

    @property
    def ended(self) -> bool:
        """Whether no point is left to try."""
        return not self.to_come and all(point.state != "open" for point in self.tried)


@dataclass(frozen=True)
class Tuning:
    """The tuning of all cells."""

    config: TuneConfig
    aim: Aim
    """What a point is judged by, of the validation split."""
    searches: tuple[Search, ...] = field(default=())
    """One a cell, once the store was looked at."""

    @property
    def space(self) -> dict[str, Span]:
        """Dotted key -> the values that are tried."""
        return self.config.space

    @property
    def runs(self) -> int:
        """Tuning trials of a cell: points times seeds."""
        return self.config.trials * len(self.config.seeds)

    def rungs(self, cell: Cell) -> list[Rung]:
        """Where points of a cell are given up; none with `fifo`."""
        steps = cell.budget.steps
        if self.config.scheduler == "fifo" or steps is None:
            return []
        return rungs(self.config.trials, steps, self.config.reduction)

    def steps_of(self, cell: Cell) -> int | None:
        """Optimizer steps that tuning a cell takes at most; None: not known before it runs."""
        steps, config = cell.budget.steps, self.config
        if steps is None:
            return None
        one = (
            steps * config.trials if config.scheduler == "fifo" else steps_taken(config.trials, steps, config.reduction)
        )
        return one * len(config.seeds)

    def search(self, cell_key: str) -> Search:
        """The search of a cell."""
        return next(search for search in self.searches if search.cell.key == cell_key)

    @property
    def words(self) -> str:
        """How points are picked and judged, in a sentence."""
        config = self.config
        how = {
            "random": "drawn at random, the same for every cell",
            "optuna": f"picked by Optuna's TPE for each cell, the first {random_first(config.trials)} at random",
        }[config.method]
        halving = f", of which one in {config.reduction} goes on at each rung" if config.scheduler == "halving" else ""
        seeds = f" with {len(config.seeds)} seeds each" if len(config.seeds) > 1 else ""
        best = "highest" if self.aim.direction == "max" else "lowest"
        return f"{config.trials} points a cell{seeds}, {how}{halving}; the {best} {self.aim.metric} is chosen"


def aim_of_tuning(config: TuneConfig, objective: Aim, tasks: Sequence[TaskConfig]) -> Aim:
    """What points are judged by.

    Raises:
        ValueError: the metric is not of the validation split, or a task does not declare it.
    """
    prefix, _, name = objective.metric.partition("/")
    followed = f"val/{name}" if prefix in ("final", "val") else f"val/{tasks[0].metrics()[0]}"
    metric = config.metric or followed
    for task in tasks:
        known = [f"val/{one}" for one in task.metrics()]
        if metric.startswith("final/") and f"val/{metric.removeprefix('final/')}" in known:
            raise ValueError(
                f"{metric} is of the test split, which no choice may look at; write val/{metric.removeprefix('final/')}"
            )
        if metric not in known:
            guess = f"val/{metric}" if metric in task.metrics() else nearest(metric, known)
            raise ValueError(
                unknown_name(f"metric of the validation split of the task '{task.type_name}'", metric, known, guess)
            )
    same = metric == followed and prefix in ("final", "val")
    default = objective.direction if same else "min" if smaller_is_better(metric) else "max"
    return Aim(metric, config.direction or default)


def settings_words(values: Mapping[str, Any]) -> str:
    """`learning_rate=0.003 weight_decay=0.1`."""
    return " ".join(f"{key.rpartition('.')[2]}={value_words(value)}" for key, value in values.items())
