"""What a torch module must be to serve as a memory, and its own parameters and buffers as they start."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy


def inner_modules(module: nn.Module | Sequence[nn.Module], heads: int) -> list[nn.Module]:
    """One module for each head: the same for all, or as many as were given.

    Raises:
        ValueError: one cannot be a memory, or they are not `heads` modules of one structure; says why.
    """
    given = [module] if isinstance(module, nn.Module) and not isinstance(module, nn.ModuleList) else list(module)
    if len(given) not in (1, heads):
        raise ValueError(f"module: has {len(given)} modules; expected one, or one for each of {heads} heads")
    for each in given:
        _check_one(each)
    for each in given[1:]:
        _check_alike(given[0], each)
    return given if len(given) == heads else given * heads


def places(module: nn.Module) -> dict[str, str]:
    """Every place in a module that holds a parameter or a buffer, with the name its tensor goes by.

    Tied tensors have one name and several places, a submodule used twice has one place.
    """
    names: dict[int, str] = {}
    found = {}
    for prefix, part in module.named_modules():
        for each in (part.named_parameters, part.named_buffers):
            own = each(prefix, recurse=False, remove_duplicate=False)
            found.update({place: names.setdefault(id(tensor), place) for place, tensor in own})
    return found


def stacked_parameters(modules: Sequence[nn.Module], dtype: torch.dtype) -> dict[str, Tensor]:
    """The modules' own parameters as they are, [h, ...] by name."""
    own = [dict(module.named_parameters()) for module in modules]
    return {name: torch.stack([named[name] for named in own]).to(dtype) for name in own[0]}


def stacked_buffers(modules: Sequence[nn.Module], dtype: torch.dtype) -> dict[str, Tensor]:
    """The modules' buffers, [h, ...] by name; those that are not floating keep their type."""
    own = [dict(module.named_buffers()) for module in modules]
    stacked = {name: torch.stack([named[name] for named in own]) for name in own[0]}
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in stacked.items()}


def _check_one(module: nn.Module) -> None:
    if not isinstance(module, nn.Module):
        raise ValueError(f"module: is {module!r}; expected a torch.nn.Module")
    for name, part in module.named_modules():
        reason = _reason_against(part)
        if reason:
            where = f" at '{name}'" if name else ""
            raise ValueError(f"module: has a {type(part).__name__}{where}, {reason}")
    parameters = dict(module.named_parameters())
    if not parameters:
        raise ValueError(
            f"module: {type(module).__name__} has no parameters; expected at least one: they are what is remembered"
        )
    for name, parameter in parameters.items():
        if is_lazy(parameter):
            raise ValueError(f"module: parameter {name} has no shape yet; call the lazy module once before")
        if not parameter.is_floating_point():
            raise ValueError(f"module: parameter {name} has type {parameter.dtype}; expected floating, or a buffer")


def _reason_against(part: nn.Module) -> str:
    if (isinstance(part, _DropoutNd) and part.p > 0) or isinstance(part, nn.RReLU):
        return "which draws random numbers; a memory must answer alike however a sequence is cut: leave it out"
    if isinstance(part, _NormBase):
        return "which norms over other tokens and sequences; use a norm over channels, as nn.LayerNorm or nn.RMSNorm"
    return ""


def _check_alike(first: nn.Module, other: nn.Module) -> None:
    for kind in ("named_parameters", "named_buffers"):
        shapes, others = ({name: list(x.shape) for name, x in getattr(one, kind)()} for one in (first, other))
        if shapes != others:
            raise ValueError(f"module: the {kind.removeprefix('named_')} of two heads are {shapes} and {others}")
