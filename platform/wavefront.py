"""A row in pieces, of which several are computed at once: each is a layer behind the one before it.

Layer l of piece s needs layer l - 1 of the same piece and the state that layer l left after piece s - 1. So where one
piece alone leaves most of a GPU idle, as a few long rows do in an architecture that goes segment by segment, layer l of
piece s is computed beside layer l + 1 of piece s - 1, each piece on a stream of its own:

    piece 0   l0 l1 l2 l3
    piece 1      l0 l1 l2 l3
    piece 2         l0 l1 l2 l3

The gradient runs on the same streams in the opposite direction. On a CPU the pieces follow one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks, set_warn_on_accumulate_grad_stream_mismatch
from torch.utils import _pytree as pytree

from titanlab.platform.made_once import for_all_pieces
from titanlab.platform.tensors import Hidden, State

Layer: TypeAlias = Callable[[Hidden, State], tuple[Hidden, State]]

STREAMS = 4
"""Pieces that are computed at once, at most, the first apart."""
MOST_WAITING = 15
"""Programs of a kernel that may run and wait for one that does not run yet: of 16, the most that wait for each other,
all but one. Those of all streams together must be less than run at once."""


def in_wavefront(layers: Sequence[Layer], x: Hidden, states: Sequence[State], piece: int) -> tuple[Hidden, list[State]]:
    """What the layers make of x one after another, and the state after each.

    Args:
        layers: each takes its input [b, t, dim] and its state, and gives its output and the state after it.
        x: [b, t, dim].
        states: before the first token, one a layer.
        piece: tokens of a piece.

    Raises:
        ValueError: not one state a layer.
    """
    if len(states) != len(layers):
        raise ValueError(f"state: has {len(states)} entries; expected {len(layers)}, one a layer")
    pieces, after = x.split(piece, 1), list(states)
    if len(pieces) == 1:
        return _in_turn(layers, pieces, after)
    with for_all_pieces():
        if x.is_cuda and (count := min(_most_streams(x.device), len(pieces))) > 1:
            return _at_once(layers, pieces, after, _streams(x.device, count))
        return _in_turn(layers, pieces, after)


@contextmanager
def streams_joined() -> Iterator[None]:
    """Within it a graph may be recorded: an error on its way joins the streams that the recording forked to, else CUDA
    could not end it, and its complaint about that would hide the error."""
    try:
        yield
    except BaseException:
        for device, streams in _STREAMS.items():
            main = torch.cuda.current_stream(device)
            for stream in streams:
                with torch.cuda.stream(stream):
                    is_recorded = torch.cuda.is_current_stream_capturing()
                if is_recorded:
                    with suppress(RuntimeError):  # the error may be that nothing can be recorded any more
                        main.wait_stream(stream)
        raise


def _at_once(
    layers: Sequence[Layer], pieces: Sequence[Tensor], after: list[State], streams: Sequence[torch.cuda.Stream]
) -> tuple[Hidden, list[State]]:
    """The streams are two at least, the first one for the first piece."""
    parts, last = list(pieces), len(layers) - 1
    main = torch.cuda.current_stream(pieces[0].device)
    for stream in streams:
        stream.wait_stream(main)
    passed: list[torch.cuda.Event | None] = [None] * len(layers)  # each layer, by the newest piece
    # Diagonal by diagonal, and later pieces first: the gradient is computed in the reverse order, and what it adds up
    # for an earlier piece, on that one's stream, then stands behind what that stream can do before.
    for diagonal in range(len(pieces) + last):
        for number in reversed(range(max(0, diagonal - last), min(len(pieces), diagonal + 1))):
            index, stream = diagonal - number, _stream_of(number, streams)
            # what is saved for the gradient may be another stream's, as weights in the lower type are
            hooks = saved_tensors_hooks(partial(_saved_on, stream), lambda tensor: tensor)
            with torch.cuda.stream(stream), hooks:
                if (event := passed[index]) is not None:
                    stream.wait_event(event)
                _used_on(stream, (parts[number], after[index]))
                parts[number], after[index] = layers[index](parts[number], after[index])
                passed[index] = stream.record_event()
    for stream in streams:
        main.wait_stream(stream)
    _used_on(main, (parts, after))
    return torch.cat(parts, 1), after


def _stream_of(number: int, streams: Sequence[torch.cuda.Stream]) -> torch.cuda.Stream:
    """That of a piece. The first one's is its own: what it makes of weights for all pieces is there, so there the
    gradients of all pieces are added up, for which another piece on it would have to wait."""
    return streams[0] if number == 0 else streams[1 + (number - 1) % (len(streams) - 1)]


def _in_turn(layers: Sequence[Layer], pieces: Sequence[Tensor], after: list[State]) -> tuple[Hidden, list[State]]:
    outputs = []
    for part in pieces:
        for index, layer in enumerate(layers):
            part, after[index] = layer(part, after[index])
        outputs.append(part)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1), after


def _saved_on(stream: torch.cuda.Stream, tensor: Tensor) -> Tensor:
    _used_on(stream, tensor)
    return tensor.detach()  # itself, a result that is saved would hold its node and the node it: neither would ever go


def _used_on(stream: torch.cuda.Stream, tensors: State) -> None:
    """Says that the memory of tensors made on another stream is not free before this one is done with it."""
    for leaf in pytree.tree_leaves(tensors):
        if isinstance(leaf, Tensor) and leaf.is_cuda:
            leaf.record_stream(stream)


_STREAMS: dict[torch.device, list[torch.cuda.Stream]] = {}


def _most_streams(device: torch.device) -> int:
    """Of which the programs that wait leave room: 5 on an H200 (132 multiprocessors), 1 on a small slice of it."""
    return min(STREAMS + 1, (torch.cuda.get_device_properties(device).multi_processor_count - 1) // MOST_WAITING)


def _streams(device: torch.device, count: int) -> list[torch.cuda.Stream]:
    """The same ones every time: memory is kept by stream. From then on this process is not warned of weights' gradients
    that come from another stream than the weight was first used on; torch waits for them."""
    set_warn_on_accumulate_grad_stream_mismatch(False)
    known = _STREAMS.setdefault(device, [])
    known += [torch.cuda.Stream(device) for _ in range(count - len(known))]
    return known[:count]
