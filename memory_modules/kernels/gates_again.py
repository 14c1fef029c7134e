"""The gates of chunks made a second time, for a gradient that did not keep them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from titanlab.memory_modules.kernels.triton_matrix_memory import gates_for


class GatesAgain:
    """The chunks' gates from keep, momentum and step a second time, and these ones' gradients."""

    def __init__(self, rates: Sequence[Tensor | None], needed: Sequence[bool], dtype: torch.dtype) -> None:
        self.rates = [
            None if x is None else x.detach().requires_grad_(need) for x, need in zip(rates, needed, strict=True)
        ]
        keep, momentum, step = self.rates
        assert step is not None
        with torch.enable_grad(), torch.autocast(step.device.type, enabled=False):
            self.made = gates_for(keep, momentum, step, dtype)

    def gradients(self, *d_made: Tensor) -> list[Tensor | None]:
        """Of keep, momentum and step, from those of the chunks' gates."""
        pairs = [(x, d_x) for x, d_x in zip(self.made, d_made, strict=True) if x.requires_grad]
        wanted = {place: x for place, x in enumerate(self.rates) if x is not None and x.requires_grad}
        if not wanted:
            return [None, None, None]
        found = torch.autograd.grad(
            [x for x, _ in pairs], list(wanted.values()), [d_x for _, d_x in pairs], allow_unused=True
        )
        of = dict(zip(wanted, found, strict=True))
        return [of.get(place) for place in range(3)]
