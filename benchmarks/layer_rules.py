"""titanlab's own rows of the layer benchmark: every rule as a function, and every registered memory as a layer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.func import functional_call

from titanlab.benchmarks.layer_case import Case, Draw, Prepared, Sizes, of_function
from titanlab.benchmarks.model_sizes import option_of
from titanlab.memory_modules import functional
from titanlab.memory_modules.kernels.delta_chunks import delta_chunks_flops
from titanlab.memory_modules.kernels.dual_form import dual_form_flops
from titanlab.memory_modules.kernels.linear_chunks import linear_chunks_flops
from titanlab.memory_modules.kernels.momentum_delta_chunks import momentum_delta_chunks_flops
from titanlab.memory_modules.kernels.rwkv7_chunks import rwkv7_chunks_flops
from titanlab.platform.config import problems_of
from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.memory import MEMORY_MODULES, MemoryModule

LARGEST_DECAY = 0.04
"""A token's decay is uniform between this and 0, in logarithms: about 0.98 of a memory is kept."""


@dataclass(frozen=True)
class Rule:
    """A memory rule as a function of leaves; `name` is the registered memory that computes it."""

    function: Callable[..., tuple[Tensor, Any]]
    inputs: Callable[[Draw], Sequence[Tensor]]
    flops: Callable[[Sizes], float]
    """Operations a token and head, forward."""

    def has_backends(self) -> bool:
        """Whether the function can be told which kernels to take."""
        return "backend" in inspect.signature(self.function).parameters


