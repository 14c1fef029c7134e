"""A model reads a stream of any length, piece by piece, its state handed on; on the way is told how that goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titanlab.platform.decoding.computing import DeviceMemory, is_out_of_memory, wait_for
from titanlab.platform.decoding.session import Session
from titanlab.platform.decoding.state_tree import first_not_finite, state_bytes
from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.precision import Precision
from titanlab.platform.streaming.schedule import Cut, cuts, places_told
from titanlab.platform.streaming.state_norms import StateNorm, state_norms
from titanlab.platform.streaming.tokens import Tokens
from titanlab.platform.tasks.evaluation import device_of
from titanlab.platform.tensors import Ids, Logits, State, at_least_float32

PIECE = 65_536
LOGITS = 1 << 27
"""Numbers of logits a piece at most; with a large vocabulary pieces are shorter for it."""
COMPARED = 1 << 24
"""Numbers of logits that are compared with targets at once."""

Ended: TypeAlias = Literal["length", "memory", "numbers", "time"]


@dataclass(frozen=True)
class StreamSettings:
    """How a stream is read."""

    length: int
    """Tokens of a row."""
    piece: int = PIECE
    """Tokens of a call at most."""
    precision: Precision = "auto"
    graphs: bool = False
    """Whether pieces are recorded as CUDA graphs, where launching the operations takes longer than the operations."""
    targets: bool = True
    """Whether each token's loss is summed, its target being the next one."""
    seconds: float | None = None
    """After so many seconds of reading, the stream ends with the piece under way."""
    state_limit: int | None = None
    """Bytes of state at which the stream ends as if memory were full; None: when it is."""
    also_told: tuple[int, ...] = ()
    """Further places where something is told."""

    def __post_init__(self) -> None:
        for name in ("length", "piece"):
            if getattr(self, name) < 1:
                raise ConfigError(Problem(f"{name}: expected at least 1 token, got {getattr(self, name)}"))


class Stretch(NamedTuple):
    """Between two places where something is told."""

    start: int
    stop: int
    seconds: float
    """Of reading, targets and norms apart."""
    tokens_per_second: float
    """Over all rows."""
    loss: float | None
    """Nats a token; None without targets."""
    state_bytes: int
    """Of all rows, at its end."""
    memory_bytes: int
    """In use on the device at its end; of a CPU, by the process."""
    peak_bytes: int | None
    """The most in use during it; None on a CPU."""
    pieces: int
    """Calls of the model."""
    norms: list[StateNorm]
    """At its end."""


@dataclass
class Course:
    """What a stream came to."""

    stretches: list[Stretch] = field(default_factory=list)
    reached: int = 0
    """Tokens of a row that were read."""
    ended: Ended = "length"
    """Why it ended: all was read, memory was full, a number was not finite, or time was up."""
    reason: str = ""
    """The same in words; empty if all was read."""
    state: State | None = None
    """After the last whole piece; None where memory was full."""


