"""What planned models cost, each distinct model built once and without storage."""

from __future__ import annotations

import traceback
from collections.abc import Hashable

from titanlab.platform.costs import Costs, model_costs
from titanlab.platform.errors import ConfigError
from titanlab.platform.run_config import RunConfig


class UnbuildableError(Exception):
    """A model whose settings are valid one by one but not together; says why.

    Args:
        reason: for people.
        path: dotted, of the setting at fault where the model knows it (`model.memory.heads`).
    """

    def __init__(self, reason: str, path: str = "model") -> None:
        super().__init__(reason)
        self.path = path


class Sizes:
    """Counts models by their settings; a model met again is not built again."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Costs | UnbuildableError] = {}

    def of(self, run: RunConfig) -> Costs:
        """What a run's model costs.

        Raises:
            UnbuildableError: the model cannot be built.
        """
        key = (run.model.model_dump_json(), run.task.vocab_size, run.task.row_length)
        if key not in self._known:
            self._known[key] = _measure(run)
        costs = self._known[key]
        if isinstance(costs, UnbuildableError):
            raise costs
        return costs


def _measure(run: RunConfig) -> Costs | UnbuildableError:
    try:
        return model_costs(run.model, run.task.vocab_size, run.task.row_length)
    except ConfigError as error:
        reason = "; ".join(problem.message for problem in error.problems)
        return UnbuildableError(reason, error.problems[0].path or "model")
    except ValueError as error:
        return UnbuildableError(str(error))
    except Exception as error:  # a plug-in's own mistake: say where it is, a plan runs nothing that could be lost
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = (str(error).splitlines() or [""])[0]
        return UnbuildableError(f"{type(error).__name__}: {reason} ({frame.filename}:{frame.lineno})")
