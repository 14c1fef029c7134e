"""The interface of a task: data to train on and metrics to compare runs by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

from torch import nn

from titanlab.platform.config import Config
from titanlab.platform.registry import Registry
from titanlab.platform.tensors import Ids, Mask

Split: TypeAlias = Literal["val", "test"]


class Batch(NamedTuple):
    """Rows of token ids; a row is a piece of one document, padded at its end only."""

    ids: Ids
    """What the model reads."""
    targets: Ids
    """What it should say at each position (already shifted: the target of position t is no input before t + 1)."""
    mask: Mask
    """1.0 where a position counts towards loss and metrics, else 0.0."""


class TaskConfig(Config, ABC):
    """Settings of a task; register the subclass and it can be named as `task: {type: ...}`."""

    @abstractmethod
    def build(self) -> Task:
        """The task; may read data, so it is not called to plan a sweep."""

    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that `Task.evaluate` returns, known before any data is read."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of token ids, known before any data is read: a plan counts parameters with it."""

    @property
    def row_length(self) -> int | None:
        """Tokens of a training row, of the longest if they differ, known before any data is read; None: not known.

        What attention computes and holds depends on it, so a plan counts operations and state with it.
        """
        return None


_SMALLER_IS_BETTER = ("loss", "bits", "perplexity", "error", "seconds", "parameters", "bytes", "flops")


def smaller_is_better(metric: str) -> bool:
    """Whether less of a metric is better, by its name: so for losses, bits, perplexities, errors and costs."""
    return any(word in metric for word in _SMALLER_IS_BETTER) and metric != "cost/tokens_per_second"


class Task(ABC):
    """Data and metrics. Seeds fix the data: the same configuration gives the same batches on every machine."""

    vocab_size: int

    @property
    @abstractmethod
    def digest(self) -> str:
        """sha256 (hex) of the data the task stands for, logged with every run."""

    @abstractmethod
    def train_batches(self, seed: int, batch_size: int, start: int = 0) -> Iterator[Batch]:
        """Endless training batches of `batch_size` rows on the CPU, from batch number `start` on.

        Batch number i depends on (configuration, seed, batch_size, i) only, which is what makes a resumed run exact.
        """

    @abstractmethod
    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """The declared metrics on a split that training never saw; the model is in evaluation mode."""


TASKS: Registry[TaskConfig] = Registry("tasks", TaskConfig, "titanlab.platform.tasks")
"""Every task by name."""
