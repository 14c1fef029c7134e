"""Parameters and memory state of planned models, each distinct model built once and without storage."""

from __future__ import annotations

import traceback
from typing import NamedTuple

from titanlab.platform.config import digest
from titanlab.platform.errors import ConfigError
from titanlab.platform.model import memory_state_size, meta_model, parameter_count
from titanlab.platform.run_config import RunConfig


class Size(NamedTuple):
    """What a model takes."""

    parameters: int
    memory_bytes: int
    """Bytes of memory state a sequence takes in float32, over all layers."""


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
        self._known: dict[str, Size | UnbuildableError] = {}

    def of(self, run: RunConfig) -> Size:
        """The size of a run's model.

        Raises:
            UnbuildableError: the model cannot be built.
        """
        key = digest([run.model.identity(), run.task.vocab_size])
        if key not in self._known:
            self._known[key] = _measure(run)
        size = self._known[key]
        if isinstance(size, UnbuildableError):
            raise size
        return size


def _measure(run: RunConfig) -> Size | UnbuildableError:
    try:
        model = meta_model(run.model, run.task.vocab_size)
        return Size(parameter_count(model), memory_state_size(run.model, model))
    except ConfigError as error:
        reason = "; ".join(problem.message for problem in error.problems)
        return UnbuildableError(reason, error.problems[0].path or "model")
    except ValueError as error:
        return UnbuildableError(str(error))
    except Exception as error:  # a plug-in's own mistake: say where it is, a plan runs nothing that could be lost
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = (str(error).splitlines() or [""])[0]
        return UnbuildableError(f"{type(error).__name__}: {reason} ({frame.filename}:{frame.lineno})")
