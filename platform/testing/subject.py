"""What is checked: a configuration, the modules it builds, and the tokens they are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from titanlab.platform.config import Config
from titanlab.platform.tensors import Hidden, State

DIM = 16
"""Model width of every check: the smallest that a module must take."""
SHORT = {"chunk_size": 4, "segment": 4, "window": 3}
"""Settings that are lengths in tokens, shortened so that a few tokens lie before, across and after each boundary."""
TOLERANCE = 1e-8
"""By how much float64 results that should be equal may differ, relative to the largest value (or 1)."""


@dataclass(frozen=True)
class Subject:
    """A module under check; every module it makes has the same weights."""

    config: Config
    build: Callable[[Config, int], nn.Module]
    """(configuration, dim) -> module."""
    declared: Config
    """The configuration as it was given, where lengths in tokens are not shortened."""

    @property
    def time(self) -> int:
        """Tokens enough for two boundaries of the longest length and a rest."""
        return max(11, 2 * max(_lengths(self.config).values(), default=4) + 3)

    def fresh(self, config: Config | None = None, *, dim: int = DIM) -> nn.Module:
        """The module as it is built: float32, its own initial weights."""
        torch.manual_seed(0)
        return self.build(config or self.config, dim)

    def module(self, config: Config | None = None, *, seed: int = 0) -> nn.Module:
        """In float64, for evaluation, every weight moved a little: zeros at the start would hide what they gate."""
        torch.manual_seed(seed)
        module = self.build(config or self.config, DIM).double().eval()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return module


def _lengths(config: Config) -> dict[str, int]:
    """The settings of a configuration that are lengths in tokens."""
    return {name: value for name in SHORT if isinstance(value := getattr(config, name, None), int)}


def shortened(config: Config) -> Config:
    """The configuration with short lengths, or itself where it does not take them."""
    try:
        return config.replace(**{name: min(SHORT[name], value) for name, value in _lengths(config).items()})
    except ValidationError:
        return config


def tokens(batch: int, time: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Hidden:
    """Random inputs [b, t, dim]."""
    return torch.randn(batch, time, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def initial_state(module: nn.Module, batch: int) -> State:
    """The module's state before the first token (both interfaces have it; `nn.Module` does not say so)."""
    state: Callable[[int], State] = module.initial_state  # type: ignore[assignment]
    return state(batch)


def run(module: nn.Module, x: Hidden) -> Hidden:
    """One call from the initial state. Random numbers are drawn from one seed, so that dropout stays the same."""
    torch.manual_seed(1)
    y, _ = module(x, initial_state(module, x.shape[0]))
    return y


def in_pieces(module: nn.Module, x: Hidden, lengths: Sequence[int]) -> Hidden:
    """The same in calls of these lengths, the state handed on."""
    torch.manual_seed(1)
    state, outputs = initial_state(module, x.shape[0]), []
    for piece in x.split(list(lengths), 1):
        y, state = module(piece, state)
        outputs.append(y)
    return torch.cat(outputs, 1)


def leaves(state: State) -> list[Any]:
    """Everything in a state."""
    return pytree.tree_leaves(state)


def copied(state: State) -> State:
    """A state of its own memory."""
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, state)


def same(left: State, right: State) -> bool:
    """Whether two states are equal to the last bit."""
    return all(torch.equal(a, b) for a, b in zip(leaves(left), leaves(right), strict=True))


def deviation(left: Tensor, right: Tensor) -> float:
    """The largest difference, relative to the largest value where that is above 1; NaN where one is not finite."""
    return float((left - right).abs().max() / left.abs().max().clamp(min=1))
