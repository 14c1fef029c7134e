"""The learned memory before the first token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from titanlab.memory_modules.parts.retention import LqNorm, Softmax
from titanlab.memory_modules.parts.structure import Mlp

if TYPE_CHECKING:
    from titanlab.memory_modules.gradient_form import Form
    from titanlab.memory_modules.gradient_memory import GradientMemoryConfig

MOST = math.log(32)
"""By how much, in its logarithm, an initial A of the l_q norm may be longer or shorter than its W."""


def initial_weights(
    heads: int, shapes: Sequence[tuple[int, int]], form: Form, config: GradientMemoryConfig
) -> nn.ParameterList:
    """Learned matrices [h, in, out] from which every sequence's memory starts.

    Hidden layers hand on a unit vector's length (GELU and SiLU halve it). The last matrix of an MLP starts at 0, so
    that what the first tokens write is all that is read; not so where answers or weights are normed, or where Muon
    would have to orthogonalise the gradients of the matrices before it, which would be 0.
    """
    starts_at_zero = (
        isinstance(form.structure, Mlp)
        and len(shapes) > 1
        and not form.normed
        and form.retention.linear
        and config.optimizer != "muon"
        and config.control not in ("frozen", "initial_gradients")
    )
    matrices = []
    for layer, (width, units) in enumerate(shapes):
        answers = layer == form.structure.last
        spread = (width if answers else units) ** -0.5 * (1 if answers else 2)
        if answers and len(shapes) == 1:
            spread = 0.1 * width**-0.5 if config.control != "frozen" else width**-0.5
        matrix = nn.init.normal_(torch.empty(heads, width, units), std=_stored(spread, form, width * units))
        matrices.append(torch.zeros_like(matrix) if answers and starts_at_zero else matrix)
    return nn.ParameterList(nn.Parameter(matrix, requires_grad=config.control != "frozen") for matrix in matrices)


def _stored(spread: float, form: Form, entries: int) -> float:
    """The standard deviation of A that gives W = Phi(A) the wanted one."""
    if isinstance(form.retention, LqNorm):  # W = A / ||A||_q^(q-2): of a normal A, with E|a|^q in closed form
        q = form.retention.q
        moment = 2 ** (q / 2) * math.gamma((q + 1) / 2) / math.sqrt(math.pi)
        wanted = (q - 2) * (math.log(spread) + math.log(entries * moment) / q)  # times 3 - q: how far A is from W
        if abs(wanted) > MOST * abs(3 - q):  # near q = 3, where the length of W does not depend on that of A
            return spread * math.exp(0.0 if q == 3 else math.copysign(MOST, wanted * (3 - q)))
        return spread * math.exp(wanted / (3 - q))
    return 1.0 if isinstance(form.retention, Softmax) else spread
