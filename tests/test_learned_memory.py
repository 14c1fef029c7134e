"""`learned_memory` against the oracle that forms every weight token by token, for every part and their combinations."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from titanlab.memory_modules.parts.objective import objective_called
from titanlab.memory_modules.parts.retention import Decay, LqNorm, Retention, Softmax, UnitNorm
from titanlab.memory_modules.parts.structure import Mlp, Normed, Structure, SwiGlu
from titanlab.memory_modules.reference.learned_memory import learned_memory_by_token
from titanlab.memory_modules.rules.learned_memory import learned_memory, read_learned_memory
from titanlab.memory_modules.rules.learned_state import LearnedRule, Rates

B, T, H, D, M = 2, 11, 2, 4, 5

RETENTIONS: dict[str, Retention] = {
    "decay": Decay(),
    "lq": LqNorm(4.0),
    "softmax": Softmax(),
    "unit": UnitNorm(),
}


class Case(NamedTuple):
    """One choice of every part."""

    structure: str = "mlp"
    depth: int = 2
    activation: str = "gelu"
    residual: bool = False
    bias: bool = False
    normed: bool = False
    objective: str = "l2"
    retention: str = "decay"
    optimizer: str = "momentum"
    muon_step: str = "outside"
    gradient_at: str = "undecayed"
    window: int = 1
    control: str = "none"
    units: bool = False
    chunk_size: int = 4

    def __str__(self) -> str:
        return "-".join(f"{k}={v}" for k, v in self._asdict().items() if v != Case._field_defaults[k]) or "plain"


CASES = [
    Case(),
    *(Case(depth=depth, chunk_size=chunk) for depth in (1, 3) for chunk in (1, 3)),
    *(Case(activation=activation, residual=True) for activation in ("silu", "relu", "tanh")),
    *(Case(objective=objective, chunk_size=chunk) for objective in ("dot", "huber", "lp") for chunk in (1, 4)),
    *(Case(retention=retention, chunk_size=chunk) for retention in ("lq", "softmax", "unit") for chunk in (1, 4)),
    *(Case(optimizer="muon", chunk_size=chunk) for chunk in (1, 4)),
    *(Case(optimizer="muon", muon_step="inside", chunk_size=chunk) for chunk in (1, 4)),
    *(Case(optimizer="gradient", window=window, chunk_size=chunk) for window in (2, 6) for chunk in (1, 4)),
    *(Case(gradient_at="decayed", depth=depth, chunk_size=chunk) for depth in (1, 2) for chunk in (1, 4)),
    *(Case(control=control) for control in ("ascent", "keys_as_queries", "frozen", "initial_gradients", "last_matrix")),
    *(Case(units=True, depth=depth, optimizer=name) for depth in (1, 2) for name in ("momentum", "gradient", "muon")),
    Case(units=True, gradient_at="decayed"),
    Case(bias=True, normed=True, depth=1, optimizer="gradient"),
    Case(bias=True, normed=True),
    Case(bias=True, residual=True, depth=3),
    Case(structure="swiglu", objective="dot", retention="unit", optimizer="muon", muon_step="inside"),
    Case(structure="swiglu"),
    Case(structure="swiglu", control="last_matrix", units=True),
    Case(normed=True, objective="lp", retention="lq", optimizer="gradient"),
    Case(normed=True, objective="huber", window=3),
    Case(normed=True, retention="softmax", optimizer="gradient", chunk_size=3),
    Case(optimizer="muon", window=5, objective="huber", units=True),
    Case(control="initial_gradients", retention="softmax"),
    Case(control="last_matrix", retention="lq", optimizer="muon"),
    Case(control="ascent", optimizer="muon"),
]


class Inputs(NamedTuple):
    """Float64 inputs of a case; every tensor takes gradients."""

    q: Tensor
    k: Tensor
    v: Tensor
    rates: Rates
    weights: list[Tensor]
    norm: tuple[Tensor, Tensor]

    def tensors(self) -> list[Tensor]:
        def flat(x: Any) -> list[Tensor]:
            if x is None:
                return []
            return [x] if isinstance(x, Tensor) else [leaf for part in x for leaf in flat(part)]

        return flat([self.q, self.k, self.v, list(self.rates), self.weights, list(self.norm)])


def structure_of(case: Case, norm: tuple[Tensor, Tensor]) -> Structure:
    plain = SwiGlu() if case.structure == "swiglu" else Mlp(case.depth, case.activation, case.residual, case.bias)
    return Normed(plain, *norm) if case.normed else plain


def rule_of(case: Case, norm: tuple[Tensor, Tensor]) -> LearnedRule:
    return LearnedRule(
        structure_of(case, norm), objective_called(case.objective, 3.0), RETENTIONS[case.retention], case.optimizer,
        case.gradient_at, case.muon_step, case.window, case.control,
    )  # type: ignore[arg-type]  # fmt: skip


def inputs_of(case: Case, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int, low: float, high: float) -> Tensor:
        values = torch.rand(*shape, generator=generator, dtype=torch.float64) * (high - low) + low
        return values.requires_grad_()

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).requires_grad_()

    q, k = (F.normalize(normal(B, T, H, D), dim=-1).detach().requires_grad_() for _ in range(2))
    norm = (uniform(H, D, low=0.5, high=1.5), normal(H, D, scale=0.2))
    shapes = structure_of(case, norm).shapes(D, M, D)
    spread = 1.0 if case.retention == "softmax" else 0.5
    weights = [normal(H, *shape, scale=spread) for shape in shapes]

    def rate(low: float, high: float) -> Tensor | tuple[Tensor, ...]:
        if not case.units:
            return uniform(B, T, H, low=low, high=high)
        return tuple(uniform(B, T, H, out, low=low, high=high) for _, out in shapes)

    rates = Rates(
        step=rate(0.05, 0.3),
        keep=rate(0.8, 1.0),
        momentum=rate(0.1, 0.6) if case.optimizer != "gradient" else None,
        threshold=uniform(B, T, H, low=0.3, high=1.2) if case.objective == "huber" else None,
        share=uniform(B, T, H, low=0.2, high=1.0) if case.window > 1 else None,
    )
    return Inputs(q, k, normal(B, T, H, D, scale=0.7), rates, weights, norm)


def chunked(case: Case, given: Inputs) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    rule = rule_of(case, given.norm)
    y, state = learned_memory(*given[:5], rule, chunk_size=case.chunk_size)
    return y, list(state.stored), list(state.surprise)


def token_by_token(case: Case, given: Inputs) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    return learned_memory_by_token(
        given.q, given.k, given.v, keep=given.rates.keep, momentum=given.rates.momentum, step=given.rates.step,
        weights=given.weights, chunk_size=case.chunk_size, structure=case.structure, activation=case.activation,
        residual=case.residual, bias=case.bias, norm=given.norm if case.normed else None, objective=case.objective,
        p=3.0, threshold=given.rates.threshold, retention=case.retention, norm_order=4.0, optimizer=case.optimizer,
        muon_step=case.muon_step, share=given.rates.share, window=case.window, gradient_at=case.gradient_at,
        control=case.control,
    )  # fmt: skip


def cut(rate: Any, part: slice) -> Any:
    """The part of a rate, which may be None or a tuple."""
    if rate is None:
        return None
    return tuple(one[:, part] for one in rate) if isinstance(rate, tuple) else rate[:, part]


def largest(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_states_and_gradients_are_those_of_the_oracle(case: Case) -> None:
    given = inputs_of(case)
    y, stored, surprise = chunked(case, given)
    expected, stored_expected, surprise_expected = token_by_token(case, given)
    tolerance = 1e-8 if case.optimizer == "muon" else 1e-10
    assert largest([y], [expected]) < tolerance
    if case.retention == "softmax":  # A is log W up to a constant of every unit, which decays differently
        stored, stored_expected = ([a.log_softmax(-2) for a in memory] for memory in (stored, stored_expected))
    assert largest(stored, stored_expected) < tolerance
    if surprise:
        assert largest(surprise, surprise_expected) < tolerance
    weigh = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    tensors = given.tensors()
    ours = torch.autograd.grad((y * weigh).sum(), tensors, allow_unused=True, materialize_grads=True)
    theirs = torch.autograd.grad((expected * weigh).sum(), tensors, allow_unused=True, materialize_grads=True)
    scale = max(gradient.abs().max().item() for gradient in theirs)
    assert largest(list(ours), list(theirs)) < tolerance * max(1.0, scale)
    assert scale > 1e-3


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_sequence_cut_anywhere_gives_the_same_as_one_call(case: Case) -> None:
    given = inputs_of(case)
    rule = rule_of(case, given.norm)
    with torch.no_grad():
        whole, after = learned_memory(*given[:5], rule, chunk_size=case.chunk_size)
        state, pieces = None, []
        for part in (slice(0, 1), slice(1, 7), slice(7, 7), slice(7, T)):
            rates = Rates(*(cut(rate, part) for rate in given.rates))
            q, k, v = (x[:, part] for x in given[:3])
            y, state = learned_memory(q, k, v, rates, given.weights, rule, chunk_size=case.chunk_size, state=state)
            pieces.append(y)
    assert state is not None
    assert largest([torch.cat(pieces, 1)], [whole]) < 1e-10
    assert largest(list(state.stored), list(after.stored)) < 1e-10
    assert [x.shape for x in state.past] == [x.shape for x in after.past]


@pytest.mark.parametrize("case", [case for case in CASES if case.chunk_size > 1], ids=str)
def test_future_tokens_change_no_past_output_at_all(case: Case) -> None:
    given = inputs_of(case)
    rule = rule_of(case, given.norm)
    with torch.no_grad():
        before = learned_memory(*given[:5], rule, chunk_size=case.chunk_size)[0]
        edited = [x.clone() for x in given[:3]]
        for x in edited:
            x[:, 6:] += 1.0
        after = learned_memory(*edited, given.rates, given.weights, rule, chunk_size=case.chunk_size)[0]
    assert (before[:, :6] - after[:, :6]).abs().max().item() == 0.0
    if case.control != "keys_as_queries":
        assert (before[:, 6:] - after[:, 6:]).abs().max().item() > 1e-3


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reading_between_chunks_answers_as_the_chunks_last_token_did(case: Case) -> None:
    given = inputs_of(case)
    rule = rule_of(case, given.norm)
    whole = 2 * case.chunk_size
    part = slice(0, whole)
    rates = Rates(
        *(
            None if r is None else tuple(x[:, part] for x in r) if isinstance(r, tuple) else r[:, part]
            for r in given.rates
        )
    )
    with torch.no_grad():
        q = given.k if case.control == "keys_as_queries" else given.q
        k, v = given.k[:, part], given.v[:, part]
        y, state = learned_memory(q[:, part], k, v, rates, given.weights, rule, chunk_size=case.chunk_size)
        again = read_learned_memory(q[:, whole - 1 : whole], state, rule)
    assert largest([again], [y[:, -1:]]) < 1e-12
