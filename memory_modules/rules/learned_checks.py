"""What `learned_memory` asks of its arguments; each error names the argument, its shape and what was expected."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from titanlab.memory_modules.parts.objective import Huber
from titanlab.memory_modules.rules.checks import check_position, check_sequence, shape_of
from titanlab.memory_modules.rules.learned_state import LearnedRule, LearnedState, Rate, Rates
from titanlab.platform.debugging import refuse_nonfinite
from titanlab.platform.tensors import at_least_float32


def check_learned_memory(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rates: Rates,
    weights: Sequence[Tensor],
    rule: LearnedRule,
    chunk_size: int,
    state: LearnedState | None,
) -> None:
    """Refuses arguments that do not fit each other.

    Raises:
        ValueError: naming the argument.
    """
    heads = {name: rate for name, rate in rates._asdict().items() if isinstance(rate, Tensor)}
    check_sequence(q, k, v, heads, chunk_size)
    _check_rule(rule, rates)
    _check_weights(q, v, weights, rule)
    for name in ("step", "keep", "momentum"):
        rate = getattr(rates, name)
        if isinstance(rate, tuple):
            _check_units(name, rate, q, weights)
    if state is not None:
        _check_state(q, v, weights, rates, rule, chunk_size, state)
    refuse_nonfinite({"rates": rates, "weights": weights, "state": state})


def _check_rule(rule: LearnedRule, rates: Rates) -> None:
    if rule.window < 1:
        raise ValueError(f"rule.window: is {rule.window}; expected at least 1")
    if rule.gradient_at == "decayed" and rule.window > 1:
        raise ValueError(f"rule.window: is {rule.window}; expected 1, as gradients are taken at the decayed memory")
    if isinstance(rule.objective, Huber) and rates.threshold is None and rule.control != "frozen":
        raise ValueError("rates.threshold: is None; expected [b, t, h], as the objective is Huber's")
    if rule.optimizer == "gradient" and rates.momentum is not None:
        raise ValueError("rates.momentum: is given; expected None, as the optimizer is `gradient`")


def _check_weights(q: Tensor, v: Tensor, weights: Sequence[Tensor], rule: LearnedRule) -> None:
    if len(weights) != rule.structure.matrices:
        raise ValueError(f"weights: has {len(weights)} matrices; expected {rule.structure.matrices}, as the structure")
    hidden = weights[0].shape[-1]
    shapes = rule.structure.shapes(q.shape[3], hidden, v.shape[3])
    for index, (matrix, shape) in enumerate(zip(weights, shapes, strict=True)):
        if tuple(matrix.shape) != (q.shape[2], *shape):
            raise ValueError(
                f"weights[{index}]: has shape {shape_of(matrix)}; expected {[q.shape[2], *shape]} (h, in, out)"
            )


def _check_units(name: str, rate: Rate, q: Tensor, weights: Sequence[Tensor]) -> None:
    if len(rate) != len(weights):
        raise ValueError(f"{name}: has {len(rate)} tensors; expected {len(weights)}, one a matrix")
    for index, (gate, matrix) in enumerate(zip(rate, weights, strict=True)):
        expected = [*q.shape[:3], matrix.shape[-1]]
        if list(gate.shape) not in (expected, [*q.shape[:3], 1]) or not gate.is_floating_point():
            raise ValueError(
                f"{name}[{index}]: has shape {shape_of(gate)} and type {gate.dtype}; expected floating {expected} "
                "(b, t, h, out) or 1 as the last"
            )


def _check_state(
    q: Tensor, v: Tensor, weights: Sequence[Tensor], rates: Rates, rule: LearnedRule, chunk_size: int,
    state: LearnedState,
) -> None:  # fmt: skip
    b, h, dtype = q.shape[0], q.shape[2], at_least_float32(q.dtype)
    collects = rates.momentum is not None or rule.optimizer == "muon"
    families = {
        "stored": state.stored,
        "reference": state.reference,
        **({"surprise": state.surprise} if collects else {}),
    }
    if not collects and state.surprise:
        raise ValueError("state.surprise: the state has momentum but the argument momentum is None")
    for name, matrices in families.items():
        if len(matrices) != len(weights):
            raise ValueError(f"state.{name}: has {len(matrices)} matrices; expected {len(weights)}, as in weights")
        for index, (matrix, like) in enumerate(zip(matrices, weights, strict=True)):
            if tuple(matrix.shape) != (b, *like.shape) or matrix.dtype != dtype:
                raise ValueError(
                    f"state.{name}[{index}]: has shape {shape_of(matrix)} and type {matrix.dtype}; expected "
                    f"{[b, *like.shape]} (b, h, in, out) and {dtype}"
                )
    widths = (q.shape[3], v.shape[3])
    for name, x, width in zip(("keys", "values"), state.past[:2], widths, strict=True):
        if tuple(x.shape) != (b, h, rule.window - 1, width):
            raise ValueError(
                f"state.past.{name}: has shape {shape_of(x)}; expected {[b, h, rule.window - 1, width]} "
                "(b, h, window - 1, width)"
            )
    check_position(state.position, b, chunk_size)
