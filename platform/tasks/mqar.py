"""Multi-query associative recall: how many key-value pairs a model can hold and look up.

Arora et al., "Zoology", arXiv 2312.04927, section 4 and appendix; the protocol is that of its published experiments.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from titanlab.platform.config import Config, digest, validation_error
from titanlab.platform.task import TASKS, Batch, Split, Task, TaskConfig
from titanlab.platform.tasks.evaluation import Score, over_ranks, rows_a_batch, score
from titanlab.platform.tasks.random_streams import distinct, distinct_weighted, stream

VERSION = 1
"""Raised when the generator changes, so that its digest does."""


class MqarSize(Config):
    """How hard one group of rows is."""

    length: int = Field(64, ge=4, le=1 << 20)
    """Tokens in a row."""
    pairs: int = Field(8, ge=1, le=1 << 18)
    """Key-value pairs in a row, each queried once; at most a quarter of the length."""

    @model_validator(mode="after")
    def _pairs_and_queries_fit(self) -> Self:
        _refuse_too_many_pairs(type(self).__name__, self.length, self.pairs)
        return self

    def __str__(self) -> str:
        return f"{self.length}x{self.pairs}"


class MqarTrainingSize(MqarSize):
    """One part of a training mixture."""

    examples: int = Field(0, ge=0)
    """Different rows of this size, met again in every epoch; 0, in every part of the mixture: rows never repeat."""


@TASKS.register("mqar")
class MqarConfig(TaskConfig):
    """Multi-query associative recall (Zoology): key-value pairs, then some keys again; say their values.

    A row of length 12 with 2 pairs, keys 1-7 and values 8-15, filler zero:

        position  0  1  2  3  4  5  6  7  8  9 10 11
        ids       3 14  5  9  5  0  0  0  3  0  0  0
        targets               9           14            counted at positions 4 and 8 only

    Keys of a row differ from each other, and so do its values. Queries stand at even distances from the end of the
    pairs, distance 2 i drawn without replacement with probability proportional to (i + 1)^(power - 1).

    Zoology's own mixture is train_sizes [{length: 64, pairs: 4, examples: 100000}, {length: 128, pairs: 8,
    examples: 20000}, ... {length: 256, pairs: 64, examples: 20000}] and eval_sizes up to {length: 1024, pairs: 256}.
    """

    vocab: int = Field(8192, ge=4, le=1 << 20)
    """Token ids: keys are 1 .. vocab/2 - 1, values vocab/2 .. vocab - 1, and 0 is filler."""
    length: int = Field(64, ge=4, le=1 << 20)
    """Tokens in a row."""
    pairs: int = Field(8, ge=1, le=1 << 18)
    """Key-value pairs in a row, each queried once; at most a quarter of the length."""
    power: float = Field(0.01, gt=0, le=16)
    """Exponent of the distances between pairs and queries: small, most queries follow soon; 1, all distances alike."""
    filler: Literal["zero", "random"] = "zero"
    """What stands where nothing is asked: the token 0, or any token of the vocabulary."""
    train_examples: int = Field(0, ge=0)
    """Different training rows, met again in every epoch (rounded to whole batches); 0: rows never repeat."""
    train_sizes: list[MqarTrainingSize] = []
    """A training mixture of several sizes; replaces length, pairs and train_examples. A batch has rows of one size."""
    eval_sizes: list[MqarSize] = []
    """Sizes to evaluate, each with an accuracy of its own; empty: the sizes of training."""
    eval_examples: int = Field(512, ge=1)
    """Rows of each size in the validation split, and as many in the test split."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        name = type(self).__name__
        if self.train_sizes:
            self._refuse_ignored_settings(name)
        else:
            _refuse_too_many_pairs(name, self.length, self.pairs)
            self._refuse_small_vocab(("pairs",), self.pairs)
        if len({size.examples > 0 for size in self.train_sizes}) > 1:
            message = "give `examples` for every size of the mixture, or for none (rows never repeat)"
            raise validation_error(name, [(("train_sizes",), message, self.train_sizes)])
        self._check_sizes("train_sizes", self.train_sizes)
        self._check_sizes("eval_sizes", self.eval_sizes)
        return self

    def _check_sizes(self, key: str, sizes: Sequence[MqarSize]) -> None:
        for index, size in enumerate(sizes):
            self._refuse_small_vocab((key, index, "pairs"), size.pairs)
            if any(str(size) == str(other) for other in sizes[:index]):
                message = f"length {size.length} with {size.pairs} pairs stands here twice"
                raise validation_error(type(self).__name__, [((key, index), message, size)])

    def _refuse_ignored_settings(self, name: str) -> None:
        for key in ("length", "pairs", "train_examples"):
            if getattr(self, key) != type(self).model_fields[key].default:
                message = f"`train_sizes` replaces `{key}`: give one of them, not both"
                raise validation_error(name, [((key,), message, getattr(self, key))])

    def _refuse_small_vocab(self, path: tuple[str | int, ...], pairs: int) -> None:
        keys = self.vocab // 2 - 1
        if pairs > keys:
            needed = f"{pairs} pairs need {pairs} different keys, but `vocab: {self.vocab}` has {keys}"
            message = f"{needed}; expected vocab >= {2 * pairs + 2}"
            raise validation_error(type(self).__name__, [(path, message, pairs)])

    @property
    def vocab_size(self) -> int:
        return self.vocab

    @property
    def row_length(self) -> int:
        return max(size.length for size in self.training_sizes())

    def training_sizes(self) -> Sequence[MqarTrainingSize]:
        """The mixture, of one part if none is given."""
        alone = MqarTrainingSize.model_construct(length=self.length, pairs=self.pairs, examples=self.train_examples)
        return self.train_sizes or [alone]

    def evaluation_sizes(self) -> Sequence[MqarSize]:
        """The sizes that are evaluated."""
        return self.eval_sizes or self.training_sizes()

    def metrics(self) -> tuple[str, ...]:
        sizes = self.evaluation_sizes()
        return ("loss", "accuracy", *(f"accuracy/{size}" for size in sizes if len(sizes) > 1))

    def build(self) -> MqarTask:
        return MqarTask(self)


