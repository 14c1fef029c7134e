"""Needle in a haystack: one sentence to find in a long text, at a known depth.

Hsieh et al., "RULER", arXiv 2404.06654, S-NIAH-1 (pass-key), S-NIAH-2 (number), S-NIAH-3 (UUID), in bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator
from torch import nn

from titanlab.platform.config import digest, validation_error
from titanlab.platform.corpora.byte_ids import BYTES
from titanlab.platform.distributed import share, sum_over_ranks
from titanlab.platform.task import TASKS, Batch, Split, Task, TaskConfig
from titanlab.platform.tasks.evaluation import Score, rows_a_batch, score_batch
from titanlab.platform.tasks.greedy import answered
from titanlab.platform.tasks.haystack import Haystack, Row, batch_of, shortest_row
from titanlab.platform.tasks.random_streams import stream

VERSION = 1
"""Raised when the generator changes, so that its digest does."""


@TASKS.register("needle")
class NeedleConfig(TaskConfig):
    """Needle in a haystack (RULER): find one sentence in a long text and say its number or UUID, byte by byte.

    A row of variant `number`, its answer the last 7 bytes (the only ones that count):

        <filler> One of the special magic numbers for quiet-lamp is: 4821903. <filler>
        What is the special magic number for quiet-lamp? It is: 4821903

    Accuracy is exact match of the whole answer, decoded greedily: the model reads its own bytes, not the answer's.
    RULER evaluates 500 rows a length at 40 depths.
    """

    variant: Literal["passkey", "number", "uuid"] = "passkey"
    """What is hidden: a 7-digit number under a fixed key, a 7-digit number under two random words, or a UUID so."""
    filler: Literal["auto", "noise", "kjv", "shakespeare"] = "auto"
    """Text around the needle: five repeated sentences, the Bible or Shakespeare; auto: noise for passkey, else kjv."""
    length: int = Field(256, ge=16, le=1 << 24)
    """Bytes in a training row, needle, question and answer included."""
    eval_lengths: list[int] = []
    """Bytes in the rows of evaluation, one accuracy each; empty: the length of training."""
    depths: int = Field(5, ge=2, le=101)
    """At how many depths, evenly from the filler's beginning to its end, the needle is hidden in evaluation."""
    eval_examples: int = Field(16, ge=1)
    """Rows of each length and depth in the validation split, and as many in the test split."""

    @model_validator(mode="after")
    def _rows_have_room(self) -> Self:
        shortest = shortest_row(self.variant)
        for path, length in (
            (("length",), self.length),
            *((("eval_lengths", i), n) for i, n in enumerate(self.eval_lengths)),
        ):
            if length < shortest:
                message = f"a row of `variant: {self.variant}` takes at least {shortest} bytes, got {length}"
                raise validation_error(type(self).__name__, [(path, message, length)])
        if len(set(self.eval_lengths)) < len(self.eval_lengths):
            message = f"each length may stand here once, got {self.eval_lengths}"
            raise validation_error(type(self).__name__, [(("eval_lengths",), message, self.eval_lengths)])
        return self

    @property
    def vocab_size(self) -> int:
        return BYTES

    @property
    def row_length(self) -> int:
        return self.length

    def lengths(self) -> Sequence[int]:
        """Lengths of the rows of evaluation."""
        return self.eval_lengths or [self.length]

    def percents(self) -> Sequence[int]:
        """Depths of evaluation, in percent of the filler before the needle."""
        return [round(100 * index / (self.depths - 1)) for index in range(self.depths)]

    def metrics(self) -> tuple[str, ...]:
        lengths = (f"accuracy/{length}" for length in self.lengths())
        return ("loss", "accuracy", *lengths, *(f"accuracy/depth_{percent}" for percent in self.percents()))

    def build(self) -> NeedleTask:
        return NeedleTask(self)


class _Piece(NamedTuple):
    """Rows of evaluation that are decoded together."""

    length: int
    numbers: range


class NeedleTask(Task):
    """Rows made when asked for, around text that training, validation and test do not share.

    Raises:
        DataError: the package of the filler or of the key words is missing.
    """

    vocab_size = BYTES

    def __init__(self, config: NeedleConfig) -> None:
        self.config, self.haystack = config, Haystack(config.variant, config.filler)

    @cached_property
    def _digest(self) -> str:
        first = [self._row("test", length, 0).text.hex() for length in self.config.lengths()]
        made = {"generator": f"needle {VERSION}", "settings": self.config.settings(), "first": first}
        return digest({**made, "haystack": self.haystack.digest})

    @property
    def digest(self) -> str:
        return self._digest

    def train_batches(self, seed: int, batch_size: int, start: int = 0) -> Iterator[Batch]:
        length = self.config.length
        for number in itertools.count(start):
            random = self._stream("train", length, seed, batch_size, number)
            yield batch_of([self.haystack.row(random, "train", length, depth) for depth in random.random(batch_size)])

    def _row(self, split: Split, length: int, number: int) -> Row:
        """Row `number` of a split; its depth goes through all depths in turn."""
        depth = self.config.percents()[number % self.config.depths] / 100
        return self.haystack.row(self._stream(split, length, number), split, length, depth)

    def _stream(self, *purpose: str | int) -> np.random.Generator:
        return stream("needle", VERSION, self.config.variant, self.config.filler, *purpose)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        config = self.config
        total = Score()
        hits = np.zeros((2, len(config.lengths()), config.depths))  # exact answers, and rows
        for piece in share(self._pieces()):
            rows = [self._row(split, piece.length, number) for number in piece.numbers]
            total = total.plus(score_batch(model, batch_of(rows)))
            depths = [number % config.depths for number in piece.numbers]
            place = config.lengths().index(piece.length)
            np.add.at(hits, (0, place, depths), answered(model, rows))
            np.add.at(hits, (1, place, depths), 1.0)
        sums = sum_over_ranks([*total, *hits.flatten().tolist()])
        found, asked = np.asarray(sums[3:]).reshape(hits.shape)
        return {"loss": Score(*sums[:3]).mean_loss, **self._accuracies(found, asked)}

    def _pieces(self) -> Iterator[_Piece]:
        for length in self.config.lengths():
            numbers = range(self.config.depths * self.config.eval_examples)
            step = rows_a_batch(length, BYTES)
            yield from (_Piece(length, numbers[first : first + step]) for first in range(0, len(numbers), step))

    def _accuracies(self, found: np.ndarray, asked: np.ndarray) -> dict[str, float]:
        """From counts [lengths, depths] of exact answers and of rows."""
        by_length, by_depth = found.sum(1) / asked.sum(1), found.sum(0) / asked.sum(0)
        return {
            "accuracy": float(found.sum() / asked.sum()),
            **{f"accuracy/{name}": float(value) for name, value in zip(self.config.lengths(), by_length, strict=True)},
            **{
                f"accuracy/depth_{name}": float(value)
                for name, value in zip(self.config.percents(), by_depth, strict=True)
            },
        }
