"""Operations a token of memories learned by gradient descent, from their settings and form.

Of a chunk of c tokens and a head: r = c + window - 1 tokens have a gradient, the state has p parts (2 with momentum),
and a matrix has `in` x `out` weights.

    gradients   2 r in out forward, and 2 r in out back through every matrix that follows another one
    writes      2 p r in out                          Muon: and Newton-Schulz, 5 (4 s^2 l + 2 s^3), s and l the smaller
    queries     2 p c in out + 2 c r (in + out)       and the larger side; queries 2 c in out alone, 2 in out at the end
    gates       2 c^3 + 2 c^2 a matrix with momentum; windows 2 c^2 r + 2 c r p

What `deep_memory` computes has a formula of its own, see `dual_form_flops`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from titanlab.memory_modules.gates import GateMode, gate_flops
from titanlab.memory_modules.kernels.chunk_gates import chunk_gates_flops
from titanlab.memory_modules.kernels.dual_form import dual_form_flops
from titanlab.memory_modules.parts.structure import Mlp
from titanlab.memory_modules.polynomial_features import polynomial_width

if TYPE_CHECKING:
    from titanlab.memory_modules.gradient_form import Form
    from titanlab.memory_modules.gradient_memory import GradientMemoryConfig


def gradient_memory_flops(config: GradientMemoryConfig, form: Form, dim: int) -> float:
    """Of `forward`: layer, gates, and the rule of every head."""
    matrices = _matrices(config, form, dim)
    if form.is_plain(config):
        widths = [matrices[0][0], *(out for _, out in matrices)]
        rule = dual_form_flops(widths, config.chunk_size, momentum=_has_momentum(config))
    else:
        rule = _learned_flops(config, form, matrices) / config.chunk_size
    units = sum(out for _, out in matrices)
    return config.layer_flops(dim) + config.heads * rule + _gates_flops(config, form, dim, units)


def gradient_memory_read_flops(config: GradientMemoryConfig, form: Form, dim: int) -> float:
    """Of `read`: layer, and a query's product with every matrix."""
    return config.layer_read_flops(dim) + config.heads * sum(2 * a * b for a, b in _matrices(config, form, dim))


def _matrices(config: GradientMemoryConfig, form: Form, dim: int) -> list[tuple[int, int]]:
    """in and out of each."""
    d = dim // config.heads
    return form.structure.shapes(polynomial_width(d, form.degree) if form.degree > 1 else d, form.hidden, d)


def _has_momentum(config: GradientMemoryConfig) -> bool:
    return config.momentum != "none" and config.optimizer != "gradient" and config.control != "frozen"


def _learned_flops(config: GradientMemoryConfig, form: Form, matrices: list[tuple[int, int]]) -> float:
    """Of a chunk and a head."""
    c, total = config.chunk_size, 0.0
    r, last = c + form.window - 1, form.structure.last
    for layer, (a, b) in enumerate(matrices):
        learns = config.control != "frozen" and (config.control != "last_matrix" or layer == last)
        follows = layer > 0 if isinstance(form.structure, Mlp) else layer == last
        if config.control != "frozen":
            total += 2 * r * a * b * (2 if follows else 1)
        total += _written_and_read(config, form, a, b, r) if learns else 2 * c * a * b
    return total


def _written_and_read(config: GradientMemoryConfig, form: Form, a: int, b: int, r: int) -> float:
    """Of a matrix of a x b that learns."""
    c, muon, momentum = config.chunk_size, config.optimizer == "muon", _has_momentum(config)
    p = 2 if momentum and not muon else 1
    gates_of = b if config.gates == "channel" else 1  # gates of every unit, or one for all
    total = 2.0 * p * r * a * b
    if p == 2:
        total += gates_of * c * chunk_gates_flops(c)
    if form.window > 1:
        total += gates_of * (2 * c * c * r + 2 * c * r * p)
    if muon:
        small, large = sorted((a, b))
        total += 5 * (4 * small**2 * large + 2 * small**3)
    if muon or form.retention.held:
        total += 2 * c * a * b
    else:
        total += 2 * p * c * a * b + 2 * c * r * (a + b)
    moves_at_end = muon or not form.retention.linear
    return total + (2 * a * b if moves_at_end else 0)


def _gates_flops(config: GradientMemoryConfig, form: Form, dim: int, units: int) -> float:
    """Of a token: keep, momentum and step, Huber's threshold, a token's share in windows."""
    if config.control == "frozen":
        return 0.0
    momentum: GateMode = config.momentum if _has_momentum(config) else "none"
    modes = (config.keep, momentum, config.step)
    if config.gates == "head":
        rates = gate_flops(dim, config.heads, *modes)
    else:
        looking = sum(mode in ("token", "chunk") for mode in modes)
        rates = 2 * config.gate_rank * (dim + config.heads * units) * looking
    others: list[GateMode] = ["token"] * ((config.objective == "huber") + (form.window > 1))
    return rates + gate_flops(dim, config.heads, *others)
