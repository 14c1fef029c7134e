"""Calls of a model that are recorded once a signature and then replayed: CUDA graphs on fixed buffers.

A replayed graph reads and writes the same memory every time. So the state lives in buffers, one for each leaf, the
shapes that it takes on top of one another: a recorded call reads the state from them, and its last operations write the
new state back, which is then where the next call looks for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from titanlab.platform.decoding.signature import Signature, is_constant, signature
from titanlab.platform.tensors import Ids, Logits, State

Call: TypeAlias = Callable[[Ids, State], tuple[Logits, State]]

MOST_SEEN = 4096
"""Signatures that are remembered without a recording: a cache that grows has a new one with every token."""
MOST_RECORDED = 2048


class Recorder(Protocol):
    """Records work without doing it."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """What does the work again and again, on the memory it was recorded with."""


class CudaRecorder:
    """Records a CUDA graph; all graphs share one pool of memory, since no two run at once."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """See `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        # Relaxed: a kernel may still be loaded in it; what waits for the device is refused all the same.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="relaxed"):
            work()
        return graph.replay


@dataclass
class Seen:
    """A signature that was met: what the call gave."""

    before: State
    """The state's structure, with what is constant in it; tensors stand in buffers."""
    after: Signature
    after_state: State
    logits: tuple[tuple[int, ...], torch.dtype]


@dataclass
class Recording:
    """A recorded call."""

    replay: Callable[[], None]
    ids: Tensor
    logits: Tensor
    after: Signature
    state: State
    """The state after it, in buffers."""


class RecordedCalls:
    """Runs a signature as it is the first time, records it the second time, and replays it from then on.

    Args:
        call: the model.
        recorder: makes the recordings.
        device: where the model computes.
    """

    def __init__(self, call: Call, recorder: Recorder, device: torch.device) -> None:
        self._call, self._recorder, self._device = call, recorder, device
        self._seen: dict[Signature, Seen] = {}
        self._recordings: dict[Signature, Recording] = {}
        self._storages: dict[Any, list[Tensor]] = {}
        """Flat memory of each leaf; a later one is larger."""
        self._buffers: dict[Any, Tensor] = {}
        self.failure = ""
        """Why nothing more is recorded; empty: nothing stands against it."""

    def __len__(self) -> int:
        return len(self._recordings)

    def recording(self, key: Signature) -> Recording | None:
        """The recording of a signature, if there is one."""
        return self._recordings.get(key)

    def run(self, key: Signature, ids: Ids, state: State) -> tuple[Logits, State, Recording | None]:
        """One call: replayed if its signature was met before, else as it is.

        Returns:
            logits and state, in buffers that a later call overwrites if there is a recording, and that recording.
        """
        recording = self._recordings.get(key)
        if recording is None and key in self._seen and not self.failure and len(self) < MOST_RECORDED:
            recording = self._record(key, ids)
        if recording is None:
            logits, after = self._call(ids, state)
            self._remember(key, ids, state, logits, after)
            return logits, after, None
        self._put(state, key)
        recording.ids.copy_(ids)
        recording.replay()
        return recording.logits, recording.state, recording

    def _remember(self, key: Signature, ids: Ids, state: State, logits: Logits, after: State) -> None:
        if self.failure or key in self._seen:
            return
        if len(self._seen) >= MOST_SEEN:
            self._seen.clear()
        shape = (tuple(logits.shape), logits.dtype)
        self._seen[key] = Seen(self._skeleton(state), signature(ids, after), self._skeleton(after), shape)

    def _skeleton(self, state: State) -> State:
        """The state without its operands, which would be held for nothing."""
        return pytree.tree_map(lambda leaf: leaf if is_constant(leaf, self._device) else None, state)

    def _record(self, key: Signature, ids: Ids) -> Recording | None:
        seen = self._seen.pop(key)
        before, after = self._in_buffers(key, seen.before), self._in_buffers(seen.after, seen.after_state)
        fixed_ids, fixed_logits = self._buffer("ids", key.ids, ids.dtype), self._buffer("logits", *seen.logits)

        def work() -> None:
            logits, new = self._call(fixed_ids, before)
            if signature(fixed_ids, new) != seen.after:
                raise RuntimeError("equal shapes and places in the chunk gave states of different shapes")
            fixed_logits.copy_(logits)  # first: they may be a part of the state
            self._put(new, seen.after)

        try:
            replay = self._recorder.record(work)
        except RuntimeError as error:  # whatever cannot be recorded is run as it is
            self.failure = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            return None
        self._recordings[key] = Recording(replay, fixed_ids, fixed_logits, seen.after, after)
        return self._recordings[key]

    def _in_buffers(self, key: Signature, skeleton: State) -> State:
        """The state of a signature whose operands are the buffers."""
        constants, structure = pytree.tree_flatten(skeleton)
        leaves: list[Any] = []
        for number, (leaf, constant) in enumerate(zip(key.leaves, constants, strict=True)):
            if leaf.same_as != number:
                leaves.append(leaves[leaf.same_as])
            elif leaf.dtype is None or leaf.constant is not None:
                leaves.append(constant)
            else:
                leaves.append(self._buffer(number, leaf.shape, leaf.dtype))
        return pytree.tree_unflatten(leaves, structure)

    def _put(self, state: State, key: Signature) -> None:
        """Writes a state of a signature into its buffers. What lies in a buffer that another leaf is about to be
        written to is copied away first."""
        pairs = []
        taken = {flat.untyped_storage().data_ptr() for storages in self._storages.values() for flat in storages}
        for number, (leaf, told) in enumerate(zip(pytree.tree_leaves(state), key.leaves, strict=True)):
            if told.same_as != number or told.dtype is None or told.constant is not None:
                continue
            target = self._buffer(number, told.shape, told.dtype)
            if leaf is not target:
                shared = leaf.untyped_storage().data_ptr() in taken
                pairs.append((target, leaf.clone() if shared else leaf))
        for target, leaf in pairs:
            target.copy_(leaf)

    def _buffer(self, name: int | str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The fixed tensor of a leaf (by number) in one of its shapes.

        All are made before a recording begins: what is made during one lies in memory that the next graph uses as well.
        """
        key = (name, shape, dtype)
        if key not in self._buffers:
            size, storages = math.prod(shape), self._storages.setdefault((name, dtype), [])
            fitting = next((flat for flat in storages if flat.numel() >= size), None)
            if fitting is None:
                fitting = torch.zeros(self._largest(name, size), dtype=dtype, device=self._device)
                storages.append(fitting)
            self._buffers[key] = fitting[:size].view(shape)
        return self._buffers[key]

    def _largest(self, name: int | str, size: int) -> int:
        """The most numbers that a leaf was seen with: by the time the first call is recorded, a whole period was."""
        if isinstance(name, str):
            return size
        met = [each for seen, value in self._seen.items() for each in (seen, value.after) if len(each.leaves) > name]
        return max([size, *(math.prod(each.leaves[name].shape) for each in met)])
