"""What a learned memory is between two tokens, and what drives it: rates a token and the four parts of the rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor

from titanlab.memory_modules.parts.objective import Objective, SquaredError
from titanlab.memory_modules.parts.optimizer import OptimizerName
from titanlab.memory_modules.parts.retention import Decay, Retention
from titanlab.memory_modules.parts.structure import Structure

Control: TypeAlias = Literal["none", "ascent", "keys_as_queries", "frozen", "initial_gradients", "last_matrix"]
"""Negative controls: memories that should not work, or not as well."""

Rate: TypeAlias = Tensor | tuple[Tensor, ...]
"""A gate a head, [b, t, h]; or one for each matrix, of every unit or of all, [b, t, h, out or 1]."""


@dataclass(frozen=True)
class LearnedRule:
    """Which memory it is: structure, objective, retention and optimizer (MIRAS, arXiv 2504.13173, section 3)."""

    structure: Structure
    objective: Objective = SquaredError()
    retention: Retention = Decay()
    optimizer: OptimizerName = "momentum"
    gradient_at: Literal["undecayed", "decayed"] = "undecayed"
    """Whether token t's gradient is taken at the chunk's first memory R (Titans) or at R decayed up to t (with one
    matrix and chunks of one token: Gated DeltaNet)."""
    muon_step: Literal["outside", "inside"] = "outside"
    """Whether Muon's result is multiplied by the chunk's last step (ATLAS, arXiv 2505.23735, eq. 32-33), or each
    gradient by its token's before (LaCT, arXiv 2505.23884)."""
    window: int = 1
    """Tokens whose gradients every token writes: the Omega rule of ATLAS (arXiv 2505.23735, section 3.2)."""
    control: Control = "none"

    def learns(self, matrix: int) -> bool:
        """Whether a matrix of the structure is written at all."""
        if self.control == "last_matrix":
            return matrix == self.structure.last
        return self.control != "frozen"


class Rates(NamedTuple):
    """What every token decides about the memory."""

    step: Rate
    """Inner learning rate."""
    keep: Rate | None = None
    """Fraction of the memory kept; None: 1."""
    momentum: Rate | None = None
    """Fraction of past surprise kept; None: off."""
    threshold: Tensor | None = None
    """[b, t, h]: Huber's."""
    share: Tensor | None = None
    """[b, t, h]: the weight of the token's gradient in every window it is in; None: 1."""


class Past(NamedTuple):
    """The window - 1 tokens before the next one, heads before time."""

    keys: Tensor
    """[b, h, window - 1, m]."""
    values: Tensor
    """[b, h, window - 1, d]."""
    threshold: Tensor
    """[b, h, window - 1]."""
    share: Tensor
    """[b, h, window - 1]; 0 where there was no token."""


class LearnedState(NamedTuple):
    """A learned memory between two tokens; every tensor has the batch as its first axis."""

    stored: tuple[Tensor, ...]
    """A: the matrices that decay and are added to, [b, h, in, out]."""
    surprise: tuple[Tensor, ...]
    """S: gradients not yet forgotten (momentum) or not yet applied (muon), [b, h, in, out]; may be empty."""
    reference: tuple[Tensor, ...]
    """The weights as they stood at the start of the chunk under way, [b, h, in, out]."""
    scale: tuple[Tensor, ...]
    """Weights over stored inside this chunk, [b, h, 1, 1]; empty where they are equal."""
    decay: tuple[Tensor, ...]
    """Product of keep since the chunk's start, [b, h, 1, o]; empty unless gradients are taken at the decayed memory."""
    past: Past
    """For the window."""
    position: Tensor
    """[b], int64 on the CPU: tokens of the chunk under way that were seen; 0 at a chunk's start."""
