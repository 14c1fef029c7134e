"""A needle placed anywhere in a stream of up to millions of bytes: read in pieces, asked for at the end.

The rows are those of the task `needle` (RULER, arXiv 2404.06654): at the task's own lengths and depths its test rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from titanlab.platform.corpora.byte_ids import BYTES
from titanlab.platform.decoding.choosing import decode
from titanlab.platform.decoding.computing import is_out_of_memory
from titanlab.platform.decoding.session import Session
from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.precision import Precision
from titanlab.platform.streaming.prefill import read_to
from titanlab.platform.streaming.stream import PIECE
from titanlab.platform.streaming.tokens import TextTokens
from titanlab.platform.tasks.haystack import Filler, Haystack, Row, Variant, shortest_row
from titanlab.platform.tasks.needle import VERSION
from titanlab.platform.tasks.random_streams import stream as random_stream
from titanlab.platform.tensors import Ids

NUMBERS = 9_000_000
"""Of seven digits."""
UUIDS = 2.0**122
"""Of version 4."""


@dataclass(frozen=True)
class Needles:
    """What is looked for."""

    lengths: Sequence[int]
    """Bytes of a row, question and answer included."""
    depths: Sequence[float]
    """Parts of the filler before the needle, 0 .. 1."""
    examples: int = 1
    """Rows of each length and depth, read at once."""
    variant: Variant = "passkey"
    filler: Filler = "auto"

    def __post_init__(self) -> None:
        shortest = shortest_row(self.variant)
        for length in self.lengths:
            if length < shortest:
                message = f"a row of `variant: {self.variant}` takes at least {shortest} bytes, got {length}"
                raise ConfigError(Problem(message))
        for depth in self.depths:
            if not 0 <= depth <= 1:
                raise ConfigError(Problem(f"a needle's depth is a part of the filler, from 0 to 1; got {depth:g}"))

    @property
    def chance(self) -> float:
        """How often a guess among all answers of the right form is right."""
        return 1 / (UUIDS if self.variant == "uuid" else NUMBERS)

    def row(self, haystack: Haystack, length: int, place: int, example: int) -> Row:
        """The row at a length and depth number `place`; its number is that of the task's test rows."""
        number = example * len(self.depths) + place
        random = random_stream("needle", VERSION, self.variant, self.filler, "test", length, number)
        return haystack.row(random, "test", length, self.depths[place])


class Found(NamedTuple):
    """Rows of one length and depth."""

    length: int
    """Bytes of a row, question and answer included."""
    depth: float
    """Part of the filler before the needle."""
    found: int
    """Rows whose answer was said exactly."""
    asked: int
    seconds: float
    remark: str = ""
    """Why rows were not asked."""

    @property
    def accuracy(self) -> float | None:
        """None if nothing was asked."""
        return self.found / self.asked if self.asked else None


def search(
    model: nn.Module,
    needles: Needles,
    *,
    piece: int = PIECE,
    precision: Precision = "auto",
    told: Callable[[Found], None] = lambda found: None,
) -> list[Found]:
    """Looks for needles at every length and depth.

    Args:
        model: a language model of bytes, trained or not.
        needles: what is hidden, and where.
        piece: bytes of a call, over all rows.
        precision: see `computing`.
        told: is given each result.

    Raises:
        ConfigError: the model does not read bytes.
        DataError: the package of the filler or of the key words is missing.
    """
    _check_bytes(model)
    haystack, results = Haystack(needles.variant, needles.filler), []
    for length in needles.lengths:
        for place, depth in enumerate(needles.depths):
            rows = [needles.row(haystack, length, place, example) for example in range(needles.examples)]
            began, hits, asked, remark = time.perf_counter(), 0, len(rows), ""
            try:
                hits = sum(answers(Session(model, precision=precision, graphs="none"), rows, piece))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                asked, remark = 0, "out of memory"
            results.append(Found(length, depth, hits, asked, time.perf_counter() - began, remark))
            told(results[-1])
    return results


def _check_bytes(model: nn.Module) -> None:
    vocab_size = getattr(model, "vocab_size", BYTES)
    if vocab_size != BYTES:
        message = f"needles are looked for in bytes, by a model with {BYTES} token ids; this one has {vocab_size}"
        raise ConfigError(Problem(f"{message}. Train one on the tasks needle or language_modeling"))


def answers(session: Session, rows: Sequence[Row], piece: int) -> list[bool]:
    """For rows of one length, read at once: whether the model, given the prompt alone, says the answer exactly."""
    prompts = _Prompts(rows)
    last = read_to(session, prompts, -1, prompts.length - 1, max(1, piece // len(rows)))
    said = decode(session, last, len(rows[0].answer)).cpu()
    return [bytes(ids) == row.answer for ids, row in zip(said.tolist(), rows, strict=True)]


class _Prompts:
    """Prompts of one length as a stream; what the model reads first is `START`, then the first byte."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = [TextTokens(row.prompt) for row in rows]
        self.length = len(rows[0].prompt) + 1

    def between(self, start: int, stop: int) -> Ids:
        """See `Tokens`."""
        parts: list[Tensor] = [row.between(start, stop) for row in self._rows]
        return torch.cat(parts)
