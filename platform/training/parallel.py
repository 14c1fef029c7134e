"""The gradient of one global batch, in parts and over ranks, equal to one process's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from titanlab.platform.distributed import rank, sum_over_ranks, world_size
from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.model import logits_loss
from titanlab.platform.run_config import TrainConfig
from titanlab.platform.task import Batch
from titanlab.platform.tensors import Ids, Mask
from titanlab.platform.training.device import autocast


class CountedLoss(nn.Module):
    """A language model and its loss as one module, so that the ranks' wrapper sees the loss alone, not the state."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Ids, targets: Ids, mask: Mask) -> Tensor:
        """Sum of nats over the counted positions, a scalar."""
        logits, _ = self.model(ids)
        return logits_loss(logits, targets, mask)


class GradientComputer:
    """Leaves the gradient of a global batch's mean loss in the parameters.

    Every rank is given the same global batch, so each knows the number of counted tokens without asking the others. It
    takes its own contiguous rows, in `accumulate` parts; gradients are averaged over the ranks with the last part.

    Raises:
        ConfigError: the batch cannot be split evenly.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, device: torch.device) -> None:
        check_split(config)
        self.config, self.device = config, device
        self.loss: nn.Module = CountedLoss(model)

    def prepare(self, batch: Batch) -> None:
        """Joins the ranks, before the first step; the batch shows which parameters the loss depends on."""
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
        for number, part in enumerate(self._parts(batch), start=1):
            with self._exchanging(number == parts):
                with autocast(self.config, self.device):
                    loss = self.loss(*part)
                # The wrapper averages over ranks; the mean wanted is over counted tokens of all of them.
                (loss * (world_size() / max(counted, 1.0))).backward()
            nats += loss.detach()
        return nats, counted

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
        with autocast(self.config, self.device):
            self.loss(*next(self._parts(batch))).backward()
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
