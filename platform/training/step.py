"""One optimisation step, as runs take it and benchmarks time it: forward, loss, backward, clipping, AdamW."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from titanlab.platform.debugging import refuse_nonfinite
from titanlab.platform.model import Model
from titanlab.platform.run_config import TrainConfig
from titanlab.platform.task import Batch
from titanlab.platform.training.optimizer import AdamW
from titanlab.platform.training.parallel import GradientComputer


class StepResult(NamedTuple):
    """What a step leaves; the tensors are on the device, so that nothing waits for it."""

    nats: Tensor
    """This rank's sum over counted tokens."""
    counted: float
    """Counted tokens of all ranks."""
    gradient_norm: Tensor
    """Before clipping."""


class TrainingStep:
    """A model, its optimizer and the way from a batch to the next weights.

    Args:
        model: on the device, in training mode when steps are taken.
        config: how a run is trained.
        device: of this process.

    Raises:
        ConfigError: the batch cannot be split evenly, or a setting cannot be had on this machine.
    """

    def __init__(self, model: Model, config: TrainConfig, device: torch.device) -> None:
        self.model, self.config = model, config
        self.optimizer = AdamW(model, config)
        self.gradients = GradientComputer(model, config, device)

    def prepare(self, batch: Batch) -> None:
        """Once, before the first step, with a batch as the steps will see; may take a step's time, changes no weight.

        Raises:
            TitanlabError: the step cannot be recorded.
        """
        self.gradients.prepare(batch)

    def __call__(self, batch: Batch, rate: float) -> StepResult:
        """Moves the weights by the gradient of a global batch.

        Raises:
            NonFiniteError: with `debug`, naming the first value that is not finite.
        """
        nats, counted = self.gradients(batch)
        if self.config.debug:
            refuse_nonfinite({f"gradient of {name}": p.grad for name, p in self.model.named_parameters()})
        return StepResult(nats, counted, self.optimizer.update(rate))
