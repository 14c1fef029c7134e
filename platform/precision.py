"""In which type a model computes."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]
"""bfloat16 autocast, or the weights' own type; auto: bfloat16 on a GPU. A memory's state is float32 either way."""


def used_precision(precision: Precision, device: torch.device) -> Precision:
    """What `auto` is on a device."""
    return precision if precision != "auto" else "bfloat16" if device.type == "cuda" else "float32"
