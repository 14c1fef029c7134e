"""The gradient of one global batch, in parts and over ranks, equal to one process's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from titanlab.platform.distributed import rank, sum_over_ranks, world_size
from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.fusion import fused
from titanlab.platform.model import Model
from titanlab.platform.recomputation import states_kept
from titanlab.platform.run_config import TrainConfig
from titanlab.platform.task import Batch
from titanlab.platform.tensors import Ids, Mask
from titanlab.platform.training.device import autocast, check_recordable, check_wavefront, fuses_kernels
from titanlab.platform.training.losses import check_way, sum_of_nats
from titanlab.platform.training.recorded import RecordedGradient


class CountedLoss(nn.Module):
    """A language model and its loss as one module, so that the ranks' wrapper sees the loss alone, not the state."""

    def __init__(self, model: Model, config: TrainConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, ids: Ids, targets: Ids, mask: Mask) -> Tensor:
        """Sum of nats over the counted positions, a scalar."""
        x, _ = self.model.hidden(ids, recompute=self.config.checkpoint_blocks, piece=self.config.wavefront)
        return sum_of_nats(x, self.model.head, targets, mask, self.config.loss)


class GradientComputer:
    """Leaves the gradient of a global batch's mean loss in the parameters.

    Every rank is given the same global batch, so each knows the number of counted tokens without asking the others. It
    takes its own contiguous rows, in `accumulate` parts; gradients are averaged over the ranks with the last part.

    Raises:
        ConfigError: the batch cannot be split evenly, or a setting cannot be had on this machine.
    """

    def __init__(self, model: Model, config: TrainConfig, device: torch.device) -> None:
        check_split(config)
        check_way(config.loss, device)
        if config.cuda_graph:
            check_recordable(device)
        if config.wavefront:
            check_wavefront(device)
        self.config, self.device = config, device
        self.fuses = fuses_kernels(config, device)
        self.loss: nn.Module = CountedLoss(model, config)
        self.recorded: RecordedGradient | None = None

    def prepare(self, batch: Batch) -> None:
        """Before the first step: joins the ranks, for which the batch shows which parameters the loss depends on, or
        records a step on a GPU of its own, where `cuda_graph` asks for it."""
        if self.config.cuda_graph:
            parameters, adds = list(self.loss.parameters()), self.config.accumulate > 1
            self.recorded = RecordedGradient(self._gradient, parameters, next(self._parts(batch)), adds=adds)
        if world_size() == 1:
            return
        unused = self._has_unused_parameters(batch)
        self.loss = DistributedDataParallel(
            self.loss,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            find_unused_parameters=unused,
        )

    def __call__(self, batch: Batch) -> tuple[Tensor, float]:
        """This rank's sum of nats (a tensor: a GPU is not waited for), and the counted tokens of all ranks."""
        counted = float(batch.mask.sum())
        nats = torch.zeros((), device=self.device)
        parts = self.config.accumulate
        # The wrapper averages over ranks; the mean wanted is over counted tokens of all of them.
        scale = world_size() / max(counted, 1.0)
        if self.recorded is not None:
            self.recorded.begin()
        for number, part in enumerate(self._parts(batch), start=1):
            if self.recorded is not None and self.recorded.fits(part):
                nats += self.recorded(part, scale)
                continue
            with self._exchanging(number == parts):
                nats += self._gradient(part, scale)
        return nats, counted

    def _gradient(self, part: Batch, scale: float | Tensor) -> Tensor:
        """The loss of a part; its gradient times `scale` is added to what the parameters have."""
        with autocast(self.config, self.device), fused(self.fuses), states_kept(self.config.keep_states):
            loss = self.loss(*part)
        (loss * scale).backward()
        return loss.detach()

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        rows = self.config.batch_size // (world_size() * self.config.accumulate)
        start = rank() * rows * self.config.accumulate
        for first in range(start, start + rows * self.config.accumulate, rows):
            yield self._placed(Batch(*(tensor[first : first + rows] for tensor in batch)))

    def _placed(self, part: Batch) -> Batch:
        if self.device.type == "cpu":
            return part
        # From pinned memory the copy does not wait for what the GPU still has to do.
        return Batch(*(tensor.pin_memory().to(self.device, non_blocking=True) for tensor in part))

    def _exchanging(self, last: bool) -> AbstractContextManager[None]:
        return nullcontext() if last or not isinstance(self.loss, DistributedDataParallel) else self.loss.no_sync()

    def _has_unused_parameters(self, batch: Batch) -> bool:
        """Whether some parameter gets no gradient on any rank: looking for such in every step would cost time."""
        self._gradient(next(self._parts(batch)), 1.0)
        unused = sum(parameter.grad is None for parameter in self.loss.parameters() if parameter.requires_grad)
        self.loss.zero_grad(set_to_none=True)
        return sum_over_ranks([unused])[0] > 0


def check_split(config: TrainConfig) -> None:
    """Refuses a batch that ranks and accumulated parts cannot share evenly.

    Raises:
        ConfigError: naming batch size, ranks and parts.
    """
    pieces = world_size() * config.accumulate
    if config.batch_size % pieces:
        message = (
            f"{config.batch_size} rows cannot be shared evenly by {world_size()} ranks with `accumulate: "
            f"{config.accumulate}`; choose a multiple of {pieces}"
        )
        raise ConfigError(Problem(message, "train.batch_size"))
