"""Rows in pieces, of which several are computed at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from titanlab.platform import wavefront
from titanlab.platform.run_config import TrainConfig
from titanlab.platform.wavefront import in_wavefront

LAYERS, PIECES = 3, 7


class Stream:
    """What a stream is told to do, in place of one of a GPU."""

    current: Stream

    def __init__(self, *device: Any) -> None:
        self.number = 0
        self.queue: list[tuple[str, Any]] = []

    def wait_stream(self, other: Stream) -> None:
        self.queue.append(("wait", (other, len(other.queue))))

    def wait_event(self, event: tuple[Stream, int]) -> None:
        self.queue.append(("wait", event))

    def record_event(self) -> tuple[Stream, int]:
        return self, len(self.queue)


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """The stream on which everything else is computed."""
    Stream.current = first = Stream()

    @contextmanager
    def entered(stream: Stream) -> Iterator[None]:
        before, Stream.current = Stream.current, stream
        yield
        Stream.current = before

    monkeypatch.setattr("torch.cuda.Stream", Stream)
    monkeypatch.setattr("torch.cuda.stream", entered)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: Stream.current)
    monkeypatch.setattr(wavefront, "_STREAMS", {})
    return first


def layers(seen: list[tuple[int, Stream]]) -> list[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Each adds up all that it has seen, with a weight of its own, and says on which stream it did."""

    def layer(index: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        weight = torch.tensor(0.5 + index, dtype=torch.float64, requires_grad=True)

        def call(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            seen.append((index, Stream.current))
            Stream.current.queue.append(("layer", index))
            sums = state[:, None] + (weight * x).tanh().cumsum(1)
            return sums, sums[:, -1]

        return call

    return [layer(index) for index in range(LAYERS)]


def computed(way: Callable[..., tuple[Tensor, list[Tensor]]]) -> tuple[list[Tensor], list[tuple[int, Stream]]]:
    torch.manual_seed(0)
    seen: list[tuple[int, Stream]] = []
    x = torch.randn(2, 2 * PIECES, 4, dtype=torch.float64, requires_grad=True)
    states = [torch.randn(2, 4, dtype=torch.float64, requires_grad=True) for _ in range(LAYERS)]
    y, after = way(layers(seen), x, states)
    gradients = torch.autograd.grad(sum((z * z).sum() for z in (y, *after)), [x, *states])
    return [y, *after, *gradients], seen


def at_once(steps: Any, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    return wavefront._at_once(steps, x.split(2, 1), list(states))


@pytest.mark.usefixtures("main")
def test_pieces_at_once_give_what_pieces_in_turn_do() -> None:
    (found, seen), (expected, _) = computed(at_once), computed(lambda *given: in_wavefront(*given, 2))
    whole, _ = computed(lambda *given: in_wavefront(*given, 100))
    assert len(seen) == LAYERS * PIECES
    for one, other, third in zip(found, expected, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        torch.testing.assert_close(one, third, rtol=0, atol=1e-12)


def test_a_layer_waits_for_the_piece_before_and_for_nothing_later(main: Stream) -> None:
    _, seen = computed(at_once)
    # What must have happened before each call, by streams' order and what they waited for.
    place: dict[tuple[int, int], tuple[Stream, int]] = {}
    counts = [0] * LAYERS
    position: dict[int, int] = {}
    for index, stream in seen:
        queue = [at for at, (kind, what) in enumerate(stream.queue) if kind == "layer"]
        at = queue[position.get(id(stream), 0)]
        position[id(stream)] = position.get(id(stream), 0) + 1
        place[counts[index], index] = stream, at
        counts[index] += 1

    def happened(stream: Stream, stop: int, known: dict[int, int]) -> dict[int, int]:
        """For each stream up to where its queue is done when that of `stream` is at `stop`."""
        if known.get(id(stream), -1) >= stop:
            return known
        known[id(stream)] = stop
        for kind, what in stream.queue[:stop]:
            if kind == "wait":
                happened(*what, known)
        return known

    for (piece, index), (stream, at) in place.items():
        done = happened(stream, at, {})

        def is_done(other: tuple[int, int], done: dict[int, int] = done) -> bool:
            where, number = place[other]
            return done.get(id(where), -1) > number

        assert piece == 0 or is_done((piece - 1, index))
        assert index == 0 or is_done((piece, index - 1))
        later = [cell for cell in place if sum(cell) > piece + index]
        assert not any(map(is_done, later))
    done = happened(main, len(main.queue), {})
    assert all(done.get(id(stream), -1) > at for stream, at in place.values())
    streams = {id(stream) for stream, _ in place.values()}
    assert len(streams) == wavefront.STREAMS + 1
    first = place[0, 0][0]
    assert [piece for (piece, _), (stream, _) in place.items() if stream is first] == [0] * LAYERS


def test_pieces_are_not_computed_again() -> None:
    with pytest.raises(ValidationError, match="cannot be used with `checkpoint_blocks`"):
        TrainConfig(wavefront=16, checkpoint_blocks=True)
