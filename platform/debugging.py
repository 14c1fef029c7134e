"""A mode that looks for NaN and infinity where they arise; off by default, since looking waits for a GPU each time.

with debug():
    model(ids)  # ValueError: x: 3 of 640 values are not finite, the first at [0, 7, 2]: nan; ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from titanlab.platform.switch import Switch
from titanlab.platform.tensors import Hidden, State

_DEBUGGING = Switch("debugging")


class NonFiniteError(ValueError):
    """A value that is NaN or infinite, found in debug mode."""

    module: nn.Module | None = None
    """The innermost memory or block in whose call it was found."""


def debug(on: bool = True) -> AbstractContextManager[None]:
    """Within it (in this thread), memories, blocks and rules refuse values that are not finite."""
    return _DEBUGGING.turned(on)


def debugging() -> bool:
    """Whether the mode is on."""
    return bool(_DEBUGGING)


def refuse_nonfinite(values: Mapping[str, State]) -> None:
    """Looks at tensors, or pytrees of them, by the names of the arguments they are; does nothing unless debugging.

    A name that begins with `log_` may hold -inf, the logarithm of 0.

    Raises:
        NonFiniteError: naming the first argument at fault, how many values, the first position and what is there.
    """
    if not _DEBUGGING:
        return
    for name, value in values.items():
        for path, leaf in pytree.tree_flatten_with_path(value)[0]:
            if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()) and not leaf.is_meta:
                _refuse(f"{name}{pytree.keystr(path)}", leaf.detach(), minus_infinity=name.startswith("log_"))


def _refuse(name: str, x: Tensor, *, minus_infinity: bool) -> None:
    wrong = ~x.isfinite()
    if minus_infinity:
        wrong &= x != float("-inf")
    if not bool(wrong.any()):
        return
    count, first = int(wrong.sum()), wrong.nonzero()[0].tolist()
    raise NonFiniteError(
        f"{name}: {count:,} of {x.numel():,} values are not finite, the first at {first}: {x[tuple(first)].item()}; "
        f"expected {'numbers or -inf' if minus_infinity else 'finite numbers'} (shape {list(x.shape)}, {x.dtype})"
    )


def watched(
    module: nn.Module, call: Callable[[Hidden, State], tuple[Hidden, State]], x: Hidden, state: State
) -> tuple[Hidden, State]:
    """A call of a memory or a block with a look at what it takes and gives; the error knows the innermost module."""
    try:
        refuse_nonfinite({"x": x, "state": state})
        y, after = call(x, state)
        refuse_nonfinite({"y (x and state were finite)": y, "state after the call (before, it was finite)": after})
    except NonFiniteError as error:
        error.module = error.module or module
        raise
    return y, after


def first_name(root: nn.Module, error: NonFiniteError) -> str:
    """The dotted name within `root` of the module that an error was found in; empty if it is none of its own."""
    return next((name for name, module in root.named_modules() if module is error.module), "")
