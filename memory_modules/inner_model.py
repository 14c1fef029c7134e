"""The inner models of `module`: what a memory that learns at test time is made of, by name."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from titanlab.platform.config import Config
from titanlab.platform.registry import Registry


class InnerModelConfig(Config, ABC):
    """Settings of an inner model; register the subclass and it can be named as `inner: {type: ...}`."""

    @abstractmethod
    def build(self, dim: int) -> nn.Module:
        """A module that maps [.., dim] to [.., dim], dim being the width of a head; called once for each head.

        Its parameters, of any number and shape, are where every sequence's memory starts; they are learned. What
        `ModuleMemory` refuses: no parameters, chance (dropout), norms over a batch, buffers that forward writes to.
        """


INNER_MODELS: Registry[InnerModelConfig] = Registry(
    "inner_models", InnerModelConfig, "titanlab.memory_modules.inner_models"
)
"""Every inner model by name."""
