"""Which token comes next: the most likely one, or one drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from titanlab.platform.decoding.session import Session
from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.tensors import Ids, at_least_float32

Chooser: TypeAlias = Callable[[Tensor], Tensor]
"""From logits [b, vocab] to token ids [b]."""


def most_likely(logits: Tensor) -> Tensor:
    """Greedy decoding."""
    return logits.argmax(-1)


@dataclass
class Drawn:
    """Draws from the softmax of logits / temperature, of the `top` most likely tokens if that is given."""

    seed: int
    temperature: float = 1.0
    top: int | None = None
    _generators: dict[torch.device, torch.Generator] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError(Problem(f"temperature: expected above 0, got {self.temperature}; 0 is greedy decoding"))
        if self.top is not None and self.top < 1:
            raise ConfigError(Problem(f"top: expected at least 1 token to choose from, got {self.top}"))

    def __call__(self, logits: Tensor) -> Tensor:
        """One token a row."""
        wide = logits.to(at_least_float32(logits.dtype)) / self.temperature
        if self.top is not None and self.top < wide.shape[-1]:
            values, ids = wide.topk(self.top, -1)  # of equal ones no more than are asked for
            wide = torch.full_like(wide, -torch.inf).scatter(-1, ids, values)
        return torch.multinomial(wide.softmax(-1), 1, generator=self._generator(logits.device))[:, 0]

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[device]


def decode(session: Session, last: Tensor, tokens: int, choose: Chooser = most_likely) -> Ids:
    """The next `tokens` tokens [b, tokens] of a session, each read before the next is chosen.

    Args:
        session: after its prompt.
        last: the prompt's last logits [b, vocab].
        tokens: how many; the last one is chosen and not read.
        choose: which.

    Raises:
        ConfigError: `tokens` is less than 1.
    """
    if tokens < 1:
        raise ConfigError(Problem(f"tokens: expected at least 1, got {tokens}"))
    chosen = [choose(last)]
    while len(chosen) < tokens:
        chosen.append(choose(session.run(chosen[-1][:, None])[:, -1]))
    return torch.stack(chosen, 1)