def default_piece(vocab_size: int, batch: int) -> int:
    """`PIECE`, or less where its logits would take too much."""
    return max(1, min(PIECE, LOGITS // (vocab_size * batch)))


def stream(
    model: nn.Module,
    tokens: Tokens,
    settings: StreamSettings,
    told: Callable[[Stretch], None] = lambda stretch: None,
) -> Course:
    """Reads a stream from a fresh state.

    A state that does not grow is all that is kept between pieces, so memory does not depend on the length. Where it
    grows (the transformer's keys and values), the stream ends when memory is full, with what was reached.

    Args:
        model: `model(ids, state) -> (logits, state)`, in evaluation mode.
        tokens: the stream; input number i is token i - 1, its target token i.
        settings: length, pieces, limits.
        told: is given each stretch as it ends.
    """
    return _Reader(model, tokens, settings, told).read()


class _Reader:
    """One reading."""

    def __init__(
        self, model: nn.Module, tokens: Tokens, settings: StreamSettings, told: Callable[[Stretch], None]
    ) -> None:
        self.session = Session(model, precision=settings.precision, graphs="all" if settings.graphs else "none")
        self.device, self.tokens, self.settings, self.told = device_of(model), tokens, settings, told
        self.memory, self.course = DeviceMemory(self.device), Course()
        self._begin()

    def read(self) -> Course:
        course, settings, spent = self.course, self.settings, 0.0
        places = places_told(settings.length, settings.also_told)
        for cut in cuts(settings.length, settings.piece, places):
            before = self.seconds
            try:
                self._piece(cut)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                # The cache this ends for is let go, so that what comes next has room.
                self._end("memory", f"out of memory after {cut.start:,} tokens")
                del self.session
                return course
            course.reached = cut.stop
            spent += self.seconds - before
            self._look()
            if self.course.ended == "length" and settings.seconds is not None and spent >= settings.seconds:
                if cut.stop < settings.length:
                    self._end("time", f"stopped after {spent:.0f} s at {cut.stop:,} tokens")
            if cut.told or course.ended != "length":
                self._tell(cut.stop)
            if course.ended != "length":
                break
        course.state = self.session.state
        return course

    def _piece(self, cut: Cut) -> None:
        """Reads one piece; its clock runs while the model computes."""
        both = self.tokens.between(cut.start - 1, cut.stop).to(self.device)
        wait_for(self.device)
        began = time.perf_counter()
        logits = self.session.run(both[:, :-1])
        wait_for(self.device)
        self.seconds += time.perf_counter() - began
        self.pieces += 1
        self.counted += both[:, 1:].numel()
        self._look_at(logits, cut)
        if self.settings.targets:
            self.nats += summed_loss(logits, both[:, 1:])

    def _look_at(self, logits: Logits, cut: Cut) -> None:
        fine = logits.isfinite().all(-1).all(0)
        if not bool(fine.all()):
            first = cut.start + int((~fine).nonzero()[0])
            self._end("numbers", f"the logits of token {first:,} are not finite")

    def _look(self) -> None:
        """Ends the stream where its state has grown too large or is not finite."""
        limit, state = self.settings.state_limit, self.session.state
        if self.course.ended != "length":
            return
        if (name := first_not_finite(state)) is not None:
            self._end("numbers", f"state{name} is not finite after {self.course.reached:,} tokens")
        elif limit is not None and state_bytes(state) > limit:
            self._end("memory", f"the state is larger than {limit:,} bytes after {self.course.reached:,} tokens")

    def _end(self, ended: Ended, reason: str) -> None:
        self.course.ended, self.course.reason = ended, reason

    def _begin(self) -> None:
        self.seconds, self.nats = 0.0, 0.0
        self.counted, self.pieces = 0, 0
        self.memory.begin()

    def _tell(self, stop: int) -> None:
        state = self.session.state
        assert state is not None
        start = self.course.stretches[-1].stop if self.course.stretches else 0
        with torch.no_grad():
            norms = state_norms(state)
        stretch = Stretch(
            start=start,
            stop=stop,
            seconds=self.seconds,
            tokens_per_second=self.counted / max(self.seconds, 1e-9),
            loss=self.nats / self.counted if self.settings.targets else None,
            state_bytes=state_bytes(state),
            memory_bytes=self.memory.now,
            peak_bytes=self.memory.peak,
            pieces=self.pieces,
            norms=norms,
        )
        self.course.stretches.append(stretch)
        self.told(stretch)
        self._begin()


@torch.no_grad()
def summed_loss(logits: Logits, targets: Ids) -> float:
    """Nats over all positions, some of them at a time: the logits' float32 copy takes little room."""
    rows = max(1, COMPARED // logits.shape[-1])
    flat, wanted = logits.flatten(0, 1), targets.flatten()
    losses: list[Tensor] = []
    for first in range(0, len(wanted), rows):
        part = flat[first : first + rows]
        part = part.to(at_least_float32(part.dtype))
        losses.append(F.cross_entropy(part, wanted[first : first + rows], reduction="sum").double())
    return float(torch.stack(losses).sum())
