"""A model in the middle of a stream: hand it the next tokens, take the logits; the state stays here."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from torch import nn

from titanlab.platform.decoding.computing import computing
from titanlab.platform.decoding.recorded_calls import CudaRecorder, RecordedCalls, Recorder, Recording
from titanlab.platform.decoding.signature import Signature, signature
from titanlab.platform.decoding.state_tree import without_ballast
from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.precision import Precision
from titanlab.platform.tasks.evaluation import device_of
from titanlab.platform.tensors import Ids, Logits, State

Graphs: TypeAlias = Literal["auto", "none", "steps", "all"]
"""Which calls become CUDA graphs: none, those of one token, or all; auto: of one token on a GPU, none on a CPU."""


class Session:
    """Goes on from call to call of `model(ids, state) -> (logits, state)`, without gradients.

    With graphs, a call whose signature (see `signature`) came before is a CUDA graph: recorded when it comes again, and
    replayed from then on. What never comes again - a cache that grows with every token - is run as it is.

    Args:
        model: as `build_model` or `load_model` give it, in evaluation mode.
        state: where to begin; None: before the first token.
        precision: see `computing`.
        graphs: which calls to record.
        recorder: what records in place of CUDA graphs.

    Raises:
        ConfigError: graphs are asked for and the model is not on a GPU.
    """

    def __init__(
        self,
        model: nn.Module,
        state: State | None = None,
        *,
        precision: Precision = "auto",
        graphs: Graphs = "auto",
        recorder: Recorder | None = None,
    ) -> None:
        self.model, self.precision, self.device = model, precision, device_of(model)
        self._state: State | None = state
        self._key: Signature | None = None
        self._last: Recording | None = None
        on_gpu = self.device.type == "cuda"
        if graphs in ("steps", "all") and not (on_gpu or recorder):
            raise ConfigError(Problem("CUDA graphs need a model on a GPU; this one is on the CPU"))
        self._calls: RecordedCalls | None = None
        self._longest = {"none": 0, "all": math.inf}.get(graphs, 1)
        if self._longest and (on_gpu or recorder):
            self._calls = RecordedCalls(self._call, recorder or CudaRecorder(), self.device)
        self.replayed = False
        """Whether the last call was a replay."""

    @property
    def state(self) -> State | None:
        """The state after the last call; later calls may write over it, so copy what is to stay (`copied`)."""
        return self._state

    def resume(self, state: State | None) -> None:
        """Goes on from another state; what is recorded stays of use."""
        self._state, self._key, self._last, self.replayed = state, None, None, False

    @property
    def records(self) -> bool:
        """Whether calls are recorded when they come again."""
        return self._calls is not None and not self.failure

    @property
    def recorded(self) -> int:
        """How many signatures are recorded."""
        return 0 if self._calls is None else len(self._calls)

    @property
    def failure(self) -> str:
        """Why nothing more is recorded; empty if nothing failed."""
        return "" if self._calls is None else self._calls.failure

    def run(self, ids: Ids) -> Logits:
        """The next tokens [b, t] -> logits [b, t, vocab], which the next call may write over."""
        if self._calls is None or self._state is None or ids.shape[1] > self._longest:
            with computing(self.device, self.precision):
                logits, state = self.model(ids, self._state)
                self._state, self._key, self._last, self.replayed = without_ballast(state), None, None, False
            return logits
        with computing(self.device, self.precision, reuse_casts=False):
            return self._recorded(self._calls, ids)

    def _recorded(self, calls: RecordedCalls, ids: Ids) -> Logits:
        recording = self._following(calls, ids)
        if recording is not None:
            recording.ids.copy_(ids)
            recording.replay()
            logits, self._state = recording.logits, recording.state
        else:
            key = self._key or signature(ids, self._state)
            logits, self._state, recording = calls.run(key, ids, self._state)
        self._last, self.replayed = recording, recording is not None
        self._key = None if recording is None else recording.after
        return logits

    def _following(self, calls: RecordedCalls, ids: Ids) -> Recording | None:
        """What is recorded for the call that follows a replayed one: its state lies in the buffers already."""
        if self._last is None or self._key is None or tuple(ids.shape) != self._key.ids:
            self._key = None
            return None
        return calls.recording(self._key)

    def _call(self, ids: Ids, state: State) -> tuple[Logits, State]:
        logits, state = self.model(ids, state)
        return logits, without_ballast(state)
