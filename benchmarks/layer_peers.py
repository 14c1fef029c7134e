"""Other people's layers, measured in the same run: each row says what it computes and, if it fails, why."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from titanlab.benchmarks.layer_case import Case, Draw, Prepared, Sizes, of_function
from titanlab.benchmarks.layer_rules import RULES
from titanlab.platform.errors import ConfigError, Problem, unknown_name

MODULES = {
    "sdpa": ("torch",),
    "flash-attn": ("flash_attn.cute", "flash_attn.flash_attn_interface"),
    "titans-pytorch": ("titans_pytorch",),
    "fla": ("fla",),
}
"""The peers there are, and the modules of which one has to be installed."""

INSTALL = {
    "flash-attn": "pip install 'titanlab[gpu]'",
    "titans-pytorch": "pip install 'titanlab[bench]'",
    "fla": "pip install 'titanlab[bench]'",
}

ANOTHER_FUNCTION = "another function: gradients at the initial weights, gates per chunk; a layer with projections"


def chosen_peers(peers: str) -> list[str]:
    """`auto`: all; `none`; or names, comma between them.

    Raises:
        ConfigError: naming those there are.
    """
    if peers in ("auto", "none"):
        return list(MODULES) if peers == "auto" else []
    names = [name.strip() for name in peers.split(",")]
    for name in names:
        if name in ("auto", "none"):
            raise ConfigError(Problem(f"--peers: '{name}' stands alone, without other names; got '{peers}'"))
        if name not in MODULES:
            raise ConfigError(Problem(f"--peers: {unknown_name('peer', name, {*MODULES, 'auto', 'none'})}"))
    return names


def peer_cases(names: Sequence[str], sizes: Sizes, depths: Sequence[int]) -> tuple[list[Case], list[str]]:
    """The rows of the peers that are installed, and a note for each that is not."""
    cases, notes = [], []
    for name in names:
        found = [module for module in MODULES[name] if _is_installed(module)]
        if not found:
            notes.append(f"{name} is not installed and not measured ({INSTALL[name]})")
        elif name == "sdpa":
            cases.append(_attention("SDPA, causal", "torch", _sdpa, sizes))
        elif name == "flash-attn":
            cases += [_attention(f"{module}, causal", module, _flash_attention(module), sizes) for module in found]
        elif name == "titans-pytorch":
            cases += [_neural_memory(sizes, depth) for depth in depths]
        else:
            cases += _fla_cases(sizes)
    return cases, notes


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not there
        return False


@contextmanager
def quiet() -> Iterator[None]:
    """Other people's warnings say nothing about what is measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _attention(name: str, package: str, function: Callable[..., Tensor], sizes: Sizes) -> Case:
    """Causal attention of [b, t, h, d]: 4 d operations for each of the (t + 1) / 2 keys that a token sees."""

    def inputs(draw: Draw) -> list[Tensor]:
        return [draw.per_head(normed=False) for _ in range(3)]

    flops = 4.0 * sizes.dim * (sizes.tokens + 1) / 2
    return Case(name, package, of_function(function, inputs), _exact_attention, flops, "kernels")


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def _exact_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bthd,bshd->bhts", q, k) * q.shape[-1] ** -0.5
    hidden = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1)
    return torch.einsum("bhts,bshd->bthd", scores.masked_fill(hidden, float("-inf")).softmax(-1), v)


def _flash_attention(module: str) -> Callable[..., Tensor]:
    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        function = _imported(module, "flash_attn_func")
        found = function(q, k, v, causal=True)
        return found[0] if isinstance(found, tuple) else found

    return call


def _neural_memory(sizes: Sizes, depth: int) -> Case:
    def prepare(draw: Draw) -> Prepared:
        torch.manual_seed(0)
        with quiet():
            mlp = _imported("titans_pytorch", "MemoryMLP")
            model = mlp(sizes.head_dim, depth=depth, expansion_factor=sizes.expansion)
            memory = _imported("titans_pytorch", "NeuralMemory")(
                dim=sizes.dim, chunk_size=sizes.chunk_size, heads=sizes.heads, dim_head=sizes.head_dim, model=model,
                momentum=True,
            )  # fmt: skip
        memory = memory.to(draw.device, sizes.dtype)
        x = draw.normal(draw.sizes.batch, draw.sizes.tokens, sizes.dim).to(sizes.dtype).requires_grad_()

        def call(x: Tensor, *parameters: Tensor) -> Tensor:
            return memory(x)[0]

        return Prepared(call, [x, *(weight for weight in memory.parameters() if weight.requires_grad)])

    name = f"titans-pytorch NeuralMemory, depth {depth}"
    return Case(name, "titans-pytorch", prepare, None, None, remark=ANOTHER_FUNCTION)


def _fla_cases(sizes: Sizes) -> list[Case]:
    """fla's kernels of our rules, on the same inputs and held against the same exact forms."""
    return [
        _fla("chunk_delta_rule", "fla.ops.delta_rule", "delta", sizes, _delta),
        _fla("chunk_gated_delta_rule", "fla.ops.gated_delta_rule", "gated_delta", sizes, _gated_delta),
        _fla("chunk_momentum_delta_rule", "fla.ops.momentum_delta_rule", "momentum_delta", sizes, _momentum_delta),
        _fla("chunk_linear_attn", "fla.ops.linear_attn", "linear_attention", sizes, _linear),
        _fla("chunk_simple_gla", "fla.ops.simple_gla", "mamba2", sizes, _decayed),
        _fla("chunk_gla", "fla.ops.gla", "gla", sizes, _decayed),
    ]


def _fla(name: str, module: str, rule: str, sizes: Sizes, adapted: Callable[..., Any]) -> Case:
    def call(*leaves: Tensor) -> Tensor:
        with quiet():
            return adapted(_imported(module, name), *leaves)[0]

    def exact(*leaves: Tensor) -> Tensor:
        return RULES[rule].function(*leaves, chunk_size=sizes.chunk_size)[0]

    flops = sizes.heads * RULES[rule].flops(sizes)
    return Case(f"fla {name}", "fla-core", of_function(call, RULES[rule].inputs), exact, flops, "triton")


def _delta(function: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Any:
    return function(q, k, v, beta.to(q.dtype), scale=1.0)


def _gated_delta(function: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Any:
    return function(q, k, v, g, beta, scale=1.0)


def _momentum_delta(
    function: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, keep: Tensor, momentum: Tensor, step: Tensor
) -> Any:
    ours = {"beta": torch.ones_like(step), "eta": step, "use_qk_l2norm_in_kernel": False, "use_p_times_alpha": False}
    return function(q, k, v, keep.log(), momentum.log(), scale=1.0, **ours)


def _linear(function: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor) -> Any:
    return function(q, k, v, scale=1.0, normalize=False)


def _decayed(function: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Any:
    return function(q, k, v, decay, scale=1.0)


def _imported(module: str, name: str) -> Any:
    """A name of a package that may warn when it is imported."""
    import importlib

    with quiet():
        return getattr(importlib.import_module(module), name)
