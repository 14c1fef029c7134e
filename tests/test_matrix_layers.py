"""The layers around the matrix rules: their decays, initial gates and what the papers say they compute."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titanlab.memory_modules.fixed_decay import FixedDecayMemory
from titanlab.memory_modules.gated_delta import GatedDeltaMemory
from titanlab.memory_modules.gla import GlaMemory
from titanlab.memory_modules.layer import MemoryLayer
from titanlab.memory_modules.mamba2 import Mamba2Memory
from titanlab.memory_modules.momentum_delta import MomentumDeltaMemory
from titanlab.memory_modules.rwkv7 import Rwkv7Memory
from titanlab.platform.architecture import ARCHITECTURES
from titanlab.platform.errors import ConfigError
from titanlab.platform.memory import MEMORY_MODULES, MemoryModule
from titanlab.platform.model import ModelConfig

DIM, TIME = 16, 9
MATRIX_RULES = (
    "linear_attention",
    "retnet",
    "lightning",
    "gla",
    "mamba2",
    "delta",
    "gated_delta",
    "momentum_delta",
    "rwkv7",
)


def layer_of(name: str, dim: int = DIM, *, moved: bool = True, **settings: Any) -> Any:
    """A layer in float64; `moved`: with every parameter away from its special initial value."""
    torch.manual_seed(0)
    layer = MEMORY_MODULES.resolve({"type": name, **settings}).build(dim).double()
    with torch.no_grad():
        for parameter in layer.parameters() if moved else ():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer


def tokens(batch: int = 2, time: int = TIME, dim: int = DIM) -> Tensor:
    return torch.randn(batch, time, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def run(layer: MemoryModule, x: Tensor) -> Tensor:
    return layer(x, layer.initial_state(x.shape[0]))[0]


def projected(layer: MemoryLayer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v as the layer around every rule makes them without a convolution."""
    q, k, v = F.silu(layer.qkv(x)).unflatten(-1, (3, layer.heads, layer.head_dim)).unbind(2)
    return F.normalize(q, dim=-1), F.normalize(k, dim=-1), v


def finished(layer: MemoryLayer, x: Tensor, reads: list[Tensor]) -> Tensor:
    """Norm, gate and projection of what the rule answered."""
    y = torch.stack(reads, 1)
    normed = y * (y.square().mean(-1, keepdim=True) + (layer.norm.eps or 0.0)).rsqrt() * layer.norm.weight
    return layer.out(normed.flatten(-2) * F.silu(layer.gate(x)))


def outer(x: Tensor, y: Tensor) -> Tensor:
    return x.unsqueeze(-1) * y.unsqueeze(-2)


def answer(state: Tensor, q: Tensor) -> Tensor:
    return torch.einsum("bhkv,bhk->bhv", state, q)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_retnet_keeps_1_less_2_to_the_minus_5_less_the_head(heads: int) -> None:
    layer = layer_of("retnet", heads=heads)
    expected = torch.tensor([1 - 2.0 ** (-5 - head) for head in range(heads)], dtype=torch.float64)
    torch.testing.assert_close(layer.log_decay.exp(), expected, atol=1e-7, rtol=0)


def test_lightning_decays_by_head_and_by_the_layers_place_in_the_stack() -> None:
    memory = MEMORY_MODULES.resolve({"type": "lightning", "heads": 4})
    model = ModelConfig(dim=DIM, layers=3, architecture=ARCHITECTURES.resolve({"type": "lmm"}), memory=memory).build(7)
    layers = [module for module in model.modules() if isinstance(module, FixedDecayMemory)]
    slopes = torch.tensor([2.0 ** (-2 * (head + 1)) for head in range(4)])
    for index, layer in enumerate(layers):
        assert layer.log_decay is not None
        torch.testing.assert_close(layer.log_decay, -slopes * (1 - index / 2 + 1e-5))
    assert len(layers) == 3


def test_the_place_of_a_lightning_layer_can_be_set_for_all_layers() -> None:
    config = MEMORY_MODULES.resolve({"type": "lightning", "place": 0.5})
    assert config.for_layer(3, 4) == config
    assert MEMORY_MODULES.resolve({"type": "lightning"}).for_layer(0, 1).model_dump()["place"] == 0.0


def test_linear_attention_forgets_nothing() -> None:
    assert layer_of("linear_attention").log_decay is None


