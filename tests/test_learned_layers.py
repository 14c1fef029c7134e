"""The layers of the learned family: every setting keeps the promises of a memory, and does what its name says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from titanlab import MEMORY_MODULES
from titanlab.memory_modules.functional import LearnedRule, Rates, gated_delta_rule, learned_memory, linear_attention
from titanlab.memory_modules.gradient_memory import GradientMemory
from titanlab.memory_modules.parts.objective import DotProduct
from titanlab.memory_modules.parts.structure import Mlp
from titanlab.memory_modules.polynomial_features import PolynomialFeatures, polynomial_width
from titanlab.memory_modules.rules.deep_memory import DeepMemoryState
from titanlab.platform.errors import ConfigError

KINDS = ("ttt_linear", "ttt_mlp", "moneta", "yaad", "memora", "omega_net", "atlas", "lact")
CONTROLS = ("ascent", "keys_as_queries", "frozen", "initial_gradients", "last_matrix")

VARIANTS: list[dict[str, Any]] = [
    *({"type": "titans", "objective": objective} for objective in ("dot", "huber", "lp")),
    *({"type": "titans", "optimizer": optimizer} for optimizer in ("gradient", "muon")),
    *({"type": "titans", "gates": "channel", "keep": keep} for keep in ("token", "chunk", "constant", "none")),
    *({"type": "titans", "control": control} for control in CONTROLS),
    {"type": "titans", "gradient_at": "decayed"},
    {"type": "linear", "gradient_at": "decayed", "gates": "channel"},
    {"type": "titans", "optimizer": "muon", "momentum": "none"},
    *({"type": kind} for kind in KINDS),
    *({"type": kind, "control": "frozen"} for kind in KINDS),
    {"type": "lact", "optimizer": "momentum", "momentum": "token", "keep": "token"},
    {"type": "omega_net", "degree": 3, "depth": 1},
    {"type": "omega_net", "degree": 1, "control": "keys_as_queries"},
    {"type": "atlas", "gates": "channel", "objective": "huber"},
]


def name(settings: dict[str, Any]) -> str:
    return "-".join(str(value) for value in settings.values())


def layer_of(settings: dict[str, Any], dim: int = 16) -> GradientMemory:
    torch.manual_seed(0)
    built = MEMORY_MODULES.resolve({"chunk_size": 4, **settings}).build(dim).double()
    assert isinstance(built, GradientMemory)
    return built


def run(layer: GradientMemory, x: Tensor) -> Tensor:
    return layer(x, layer.initial_state(x.shape[0]))[0]


@pytest.mark.parametrize("settings", VARIANTS, ids=name)
def test_every_setting_is_causal_and_the_same_in_pieces(settings: dict[str, Any]) -> None:
    layer, x = layer_of(settings), torch.randn(2, 13, 16, dtype=torch.float64)
    edited = x.clone()
    edited[:, 7] += 1
    with torch.no_grad():
        whole = run(layer, x)
        assert (run(layer, edited) - whole)[:, :7].abs().max() == 0.0
        state, pieces = layer.initial_state(2), []
        for part in x.split([1, 5, 2, 5], 1):
            y, state = layer(part, state)
            pieces.append(y)
    assert (torch.cat(pieces, 1) - whole).abs().max() < 1e-12


@pytest.mark.parametrize("settings", VARIANTS, ids=name)
def test_every_setting_gives_every_parameter_a_gradient(settings: dict[str, Any]) -> None:
    layer = layer_of(settings)
    run(layer, torch.randn(2, 13, 16, dtype=torch.float64)).square().sum().backward()
    for parameter, value in layer.named_parameters():
        if value.requires_grad:
            assert value.grad is not None and bool(value.grad.isfinite().all()), parameter
    assert layer.qkv.weight.grad is not None and bool((layer.qkv.weight.grad != 0).any())


@pytest.mark.parametrize("kind", KINDS)
def test_reading_writes_nothing_and_asks_the_memory_as_it_stands(kind: str) -> None:
    layer, x = layer_of({"type": kind}), torch.randn(2, 9, 16, dtype=torch.float64)
    with torch.no_grad():
        fresh = layer.initial_state(2)
        _, written = layer(x, fresh)
        before, after = layer.read(x, fresh), layer.read(x, written)
        again = layer.read(x, written)
    assert (after - again).abs().max() == 0.0
    assert (before - after).abs().max() > 1e-4


def test_the_plain_memory_of_titans_is_computed_by_the_faster_rule() -> None:
    assert isinstance(layer_of({"type": "titans"}).initial_state(1).rule.memory, DeepMemoryState)
    assert not isinstance(layer_of({"type": "titans", "objective": "lp"}).initial_state(1).rule.memory, DeepMemoryState)


def test_a_frozen_memory_is_never_written_and_not_learned() -> None:
    layer, x = layer_of({"type": "titans", "control": "frozen"}), torch.randn(1, 9, 16, dtype=torch.float64)
    before = layer.initial_state(1)
    _, after = layer(x, before)
    for old, new in zip(before.rule.memory.stored, after.rule.memory.stored, strict=True):
        assert torch.equal(old, new)
        assert old.abs().max() > 0
    assert not any(matrix.requires_grad for matrix in layer.initial_memory)


def test_with_keys_as_queries_the_query_projection_has_no_say() -> None:
    layer, x = layer_of({"type": "titans", "control": "keys_as_queries"}), torch.randn(1, 9, 16, dtype=torch.float64)
    with torch.no_grad():
        before, read = run(layer, x), layer.read(x, layer.initial_state(1))
        layer.qkv.weight[:16] += 1.0
        assert (run(layer, x) - before).abs().max() == 0.0
        assert (layer.read(x, layer.initial_state(1)) - read).abs().max() == 0.0
        layer.qkv.weight[16:32] += 1.0
        assert (run(layer, x) - before).abs().max() > 1e-4


def test_with_last_matrix_only_the_last_matrix_moves() -> None:
    layer = layer_of({"type": "titans", "control": "last_matrix", "depth": 3})
    before = layer.initial_state(1)
    _, after = layer(torch.randn(1, 9, 16, dtype=torch.float64), before)
    pairs = zip(before.rule.memory.stored, after.rule.memory.stored, strict=True)
    assert [bool((old != new).any()) for old, new in pairs] == [False, False, True]


@pytest.mark.parametrize("chunk_size", [1, 4, 11])
def test_a_dot_product_on_one_matrix_is_linear_attention_with_decay(chunk_size: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 11, 2, 4, dtype=torch.float64) for _ in range(3))
    keep = torch.rand(2, 11, 2, dtype=torch.float64) * 0.2 + 0.8
    zeros = [torch.zeros(2, 4, 4, dtype=torch.float64)]
    rule = LearnedRule(Mlp(1), DotProduct())
    ours, _ = learned_memory(q, k, v, Rates(torch.ones_like(keep), keep), zeros, rule, chunk_size=chunk_size)
    expected, _ = linear_attention(q, k, v, keep.log(), chunk_size=4)
    assert (ours - expected).abs().max() < 1e-12


def test_gradients_at_the_decayed_memory_of_one_token_are_the_gated_delta_rule() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 11, 2, 4, dtype=torch.float64) for _ in range(3))
    keep, step = (torch.rand(2, 11, 2, dtype=torch.float64) * 0.2 + low for low in (0.8, 0.1))
    zeros = [torch.zeros(2, 4, 4, dtype=torch.float64)]
    rule = LearnedRule(Mlp(1), gradient_at="decayed")
    ours, _ = learned_memory(q, k, v, Rates(step, keep), zeros, rule, chunk_size=1)
    expected, _ = gated_delta_rule(q, k, v, keep.log(), step, chunk_size=4)
    undecayed, _ = learned_memory(q, k, v, Rates(step, keep), zeros, LearnedRule(Mlp(1)), chunk_size=1)
    assert (ours - expected).abs().max() < 1e-12
    assert (undecayed - expected).abs().max() > 1e-3


def test_a_window_with_gradients_at_the_decayed_memory_is_refused_when_built() -> None:
    with pytest.raises(ConfigError, match="gradient_at: expected undecayed with a window of 4"):
        layer_of({"type": "omega_net", "gradient_at": "decayed"})


@pytest.mark.parametrize("degree", [2, 3])
def test_products_of_polynomial_features_are_the_polynomial(degree: int) -> None:
    features = PolynomialFeatures(5, degree).double()
    q, k = (torch.nn.functional.normalize(torch.randn(1, 7, 1, 5, dtype=torch.float64), dim=-1) for _ in range(2))
    assert features(q).shape[-1] == polynomial_width(5, degree)
    dot = (q * k).sum(-1)
    series = 1 + dot + dot**2 / 2 + (dot**3 / 6 if degree == 3 else 0)
    expected = series / (2.5 if degree == 2 else 8 / 3)
    assert ((features(q) * features(k)).sum(-1) - expected).abs().max() < 1e-7
    assert (features(q).norm(dim=-1) - 1).abs().max() < 1e-7


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rates": Rates(torch.ones(1, 3, 1), momentum=torch.ones(1, 3, 1))}, "rates.momentum: is given"),
        ({"weights": []}, r"weights: has 0 matrices; expected 1"),
        ({"weights": [torch.zeros(1, 4, 3)]}, r"weights\[0\]: has shape \[1, 4, 3\]; expected \[1, 4, 4\]"),
        ({"rates": Rates((torch.ones(1, 3, 1, 2),))}, r"step\[0\]: has shape \[1, 3, 1, 2\]"),
        ({"rates": Rates(torch.ones(1, 2, 1))}, r"step: has shape \[1, 2, 1\]"),
        ({"rule": LearnedRule(Mlp(1), optimizer="gradient", window=0)}, "rule.window: is 0"),
        ({"chunk_size": 0}, "chunk_size: is 0"),
    ],
)
def test_bad_input_is_named(changed: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "q": torch.zeros(1, 3, 1, 4), "k": torch.zeros(1, 3, 1, 4), "v": torch.zeros(1, 3, 1, 4),
        "rates": Rates(torch.ones(1, 3, 1)), "weights": [torch.zeros(1, 4, 4)],
        "rule": LearnedRule(Mlp(1), optimizer="gradient"), "chunk_size": 2,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        learned_memory(**{**given, **changed})


def test_a_state_of_another_batch_or_type_is_refused() -> None:
    q = torch.zeros(2, 3, 1, 4)
    weights, rates, rule = [torch.zeros(1, 4, 4)], Rates(torch.ones(2, 3, 1)), LearnedRule(Mlp(1))
    _, state = learned_memory(q, q, q, rates, weights, rule, chunk_size=2)
    with pytest.raises(ValueError, match=r"state.stored\[0\]: has shape \[2, 1, 4, 4\]"):
        learned_memory(q[:1], q[:1], q[:1], Rates(torch.ones(1, 3, 1)), weights, rule, chunk_size=2, state=state)
    double = [x.double() for x in (q, rates.step)]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="float64"):
        learned_memory(*[double[0]] * 3, Rates(double[1]), weights, rule, chunk_size=2, state=state)