class MqarTask(Task):
    """Rows made when asked for; nothing is stored."""

    def __init__(self, config: MqarConfig) -> None:
        self.config, self.vocab_size = config, config.vocab_size

    @property
    def digest(self) -> str:
        first = [self._rows(size, 1, "test", 0).ids.tolist() for size in self.config.evaluation_sizes()]
        return digest({"generator": f"mqar {VERSION}", "settings": self.config.settings(), "first": first})

    def train_batches(self, seed: int, batch_size: int, start: int = 0) -> Iterator[Batch]:
        for number in itertools.count(start):
            yield self._train_batch(seed, batch_size, number)

    def _train_batch(self, seed: int, batch_size: int, number: int) -> Batch:
        sizes = self.config.training_sizes()
        if not sizes[0].examples:
            size = sizes[stream("mqar order", VERSION, seed, number).integers(len(sizes)).item()]
            return self._rows(size, batch_size, "train", seed, batch_size, number)
        # A finite set is cut into batches of one size each; an epoch shuffles the batches, as zoology does.
        blocks = [(size, block) for size in sizes for block in range(max(1, size.examples // batch_size))]
        epoch, place = divmod(number, len(blocks))
        size, block = blocks[stream("mqar order", VERSION, seed, epoch).permutation(len(blocks))[place]]
        return self._rows(size, batch_size, "train", seed, batch_size, block)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        sizes = self.config.evaluation_sizes()
        scores = over_ranks([self._score(model, split, size) for size in sizes])
        total = Score()
        for each in scores:
            total = total.plus(each)
        single = {f"accuracy/{size}": each.accuracy for size, each in zip(sizes, scores, strict=True) if len(sizes) > 1}
        return {"loss": total.mean_loss, "accuracy": total.accuracy, **single}

    def _score(self, model: nn.Module, split: Split, size: MqarSize) -> Score:
        rows, examples = rows_a_batch(size.length, self.vocab_size), self.config.eval_examples

        def batch(number: int) -> Batch:
            return self._rows(size, min(rows, examples - number * rows), split, number)

        return score(model, -(-examples // rows), batch)

    def _rows(self, size: MqarSize, rows: int, *purpose: str | int) -> Batch:
        config = self.config
        random = stream("mqar", VERSION, config.vocab, config.power, config.filler, size.length, size.pairs, *purpose)
        return mqar_batch(random, rows, size, config)


def mqar_batch(random: np.random.Generator, rows: int, size: MqarSize, config: MqarConfig) -> Batch:
    """`rows` rows of one size; see `MqarConfig` for their layout."""
    context, first_value = 2 * size.pairs, config.vocab // 2
    keys = 1 + distinct(random, rows, first_value - 1, size.pairs)
    values = first_value + distinct(random, rows, config.vocab - first_value, size.pairs)
    places = (size.length - context) // 2
    law = np.arange(1, places + 1, dtype=np.float64) ** (config.power - 1)
    queries = context + 2 * distinct_weighted(random, rows, law, size.pairs)

    ids = np.zeros((rows, size.length), dtype=np.int64)
    if config.filler == "random":
        ids = random.integers(config.vocab, size=ids.shape)
    targets, mask = np.zeros_like(ids), np.zeros(ids.shape, dtype=np.float32)
    ids[:, 0:context:2], ids[:, 1:context:2] = keys, values
    np.put_along_axis(ids, queries, keys, axis=1)
    np.put_along_axis(targets, queries, values, axis=1)
    np.put_along_axis(mask, queries, 1.0, axis=1)
    return Batch(torch.from_numpy(ids), torch.from_numpy(targets), torch.from_numpy(mask))


def _refuse_too_many_pairs(title: str, length: int, pairs: int) -> None:
    if 4 * pairs > length:
        message = f"{pairs} pairs and their queries need `length` >= {4 * pairs} (4 a pair), but `length` is {length}"
        raise validation_error(title, [(("pairs",), message, pairs)])
