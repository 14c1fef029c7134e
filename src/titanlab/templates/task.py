"""A task of your own: `titanlab sweep run template.yaml --plugin template.py` compares two memories on it.

Change the rows in `_rows` and the settings in `TemplateConfig`; `test_template.py` says whether rows still depend on
their number alone, which is what makes an interrupted run go on exactly.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from titanlab import TASKS, Batch, Task, TaskConfig
from titanlab.platform.config import digest
from titanlab.platform.tasks.evaluation import over_ranks, score
from titanlab.platform.tasks.random_streams import stream

VERSION = 1
"""Raise it when the rows change, so that results of the old rows are not taken for results of the new."""


@TASKS.register("template")  # the name in YAML: `task: {type: template}`
class TemplateConfig(TaskConfig):
    """Repeat a row of random symbols after a separator: [a b c | a b c], every symbol of the second half counted."""

    # Your settings. Each may be an axis of a sweep (`task.symbols: [4, 8, 16]`); the text under it is what
    # `titanlab list tasks template --plugin template.py` shows. All need a default.
    symbols: int = Field(8, ge=1, le=4096)
    """Symbols to repeat."""
    alphabet: int = Field(16, ge=2, le=65536)
    """Different symbols; the token after them is the separator."""
    eval_examples: int = Field(128, ge=1)
    """Rows in the validation split, and as many in the test split."""

    def build(self) -> TemplateTask:
        return TemplateTask(self)

    def metrics(self) -> tuple[str, ...]:
        return ("loss", "accuracy")

    @property
    def vocab_size(self) -> int:
        return self.alphabet + 1

    @property
    def row_length(self) -> int:
        return 2 * self.symbols


class TemplateTask(Task):
    """Rows made when asked for; nothing is stored."""

    def __init__(self, config: TemplateConfig) -> None:
        self.config, self.vocab_size = config, config.vocab_size

    @property
    def digest(self) -> str:
        return digest({"rows": f"template {VERSION}", "settings": self.config.settings()})

    def train_batches(self, seed: int, batch_size: int, start: int = 0) -> Iterator[Batch]:
        """Batch number i depends on the settings, seed, batch_size and i only."""
        for number in itertools.count(start):
            yield self._rows(batch_size, "train", seed, number)

    def evaluate(self, model: nn.Module, split: Literal["val", "test"]) -> dict[str, float]:
        """The metrics that `TemplateConfig.metrics` declares, on rows that training never saw."""
        # `score` shares the batches between ranks, here one batch; `over_ranks` adds their sums up.
        (total,) = over_ranks([score(model, 1, lambda number: self._rows(self.config.eval_examples, split))])
        return {"loss": total.mean_loss, "accuracy": total.accuracy}

    def _rows(self, rows: int, *purpose: str | int) -> Batch:
        """What the model reads, what it should say at each position, and 1.0 where that counts, each [rows, t]."""
        # Your rows. `stream` gives random numbers that depend on what they are for, and on nothing drawn before.
        random = stream("template", VERSION, self.config.alphabet, self.config.symbols, rows, *purpose)
        symbols = torch.from_numpy(random.integers(self.config.alphabet, size=(rows, self.config.symbols)))
        separator = torch.full((rows, 1), self.config.alphabet)
        whole = torch.cat([symbols, separator, symbols], 1)
        ids, targets = whole[:, :-1], whole[:, 1:]
        counted = torch.arange(ids.shape[1]) >= self.config.symbols
        return Batch(ids, targets, counted.float().expand(rows, -1))
