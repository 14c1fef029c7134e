"""Combinations of settings that once built and then failed, blew up, or computed something else than they say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from titanlab import MEMORY_MODULES, MemoryModule, build_model
from titanlab.memory_modules.gradient_memory import GradientMemory, GradientMemoryConfig
from titanlab.memory_modules.moneta import MonetaConfig


def layer_of(**settings: Any) -> MemoryModule:
    torch.manual_seed(0)
    return MEMORY_MODULES.resolve(settings).build(16)


def run(layer: MemoryModule, x: Tensor) -> Tensor:
    return layer(x, layer.initial_state(x.shape[0]))[0]


@pytest.mark.parametrize(
    "kind", sorted(name for name in MEMORY_MODULES if MEMORY_MODULES[name].__module__.startswith("titanlab."))
)
def test_no_tokens_give_no_outputs_and_leave_the_state(kind: str) -> None:
    layer = layer_of(type=kind)
    state = layer.initial_state(2)
    y, after = layer(torch.randn(2, 0, 16), state)
    assert y.shape == (2, 0, 16)
    x = torch.randn(2, 5, 16)
    assert torch.equal(layer(x, after)[0], layer(x, state)[0])


@pytest.mark.parametrize("architecture", ["lmm", "mag", "mal", "mac", "transformer", "sliding_window"])
def test_a_model_takes_no_tokens(architecture: str) -> None:
    model = build_model({"dim": 16, "layers": 1, "architecture": {"type": architecture}}, vocab_size=8)
    logits, state = model(torch.zeros(2, 0, dtype=torch.long))
    assert logits.shape == (2, 0, 8)
    ids = torch.arange(10).remainder(8).reshape(2, 5)
    assert torch.allclose(model(ids, state)[0], model(ids)[0], atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"type": "memora"},
        {"type": "memora", "gates": "channel", "momentum": "token", "optimizer": "momentum"},
        {"type": "atlas"},
        {"type": "atlas", "objective": "huber", "gates": "channel"},
        {"type": "lact", "momentum": "token", "keep": "token"},
        {"type": "titans", "optimizer": "muon", "control": "last_matrix"},
        {"type": "ttt_mlp", "optimizer": "muon"},
    ],
)
def test_rows_shorter_than_a_chunk_leave_no_weight_without_a_gradient(settings: dict[str, Any]) -> None:
    layer = layer_of(**settings, chunk_size=64)
    run(layer, torch.randn(2, 10, 16)).square().sum().backward()
    assert [name for name, weight in layer.named_parameters() if weight.requires_grad and weight.grad is None] == []


def test_the_dot_product_of_a_memory_around_features_writes_values_and_not_what_they_differ_by() -> None:
    # l = -<k + f(phi(k)), v> of a matrix f has the gradient -phi(k) v^T, so only k and v of a token are written
    layer = layer_of(type="omega_net", objective="dot", depth=1, degree=1, window=1, keep="none", chunk_size=1)
    assert isinstance(layer, GradientMemory)
    layer.double()
    q, k, v = (nn.functional.normalize(torch.randn(1, 1, 2, 8).double(), dim=-1) for _ in range(3))
    x = torch.randn(1, 1, 16).double()
    with torch.no_grad():
        before = layer.initial_rule_state(1)
        _, after = layer.write(x, q, k, v, before)
        step = layer._rates(x, before)[0].step
        assert isinstance(step, Tensor)
        written = after.memory[0][0] - before.memory[0][0]
    expected = step.movedim(1, 2)[..., None] * torch.einsum("bthi,btho->bhio", k, v)
    assert torch.allclose(written, expected, atol=1e-12)


@pytest.mark.parametrize("q", [2.0, 2.9, 2.99999, 3.0, 3.00001, 3.01, 3.1, 8.0])
def test_moneta_starts_from_finite_weights_at_every_q(q: float) -> None:
    layer = layer_of(type="moneta", q=q)
    y = run(layer, torch.randn(2, 40, 16))
    y.square().sum().backward()
    assert bool(y.isfinite().all())
    assert all(bool(weight.grad.isfinite().all()) for weight in layer.parameters() if weight.grad is not None)


def test_monetas_weights_are_as_long_at_first_as_those_of_its_kin() -> None:
    plain, normed = (MonetaConfig(q=q) for q in (2.0, 4.0))
    torch.manual_seed(0)
    kept, scaled = (config.build(64) for config in (plain, normed))
    for w, a in zip(kept.initial_memory, scaled.initial_memory, strict=True):
        read = scaled.form.retention.weights(a, a)
        assert 0.8 < (read.std() / w.std()).item() < 1.25


@pytest.mark.parametrize("optimizer", ["gradient", "momentum"])
@pytest.mark.parametrize(
    "settings",
    [{"depth": 1}, {"depth": 3}, {"depth": 4}, {"window": 1, "depth": 4}, {"window": 16}, {"window": 64, "depth": 4}],
)
@pytest.mark.parametrize("chunk_size", [1, 16])
def test_omega_net_stays_finite_at_every_depth_and_window(
    settings: dict[str, Any], optimizer: str, chunk_size: int
) -> None:
    layer = layer_of(type="omega_net", optimizer=optimizer, chunk_size=chunk_size, **settings)
    with torch.no_grad():
        for x in (torch.randn(1, 48, 16), torch.randn(1, 1, 16).expand(1, 48, 16)):
            y, state = layer(x, layer.initial_state(1))
            assert bool(y.isfinite().all())
            assert max(float(matrix.abs().max()) for matrix in state.rule.memory.stored) < 10


@pytest.mark.parametrize(
    "settings", [{"type": "mamba2", "step_max": 1000.0}, {"type": "gated_delta", "keep_start": 1e-310}]
)
def test_extreme_starts_build(settings: dict[str, Any]) -> None:
    assert bool(run(layer_of(**settings), torch.randn(1, 5, 16)).isfinite().all())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"type": "yaad", "momentum": "none"}, ["momentum"]),
        ({"type": "titans", "momentum": "none", "momentum_start": 0.5}, ["momentum_start"]),
        ({"type": "titans", "keep": "none", "keep_start": 0.5}, ["keep_start"]),
        ({"type": "titans", "p": 4.0, "threshold_start": 2.0, "gate_rank": 4}, ["gate_rank", "p", "threshold_start"]),
        ({"type": "titans", "depth": 1, "expansion": 4.0, "activation": "relu"}, ["activation", "expansion"]),
        ({"type": "linear", "control": "last_matrix"}, ["control"]),
        ({"type": "titans", "keep": "none", "gradient_at": "decayed"}, ["gradient_at"]),
        ({"type": "lact", "step_base": 0.1}, ["step_base"]),
        ({"type": "titans", "control": "frozen", "momentum": "none", "step_base": 0.1}, ["momentum", "step_base"]),
        ({"type": "titans", "depth": 2, "expansion": 4.0, "keep_start": 0.9, "momentum_start": 0.2}, []),
        ({"type": "yaad"}, []),
        ({"type": "atlas", "step_base": 0.1, "momentum_start": 0.5}, []),
    ],
)
def test_settings_that_do_nothing_beside_the_others_are_named(settings: dict[str, Any], named: list[str]) -> None:
    config = MEMORY_MODULES.resolve(settings)
    assert isinstance(config, GradientMemoryConfig)
    assert sorted(config.inert()) == named
    remark = config.remark()
    assert (remark is None) == (not named)
    assert remark is None or all(setting in remark for setting in named)


@pytest.mark.parametrize(
    "settings",
    [
        {"type": "yaad", "momentum": "none"},
        {"type": "titans", "p": 4.0, "threshold_start": 2.0, "gate_rank": 4},
        {"type": "titans", "momentum": "none", "momentum_start": 0.5},
        {"type": "linear", "control": "last_matrix"},
    ],
)
def test_what_is_called_inert_changes_no_output(settings: dict[str, Any]) -> None:
    config = MEMORY_MODULES.resolve(settings)
    assert isinstance(config, GradientMemoryConfig)
    inert = config.inert()
    assert inert
    without = MEMORY_MODULES.resolve({name: value for name, value in settings.items() if name not in inert})
    x, outputs = torch.randn(2, 20, 16), []
    for each in (config, without):
        torch.manual_seed(0)
        outputs.append(run(each.build(16), x))
    assert torch.allclose(*outputs, atol=1e-6)
