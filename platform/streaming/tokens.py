"""What a stream is made of: each token follows from its place, so that a stream of any length takes no room."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from titanlab.platform.corpora.byte_ids import START
from titanlab.platform.errors import DataError
from titanlab.platform.tasks.random_streams import stream as random_stream
from titanlab.platform.tensors import Ids

BLOCK = 1 << 16
"""Random tokens that are drawn together."""


class Tokens(Protocol):
    """A stream."""

    def between(self, start: int, stop: int) -> Ids:
        """Tokens number `start` .. `stop` - 1 of every row, [b, stop - start], on the CPU; before 0: `START`."""


class RandomTokens(NamedTuple):
    """Uniformly drawn tokens: what a model that was not trained reads as well as any text."""

    vocab_size: int
    batch: int = 1
    seed: int = 0

    def between(self, start: int, stop: int) -> Ids:
        """See `Tokens`."""
        blocks = [self._block(number) for number in range(max(start, 0) // BLOCK, -(-stop // BLOCK))]
        first = max(start, 0) // BLOCK * BLOCK
        drawn = [block[:, max(start - first - index * BLOCK, 0) :] for index, block in enumerate(blocks)]
        row = torch.cat(drawn, 1)[:, : stop - max(start, 0)] if drawn else torch.empty(self.batch, 0, dtype=torch.int64)
        return _after_start(row, start, stop)

    def _block(self, number: int) -> Ids:
        drawn = random_stream("tokens", self.seed, number).integers(self.vocab_size, size=(self.batch, BLOCK))
        return torch.from_numpy(drawn)


class TextTokens:
    """The bytes of a text, from the beginning again where it ends; each row begins at another place of it.

    Raises:
        DataError: there is no text, or less than a byte a row.
    """

    def __init__(self, text: bytes, *, batch: int = 1) -> None:
        if not text:
            raise DataError("the text of the stream is empty; give one with something in it")
        if len(text) < batch:
            raise DataError(f"the text of the stream has {len(text)} bytes, too few for {batch} rows that differ")
        self._bytes = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self._begins = torch.arange(batch) * (len(text) // batch)

    def between(self, start: int, stop: int) -> Ids:
        """See `Tokens`."""
        places = torch.arange(max(start, 0), stop) + self._begins[:, None]
        return _after_start(self._bytes[places % len(self._bytes)].long(), start, stop)


def _after_start(row: Ids, start: int, stop: int) -> Ids:
    before = min(stop, 0) - min(start, 0)
    return torch.cat([row.new_full((row.shape[0], before), START), row], 1) if before else row
