"""What a kind of gradient memory is beside its gates and objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from titanlab.memory_modules.parts.retention import Decay, Retention
from titanlab.memory_modules.parts.structure import Mlp, Structure

if TYPE_CHECKING:
    from titanlab.memory_modules.gradient_memory import GradientMemoryConfig


@dataclass(frozen=True)
class Form:
    """What a kind of memory is, its gates and objective aside."""

    structure: Structure
    hidden: int
    """Units between two matrices."""
    normed: bool = False
    """Whether M(x) = x + LayerNorm(f(x))."""
    retention: Retention = Decay()
    window: int = 1
    """Tokens whose gradients each token writes."""
    degree: int = 1
    """Largest power of the polynomial features of keys and queries; 1: the keys and queries themselves."""
    around: bool = False
    """Whether M(x) = x + f(phi(x)), for features phi that are not as wide as x."""
    muon_step: Literal["outside", "inside"] = "outside"
    step_factor: float | None = None
    """Largest step times chunk_size by default; None: 1, halved with each matrix after the first."""

    def is_plain(self, config: GradientMemoryConfig) -> bool:
        """Whether `deep_memory`, which is faster, computes this."""
        return (
            isinstance(self.structure, Mlp)
            and not (self.structure.bias or self.normed)
            and (self.retention.linear, self.window, self.degree) == (True, 1, 1)
            and (config.objective, config.gates, config.gradient_at) == ("l2", "head", "undecayed")
            and config.optimizer != "muon"
            and config.control == "none"
        )
