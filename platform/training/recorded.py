"""Forward and backward pass of a part of a batch, recorded as one CUDA graph and replayed.

A memory within attention's segments is thousands of small kernels a step, which Python starts more slowly than a GPU
computes them. A replay starts all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from titanlab.platform.errors import TitanlabError
from titanlab.platform.recording import for_replay
from titanlab.platform.task import Batch
from titanlab.platform.wavefront import streams_joined

WARM_UP = 3
"""Passes before the recording: kernels are compiled and chosen in them."""


class RecordedGradient:
    """Computes a part's loss and leaves its gradient in the parameters, as `gradient` does, by one replay.

    Args:
        gradient: takes a part and what its loss is multiplied by (a scalar tensor); returns the loss before that.
        parameters: all that may get a gradient.
        example: a part on the GPU; all parts replayed have its shapes.
        adds: whether gradients are added to those of the parts before (see `begin`), or take their place.

    Raises:
        TitanlabError: the passes wait for the GPU on their way, so they cannot be recorded.
    """

    def __init__(
        self,
        gradient: Callable[[Batch, Tensor], Tensor],
        parameters: Sequence[nn.Parameter],
        example: Batch,
        *,
        adds: bool,
    ) -> None:
        self._inputs = Batch(*(tensor.clone() for tensor in example))
        self._scale = torch.zeros((), dtype=torch.float64, device=example.ids.device)  # as exact as a float
        self._graph = torch.cuda.CUDAGraph()
        with for_replay():
            moved = _warm_up(lambda: gradient(self._inputs, self._scale), parameters)
        for parameter in moved:
            parameter.grad = torch.zeros_like(parameter) if adds else None
        try:
            # another thread of this process may use the GPU meanwhile
            with for_replay(), torch.cuda.graph(self._graph, capture_error_mode="thread_local"), streams_joined():
                self._loss = gradient(self._inputs, self._scale)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise TitanlabError(
                f"the training step cannot be recorded as a CUDA graph ({reason}): something in the model waits for "
                "the GPU on its way, as .item() and int() of a tensor do; set `train.cuda_graph: false`"
            ) from error
        self._adds = adds
        self._gradients = [(parameter, parameter.grad) for parameter in moved]
        for parameter in moved:
            parameter.grad = None

    def begin(self) -> None:
        """Before a step's first part."""
        if self._adds:
            self._hand_over()
            torch._foreach_zero_([gradient for _, gradient in self._gradients if gradient is not None])

    def _hand_over(self) -> None:
        for parameter, gradient in self._gradients:
            parameter.grad = gradient

    def fits(self, part: Batch) -> bool:
        """Whether a part has the recorded shapes."""
        return all(mine.shape == other.shape for mine, other in zip(self._inputs, part, strict=True))

    def __call__(self, part: Batch, scale: float) -> Tensor:
        """The part's loss; it stays as it is until the next call."""
        for mine, other in zip(self._inputs, part, strict=True):
            mine.copy_(other, non_blocking=True)
        self._scale.fill_(scale)
        self._graph.replay()
        if not self._adds:
            self._hand_over()
        return self._loss


def _warm_up(run: Callable[[], object], parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Some passes on a stream of their own, as a recording asks for; the parameters that got a gradient."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    for parameter in moved:
        parameter.grad = None
    torch.cuda.empty_cache()  # the recording has memory of its own
    return moved