def kept(layer: MemoryModule, x: Tensor) -> Tensor:
    """The fractions of the memory kept, by token and head or channel."""
    if isinstance(layer, GlaMemory):
        return torch.sigmoid(layer.decay(x)) ** (1 / layer.temperature)
    if isinstance(layer, GatedDeltaMemory):
        return layer.keep(x)[1].exp()
    if isinstance(layer, Mamba2Memory):
        return layer.time(x)[1].exp()
    if isinstance(layer, MomentumDeltaMemory):
        assert layer.keep is not None
        return layer.keep(x, x[:, 0, :0], 0, 1)[0]
    assert isinstance(layer, Rwkv7Memory)
    return (-math.exp(-0.5) * torch.sigmoid(layer.decay(x))).exp()


@pytest.mark.parametrize(
    "name, low, high",
    [
        ("gla", 0.965, 0.99),
        ("gated_delta", 0.965, 0.99),
        ("momentum_delta", 0.965, 0.99),
        ("mamba2", 0.85, 0.99),
        ("rwkv7", 0.88, 0.9995),
    ],
)
def test_memories_begin_by_keeping_nearly_everything(name: str, low: float, high: float) -> None:
    fractions = kept(layer_of(name, 64, moved=False), tokens(dim=64, time=50))
    assert fractions.amin() > low and fractions.amax() < high


@torch.no_grad()
def test_gla_equals_its_equations_token_by_token() -> None:
    layer, x = layer_of("gla", convolution=1, chunk_size=4), tokens()
    q, k, v = projected(layer, x)
    low_rank = layer.decay
    alpha = torch.sigmoid(x @ low_rank.down.T @ low_rank.up.T + low_rank.bias) ** (1 / 16)
    alpha = alpha.unflatten(-1, (layer.heads, layer.head_dim))
    state, reads = layer.initial_memory.expand(2, -1, -1, -1), []
    for t in range(TIME):
        state = alpha[:, t].unsqueeze(-1) * state + outer(k[:, t], v[:, t])
        reads.append(answer(state, q[:, t]))
    torch.testing.assert_close(run(layer, x), finished(layer, x, reads), atol=1e-12, rtol=0)


@torch.no_grad()
def test_mamba2_equals_its_equations_token_by_token() -> None:
    layer, x = layer_of("mamba2", convolution=1, chunk_size=4), tokens()
    q, k, v = projected(layer, x)
    dt = F.softplus(x @ layer.time.weight.T + layer.time.bias)
    decay = torch.exp(-layer.time.log_rate.exp() * dt)
    state, reads = layer.initial_memory.expand(2, -1, -1, -1), []
    for t in range(TIME):
        state = decay[:, t, :, None, None] * state + dt[:, t, :, None, None] * outer(k[:, t], v[:, t])
        reads.append(answer(state, q[:, t]) + layer.skip.unsqueeze(-1) * v[:, t])
    torch.testing.assert_close(run(layer, x), finished(layer, x, reads), atol=1e-12, rtol=0)


@torch.no_grad()
def test_gated_delta_equals_its_equations_token_by_token() -> None:
    layer, x = layer_of("gated_delta", convolution=1, chunk_size=4), tokens()
    q, k, v = projected(layer, x)
    alpha = torch.exp(-layer.keep.log_rate.exp() * F.softplus(x @ layer.keep.weight.T + layer.keep.bias))
    beta = torch.sigmoid(x @ layer.step.weight.T + layer.step.bias)
    state, reads = layer.initial_memory.expand(2, -1, -1, -1), []
    for t in range(TIME):
        removal = torch.eye(layer.head_dim) - beta[:, t, :, None, None] * outer(k[:, t], k[:, t])
        state = alpha[:, t, :, None, None] * removal @ state + beta[:, t, :, None, None] * outer(k[:, t], v[:, t])
        reads.append(answer(state, q[:, t]))
    torch.testing.assert_close(run(layer, x), finished(layer, x, reads), atol=1e-12, rtol=0)


