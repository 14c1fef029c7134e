"""AdamW as every run uses it: which parameters decay, and the norm of their gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from titanlab.platform.run_config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) with decay on matrices only.

    A parameter decays if it has two axes or more and is no weight of an `nn.Embedding`; gains, biases and embeddings
    do not. The order of the parameters is that of `model.named_parameters()`, which a saved state relies on.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed, kept = [], []
    for parameter in model.parameters():
        (decayed if parameter.ndim >= 2 and id(parameter) not in embeddings else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    # Fused: one kernel for all parameters, on a CPU too, and no wait for a GPU.
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def apply_gradients(model: nn.Module, optimizer: torch.optim.Optimizer, rate: float, clip: float) -> Tensor:
    """One step of the optimizer at the given learning rate; returns the norm of the gradient before clipping.

    Args:
        clip: largest norm over all parameters together; 0 clips nothing.
    """
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip or math.inf)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


@torch.no_grad()
def all_finite(model: nn.Module) -> bool:
    """Whether no weight is NaN or infinite; waits for the device."""
    return bool(nn.utils.get_total_norm(list(model.parameters()), math.inf).isfinite())
