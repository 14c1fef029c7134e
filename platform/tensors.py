"""The legend of letters used in every shape of this code base, and the array types built from it.

b   batch: one row is one piece of one document
t   time, in tokens
h   heads
d   head dimension (width of a query, key or value)
m   memory width (rows or columns of one matrix of a memory)
c   chunk: tokens that share one reference memory
n   chunks in a sequence
dim model width, h * d in most layers
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.utils import _pytree as pytree

Hidden: TypeAlias = Float[Tensor, "b t dim"]  # activations between layers
PerHead: TypeAlias = Float[Tensor, "b t h d"]  # queries, keys, values
Gate: TypeAlias = Float[Tensor, "b t h"]  # keep, momentum, step: one scalar per head and token
Ids: TypeAlias = Int[Tensor, "b t"]
Logits: TypeAlias = Float[Tensor, "b t vocab"]
Mask: TypeAlias = Shaped[Tensor, "b t"]  # 1 where a position counts

State: TypeAlias = Any
"""Any pytree of tensors whose first axis is the batch; passed in and handed back, never kept on a module."""


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The type a memory's state and gate products are kept in: float32, or float64 for float64 inputs."""
    return torch.promote_types(dtype, torch.float32)


def compute_type(x: Tensor) -> torch.dtype:
    """The type in which a matrix product of x is computed here: autocast's, or x's own."""
    kind = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return x.dtype
    return torch.get_autocast_dtype(kind)


def without_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Products in the types they are given, on x's device; meta has no autocast to turn off."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def float32_bytes(state: State) -> int:
    """Bytes of a state's tensors, those of floating type taken as float32."""
    return sum(
        leaf.numel() * (4 if leaf.is_floating_point() else leaf.element_size())
        for leaf in pytree.tree_leaves(state)
        if isinstance(leaf, Tensor)
    )


def check_batch(x: Hidden, state: State) -> None:
    """Refuses a state of other sequences than x: a state of one would be broadcast in silence.

    Raises:
        ValueError: naming the first tensor of the state whose first axis is not the batch of x.
    """
    for index, leaf in enumerate(pytree.tree_leaves(state)):
        if isinstance(leaf, Tensor) and (leaf.ndim == 0 or leaf.shape[0] != x.shape[0]):
            raise ValueError(
                f"state: tensor {index} has shape {list(leaf.shape)}; expected the first axis to be {x.shape[0]}, the "
                f"batch of x {list(x.shape)}"
            )
