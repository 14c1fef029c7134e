"""AdamW as every run uses it: which parameters decay, and its state by name."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from titanlab.platform.run_config import TrainConfig

EPSILON = 1e-8


class Moments(NamedTuple):
    """What AdamW remembers of one parameter."""

    mean: Tensor
    """Of the gradient."""
    square: Tensor
    """Mean of the squared gradient."""
    step: Tensor
    """Updates so far, a float32 scalar: on the device, where the fused kernel counts it."""


class AdamW:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) with decay on matrices only, in torch's fused form.

    A parameter decays if it has two axes or more and is no weight of an `nn.Embedding`; gains, biases and embeddings
    do not. A parameter without a gradient is left as it is.

    The update is torch's own function; the class around it is ours since `torch.optim.Optimizer` imports torch's
    compiler when it is made (2-4 s, in every process of a sweep), and keeps its state by number rather than by name.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self.config = config
        self.parameters = dict(model.named_parameters())
        embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        self.decayed = {
            name
            for name, parameter in self.parameters.items()
            if parameter.ndim >= 2 and id(parameter) not in embeddings
        }
        self.moments = {name: _no_moments(parameter) for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self, rate: float) -> Tensor:
        """Clips the gradients and takes one step; returns their norm before clipping. Does not wait for a GPU."""
        norm = nn.utils.clip_grad_norm_(list(self.parameters.values()), self.config.clip or math.inf)
        moving = {name for name, parameter in self.parameters.items() if parameter.grad is not None}
        self._move(sorted(moving & self.decayed), rate, self.config.weight_decay)
        self._move(sorted(moving - self.decayed), rate, 0.0)
        for parameter in self.parameters.values():
            parameter.grad = None
        return norm

    def _move(self, names: list[str], rate: float, weight_decay: float) -> None:
        gradients = [self.parameters[name].grad for name in names]
        adamw(
            [self.parameters[name] for name in names],
            [gradient for gradient in gradients if gradient is not None],
            [self.moments[name].mean for name in names],
            [self.moments[name].square for name in names],
            [],
            [self.moments[name].step for name in names],
            fused=True,
            amsgrad=False,
            maximize=False,
            beta1=self.config.beta1,
            beta2=self.config.beta2,
            lr=rate,
            weight_decay=weight_decay,
            eps=EPSILON,
        )

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Plain tensors by parameter name."""
        return {name: moments._asdict() for name, moments in self.moments.items()}

    def restore(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Takes what `state` returned.

        Raises:
            ValueError: it is of other parameters.
        """
        if state.keys() != self.parameters.keys():
            raise ValueError(f"state of other parameters: {', '.join(sorted(state.keys() ^ self.parameters.keys()))}")
        for name, moments in self.moments.items():
            for part, tensor in moments._asdict().items():
                tensor.copy_(state[name][part])


def _no_moments(parameter: Tensor) -> Moments:
    step = torch.zeros((), dtype=torch.float32, device=parameter.device)
    return Moments(torch.zeros_like(parameter), torch.zeros_like(parameter), step)


@torch.no_grad()
def all_finite(model: nn.Module) -> bool:
    """Whether no weight is NaN or infinite; waits for the device."""
    return bool(nn.utils.get_total_norm(list(model.parameters()), math.inf).isfinite())