@torch.no_grad()
def test_rwkv7_equals_its_equations_token_by_token() -> None:
    layer, x = layer_of("rwkv7", chunk_size=4), tokens(batch=1)
    heads, width = layer.heads, layer.head_dim

    def low_rank(part: Any, y: Tensor) -> Tensor:
        hidden = part.down @ y
        hidden = hidden if part.activation is None else part.activation(hidden)
        return part.up @ hidden + (0 if part.bias is None else part.bias)

    # the paper's state is [value, key]
    state, before, outputs = layer.initial_memory.mT, torch.zeros(DIM, dtype=torch.float64), []
    for x_t in x[0]:
        x_r, x_w, x_k, x_v, x_a, x_g = (x_t + (before - x_t) * share for share in layer.shift)
        before = x_t
        r, k, v = (
            (part.weight @ y).view(heads, width)
            for part, y in ((layer.receptance, x_r), (layer.key, x_k), (layer.value, x_v))
        )
        w = torch.exp(-math.exp(-0.5) * torch.sigmoid(low_rank(layer.decay, x_w))).view(heads, width)
        a = torch.sigmoid(low_rank(layer.rate, x_a)).view(heads, width)
        kappa = F.normalize(k * layer.removal_scale, dim=-1)
        k = k * (1 + (a - 1) * layer.rate_share)
        state = state @ (torch.diag_embed(w) - outer(kappa, a * kappa)) + outer(v, k)
        y = (state @ r.unsqueeze(-1)).squeeze(-1)
        y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        y = y * layer.norm_scale + layer.norm_shift + (r * layer.bonus * k).sum(-1, keepdim=True) * v
        outputs.append(layer.out(y.flatten() * low_rank(layer.gate, x_g)))
    torch.testing.assert_close(run(layer, x)[0], torch.stack(outputs), atol=1e-12, rtol=0)


@pytest.mark.parametrize("momentum", [0.5, 0.8, 0.95, 0.99])
@torch.no_grad()
def test_the_step_of_momentum_delta_shrinks_with_momentum_so_that_no_memory_grows_without_bound(
    momentum: float,
) -> None:
    largest = {}
    for bounded in (True, False):
        settings = {"keep": "none", "momentum": "constant", "momentum_start": momentum, "bounded": bounded}
        layer = layer_of("momentum_delta", 32, moved=False, convolution=1, **settings)
        _, state = layer(tokens(1, 3000, 32), layer.initial_state(1))
        largest[bounded] = state.rule.memory.abs().max().nan_to_num(math.inf)
    assert largest[True] < 20
    assert momentum < 0.9 or largest[False] > 1e6


@pytest.mark.parametrize("name", MATRIX_RULES)
@torch.no_grad()
def test_the_chunk_length_changes_nothing(name: str) -> None:
    x = tokens(time=40)
    whole = [run(layer_of(name, chunk_size=chunk_size), x) for chunk_size in (1, 7, 16, 64)]
    for y in whole[1:]:
        torch.testing.assert_close(y, whole[0], atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", MATRIX_RULES)
@torch.no_grad()
def test_reading_after_a_token_answers_without_writing(name: str) -> None:
    layer, x = layer_of(name), tokens()
    state = layer(x, layer.initial_state(2))[1]
    queries = tokens(time=3)
    together = layer.read(queries, state)
    apart = torch.cat([layer.read(queries[:, t : t + 1], state) for t in range(3)], 1)
    torch.testing.assert_close(together, apart, atol=1e-12, rtol=0)
    assert (together - layer.read(queries, layer.initial_state(2))).abs().amax() > 1e-6


@pytest.mark.parametrize("name", MATRIX_RULES)
def test_heads_that_do_not_divide_the_width_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="5 heads do not divide dim 16; 1, 2, 4, 8, 16 would"):
        MEMORY_MODULES.resolve({"type": name, "heads": 5}).build(DIM)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("momentum_delta", {"keep": "none", "momentum": "none", "step": "constant"}),
        ("momentum_delta", {"keep": "constant", "momentum": "constant", "bounded": False}),
        ("gated_delta", {"keep": "constant", "step": "constant"}),
        ("mamba2", {"skip": False, "heads": 1}),
        ("gla", {"gate_rank": 1, "heads": 4}),
        ("rwkv7", {"gate_rank": 1, "heads": 16}),
        ("retnet", {"first_exponent": 1, "heads": 16}),
        ("lightning", {"place": 1.0, "heads": 3}),
    ],
)
def test_every_setting_builds_a_layer_whose_weights_all_learn(name: str, settings: dict[str, Any]) -> None:
    dim = 48
    layer: nn.Module = layer_of(name, dim, moved=False, **settings)
    y = layer(tokens(dim=dim), layer.initial_state(2))[0]
    (y * tokens(dim=dim).flip(1)).sum().backward()
    for parameter_name, parameter in layer.named_parameters():
        gradient = parameter.grad
        assert gradient is not None and gradient.isfinite().all() and gradient.abs().max() > 0, parameter_name
