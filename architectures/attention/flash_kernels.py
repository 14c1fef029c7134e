"""The two generations of the flash-attn package behind one interface, and which of them is installed."""

from __future__ import annotations

import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

TimeFirst: TypeAlias = Float[Tensor, "b t h d"]
LogSum: TypeAlias = Float[Tensor, "b h t"]
Back: TypeAlias = Callable[
    [TimeFirst, TimeFirst, TimeFirst, TimeFirst, TimeFirst, LogSum, float, bool],
    tuple[TimeFirst, TimeFirst, TimeFirst],
]

INSTALL_4 = "pip install 'flash-attn-4>=4.0.0b36' 'nvidia-cutlass-dsl[cu13]'"
INSTALL_2 = "pip install flash-attn --no-build-isolation"


class FlashKernel(ABC):
    """softmax(scale * q k^T) v with its log-sum-exp; the mask is aligned to the last query and the last key."""

    name: str
    log_sum_has_gradient: bool
    """Whether a gradient of the log-sum-exp reaches queries and keys; if not, it is lost without a word."""
    back: Back | None = None
    """Its backward kernel by itself, if it can be had: from d_out, q, k, v, out, log_sum, scale and causal the share of
    these keys in the gradients of q, k and v; out and log_sum are those of all keys, of which these may be some."""

    @abstractmethod
    def attend(
        self, q: TimeFirst, k: TimeFirst, v: TimeFirst, scale: float, *, causal: bool, window: int | None = None
    ) -> tuple[TimeFirst, LogSum]:
        """Output [b, t, h, d] and log-sum-exp [b, h, t] in float32.

        Args:
            q: queries [b, t, h, d].
            k: keys [b, s, h, d].
            v: values [b, s, h, d].
            scale: what the scores are multiplied with.
            causal: whether a query sees keys up to its own only, or else all.
            window: tokens a query sees, its own included; None: all.
        """


class FlashAttention4(FlashKernel):
    """`flash_attn.cute.flash_attn_func` of the package flash-attn-4: Hopper and Blackwell."""

    name = "flash-attn 4"
    log_sum_has_gradient = True

    def __init__(self, module: ModuleType) -> None:
        # Its kernels are built by a compiler of their own, whose calls torch.compile cannot follow.
        self._function: Callable[..., Any] = torch.compiler.disable(module.flash_attn_func)
        self.back = _backward_of(module)

    def attend(
        self, q: TimeFirst, k: TimeFirst, v: TimeFirst, scale: float, *, causal: bool, window: int | None = None
    ) -> tuple[TimeFirst, LogSum]:
        span = (None, None) if window is None else (window - 1, 0)
        deterministic = torch.are_deterministic_algorithms_enabled()
        out, log_sum = self._function(
            q, k, v, softmax_scale=scale, causal=causal, window_size=span, deterministic=deterministic, return_lse=True
        )
        return out, log_sum


def _backward_of(module: ModuleType) -> Back | None:
    """flash-attn 4's backward kernel by itself. It is no part of the interface: None where a version does not have it
    by the name and with the arguments that we know."""
    function = vars(sys.modules.get(module.flash_attn_func.__module__, module)).get("_flash_attn_bwd")
    names = [] if function is None else list(signature(function).parameters)
    known = names[:6] == ["q", "k", "v", "out", "dout", "lse"]
    if not known or not {"softmax_scale", "causal", "deterministic"} <= set(names):
        return None
    kernel: Callable[..., Any] = torch.compiler.disable(function)

    def back(
        d_out: TimeFirst, q: TimeFirst, k: TimeFirst, v: TimeFirst, out: TimeFirst, log_sum: LogSum, scale: float,
        causal: bool,
    ) -> tuple[TimeFirst, TimeFirst, TimeFirst]:  # fmt: skip
        deterministic = torch.are_deterministic_algorithms_enabled()
        d_q, d_k, d_v = kernel(
            q, k, v, out, d_out, log_sum, softmax_scale=scale, causal=causal, deterministic=deterministic
        )
        return d_q, d_k, d_v

    return back


class FlashAttention2(FlashKernel):
    """`flash_attn.flash_attn_func` of the package flash-attn: from Ampere on."""

    name = "flash-attn 2"
    log_sum_has_gradient = False

    def __init__(self, module: ModuleType) -> None:
        self._function: Callable[..., Any] = module.flash_attn_func

    def attend(
        self, q: TimeFirst, k: TimeFirst, v: TimeFirst, scale: float, *, causal: bool, window: int | None = None
    ) -> tuple[TimeFirst, LogSum]:
        out, log_sum, _ = self._function(
            q,
            k,
            v,
            softmax_scale=scale,
            causal=causal,
            window_size=(-1, -1) if window is None else (window - 1, 0),
            deterministic=torch.are_deterministic_algorithms_enabled(),
            return_attn_probs=True,
        )
        return out, log_sum


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of a CUDA device."""
    return torch.cuda.get_device_capability(device)


def widest_head(device: tuple[int, int]) -> int:
    """Dimension of the widest head that is taken on a compute capability: flash-attn 4 takes less on Blackwell."""
    return 256 if device < (10, 0) else 128


@cache
def kernel_for(device: tuple[int, int]) -> FlashKernel | str:
    """The best installed kernel for a compute capability, or why there is none and how to install one."""
    if device < (8, 0):
        return (
            f"flash-attn needs a GPU of compute capability 8.0 (Ampere) or more, this one has {device[0]}.{device[1]}"
        )
    broken = []
    for module, kernel, least, package in (
        ("flash_attn.cute", FlashAttention4, (9, 0), "flash-attn-4"),
        ("flash_attn", FlashAttention2, (8, 0), "flash-attn"),
    ):
        if device < least:
            continue
        try:
            return kernel(_with_function(module))
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "flash_attn":
                broken.append(f"{package} is installed, but needs {error.name}, which is not")
        except Exception as error:  # a library that does not load raises what it likes; the reason is told
            reason = (str(error).splitlines() or [""])[0]
            broken.append(f"{package} is installed, but does not import ({type(error).__name__}: {reason})")
    install = f"{INSTALL_4} for Hopper and later, or {INSTALL_2}" if device >= (9, 0) else INSTALL_2
    return f"{'; '.join(broken) or 'flash-attn is not installed'}; to install it: {install}"


def _with_function(name: str) -> ModuleType:
    """A module that has `flash_attn_func`: without flash-attn 2, flash-attn 4 leaves `flash_attn` an empty package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports: where warnings are errors, it would not load
        module = import_module(name)
    if "flash_attn_func" not in vars(module):
        raise ModuleNotFoundError(f"{name} has no flash_attn_func", name=name)
    return module