def _queries_keys_values(draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    return draw.per_head(), draw.per_head(), draw.per_head()


def _log_decay(draw: Draw) -> Tensor:
    return -LARGEST_DECAY * draw.gate()


def _channel_decay(draw: Draw) -> Tensor:
    return -LARGEST_DECAY * draw.per_head(normed=False).float().sigmoid()


def _keep_momentum_step(draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """About as the layers begin: keep 0.99, momentum 0.12."""
    keep, momentum = torch.sigmoid(4 + draw.gate()), torch.sigmoid(4 * draw.gate() - 4)
    return keep, momentum, draw.gate() / draw.sizes.chunk_size


def deep_rule(depth: int) -> Rule:
    """Titans' memory of so many matrices, with momentum, keep and gates of every token."""

    def inputs(draw: Draw) -> list[Tensor]:
        keep, momentum, step = _keep_momentum_step(draw)
        widths = deep_widths(draw.sizes, depth)
        pairs = zip(widths[:-1], widths[1:], strict=True)
        weights = [draw.normal(draw.sizes.heads, before, after) * before**-0.5 for before, after in pairs]
        return [*_queries_keys_values(draw), keep, momentum, step * 2.0 ** (1 - depth), *weights]

    def function(*leaves: Tensor, **settings: Any) -> tuple[Tensor, Any]:
        q, k, v, keep, momentum, step, *weights = leaves
        return functional.deep_memory(q, k, v, keep, momentum, step, weights, **settings)

    function.__signature__ = inspect.signature(functional.deep_memory)  # type: ignore[attr-defined]
    return Rule(function, inputs, lambda s: dual_form_flops(deep_widths(s, depth), s.chunk_size, momentum=True))


def deep_widths(sizes: Sizes, depth: int) -> list[int]:
    """From queries to answers."""
    return [sizes.head_dim, *[sizes.hidden] * (depth - 1), sizes.head_dim]


def _rwkv7_inputs(draw: Draw) -> list[Tensor]:
    r, k, v = _queries_keys_values(draw)
    removed = draw.per_head()
    return [r, _channel_decay(draw), k, v, -removed, removed * draw.gate().unsqueeze(-1).to(removed.dtype)]


def _linear_flops(sizes: Sizes, *, channel_decay: bool = False) -> float:
    return linear_chunks_flops(sizes.head_dim, sizes.chunk_size, channel_decay=channel_decay)


RULES: dict[str, Rule] = {
    "delta": Rule(
        functional.delta_rule,
        lambda draw: [*_queries_keys_values(draw), draw.gate()],
        lambda s: delta_chunks_flops(s.head_dim, s.chunk_size),
    ),
    "gated_delta": Rule(
        functional.gated_delta_rule,
        lambda draw: [*_queries_keys_values(draw), _log_decay(draw), draw.gate()],
        lambda s: delta_chunks_flops(s.head_dim, s.chunk_size),
    ),
    "momentum_delta": Rule(
        functional.momentum_delta_rule,
        lambda draw: [*_queries_keys_values(draw), *_keep_momentum_step(draw)],
        lambda s: momentum_delta_chunks_flops(s.head_dim, s.chunk_size),
    ),
    "linear_attention": Rule(functional.linear_attention, _queries_keys_values, _linear_flops),
    "mamba2": Rule(
        functional.linear_attention, lambda draw: [*_queries_keys_values(draw), _log_decay(draw)], _linear_flops
    ),
    "gla": Rule(
        functional.linear_attention,
        lambda draw: [*_queries_keys_values(draw), _channel_decay(draw)],
        partial(_linear_flops, channel_decay=True),
    ),
    "rwkv7": Rule(functional.rwkv7, _rwkv7_inputs, lambda s: rwkv7_chunks_flops(s.head_dim, s.chunk_size)),
}
"""Every other rule that is one function, by the registered memory that computes it."""


def rule_cases(name: str, sizes: Sizes, depths: Sequence[int], backends: Sequence[str]) -> list[Case]:
    """The rows of a memory: its rule as a function if it is one, else its layer; `titans` once for each depth."""
    if name == "titans":
        return [
            case for depth in depths for case in _of_rule(f"titans, depth {depth}", deep_rule(depth), sizes, backends)
        ]
    if name in RULES:
        return _of_rule(name, RULES[name], sizes, backends)
    return [layer_case(name, sizes)]


def _of_rule(name: str, rule: Rule, sizes: Sizes, backends: Sequence[str]) -> list[Case]:
    exact = partial(_first, rule.function, {"chunk_size": sizes.chunk_size})
    flops = sizes.heads * rule.flops(sizes)
    if not rule.has_backends():
        return [Case(name, "titanlab", of_function(exact, rule.inputs), exact, flops)]
    cases = []
    for backend in backends:
        called = partial(_first, rule.function, {"chunk_size": sizes.chunk_size, "backend": backend})
        cases.append(Case(name, "titanlab", of_function(called, rule.inputs), exact, flops, backend))
    return cases


def _first(function: Callable[..., tuple[Tensor, Any]], settings: dict[str, Any], *leaves: Tensor) -> Tensor:
    return function(*leaves, **settings)[0]


class _FromStart(nn.Module):
    """A memory's outputs for whole sequences."""

    def __init__(self, memory: MemoryModule) -> None:
        super().__init__()
        self.memory = memory

    def forward(self, x: Tensor) -> Tensor:
        return self.memory(x, self.memory.initial_state(x.shape[0]))[0]


def layer_case(name: str, sizes: Sizes) -> Case:
    """A registered memory with its defaults but for heads and chunk; below float32 it runs under autocast."""
    kind = MEMORY_MODULES[name]
    settings = {"heads": sizes.heads, "chunk_size": sizes.chunk_size, "expansion": sizes.expansion}
    try:
        config = kind.model_validate({key: value for key, value in settings.items() if key in kind.model_fields})
    except ValidationError as error:
        found = problems_of(error, lambda path: (option_of(path), None))
        raise ConfigError([Problem(str(problem), f"--memory {name}") for problem in found]) from None

    def prepare(draw: Draw) -> Prepared:
        torch.manual_seed(0)
        layer = _FromStart(config.build(sizes.dim)).to(draw.device)
        x = draw.normal(draw.sizes.batch, draw.sizes.tokens, sizes.dim).requires_grad_()

        def call(x: Tensor, *parameters: Tensor) -> Tensor:
            with torch.autocast(x.device.type, sizes.dtype, enabled=sizes.dtype != torch.float32):
                return layer(x)

        return Prepared(call, [x, *layer.parameters()])

    def exact(x: Tensor, *parameters: Tensor) -> Tensor:
        torch.manual_seed(0)
        layer = _FromStart(config.build(sizes.dim)).to(x)
        names = [name for name, _ in layer.named_parameters()]
        return functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    remark = "a layer: projections, convolution and norms included"
    return Case(f"{name} layer", "titanlab", prepare, exact, config.flops(sizes.dim), "auto", remark)
