"""Numbers that kernels must not lose: NaN, which has to be seen, and values so small that a sum rounds them away.

Run under TRITON_INTERPRET=1; prints a line of JSON a case: its name, what kernels gave and what torch did.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from titanlab.memory_modules.functional import deep_memory, linear_attention, rwkv7
from titanlab.platform.fused_kernels.projected_heads import projected_heads

TOKENS = (1, 10, 1)
NAN = float("nan")


def rows(*sizes: int) -> list[Tensor]:
    """Of unit length, one for each size."""
    random = torch.Generator().manual_seed(0)
    return [torch.nn.functional.normalize(torch.randn(*TOKENS, size, generator=random), dim=-1) for size in sizes]


def shown(backend: str, *, rule: str) -> list[bool]:
    """Whether a token's NaN decay is seen in all of the outputs from it on, all of the state, and in the gradients."""
    q, k, v, a = (x.requires_grad_() for x in rows(16, 16, 16, 16))
    decay = torch.full((*TOKENS, 16), -0.1)
    decay[:, 4] = NAN
    decay.requires_grad_()
    given = {"chunk_size": 16, "backend": backend}
    if rule == "rwkv7":
        y, state = rwkv7(q, decay, k, v, -a, 0.5 * a, **given)
    else:
        y, state = linear_attention(q, k, v, decay, **given)
    gradients = torch.autograd.grad(y.sum() + state.sum(), [decay, k])
    everywhere = [not bool(x.isfinite().any()) for x in (y[:, 4:], state)]
    return everywhere + [not bool(x.isfinite().all()) for x in gradients]


def deep(
    backend: str, *, activation: str, dtype: torch.dtype, hidden: tuple[int, ...], scale: float, q_3: float
) -> tuple[Tensor, Tensor]:
    """Output and last memory of a memory whose matrices are multiplied by `scale`, and whose fourth query is q_3."""
    q, k, v = rows(16, 16, 16)
    if q_3:
        q[:, 3] = q_3
    random = torch.Generator().manual_seed(1)
    widths = (16, *hidden, 16)
    matrices = [scale * torch.randn(1, *size, generator=random) / 4 for size in zip(widths, widths[1:], strict=False)]
    gate = torch.full(TOKENS, 0.98)
    given = [x.to(dtype) for x in (q, k, v)]
    if backend == "torch":
        given, matrices, gate = [x.double() for x in given], [x.double() for x in matrices], gate.double()
    y, state = deep_memory(
        *given, gate, 0.1 * gate, gate / 64, matrices, chunk_size=8, activation=activation, backend=backend
    )
    return y, state.weights[-1]


def unseen(backend: str, **settings: Any) -> int:
    """How many numbers of the output are not finite."""
    y, _ = deep(backend, q_3=NAN, scale=1.0, **settings)
    return int((~y.isfinite()).sum())


def away(**settings: Any) -> float:
    """||kernels - float64|| / ||float64||, the worse of output and memory."""
    pairs = zip(deep("triton", q_3=0.0, **settings), deep("torch", q_3=0.0, **settings), strict=True)
    return max(float((ours.double() - exact).norm() / exact.norm()) for ours, exact in pairs)


def tell(name: str, found: Callable[[str], Any]) -> None:
    print(json.dumps({"name": name, "found": found("triton"), "expected": found("torch")}), flush=True)


def main() -> None:
    for rule in ("linear", "rwkv7"):
        tell(f"{rule}: NaN decay", lambda backend, rule=rule: shown(backend, rule=rule))
    for dtype in (torch.float32, torch.bfloat16):
        for activation in ("relu", "gelu"):
            settings = {"activation": activation, "dtype": dtype, "hidden": (32,)}
            name = f"{activation}, {dtype}: NaN query"
            tell(name, lambda backend, settings=settings: unseen(backend, **settings))
    for dtype, hidden, scale, bound in (
        (torch.float32, (32,), 1e-3, 1e-4), (torch.float32, (32, 24), 1e-3, 1e-4), (torch.bfloat16, (32,), 1e-3, 2e-2)
    ):  # fmt: skip
        error = away(activation="tanh", dtype=dtype, hidden=hidden, scale=scale)
        name = f"tanh, {dtype}, {len(hidden) + 1} matrices, small"
        print(json.dumps({"name": name, "found": error < bound or error, "expected": True}))
    x = torch.ones(1, 3, 16)
    x[0, 1, 5] = NAN
    (heads,) = projected_heads(x, None, None, 2, [True])
    seen = heads.isnan().flatten(2).sum(-1)[0].tolist()
    print(json.dumps({"name": "a norm: NaN", "found": seen, "expected": [0, 8, 0]}))


if __name__ == "__main__":
    main()
