"""Checks of what a training run does to a module: save it, move it, narrow it, feed it for long."""

from __future__ import annotations

import io

import torch

from titanlab.platform.shapes import shapes_only
from titanlab.platform.testing.report import Unmet, check
from titanlab.platform.testing.subject import Subject, deviation, initial_state, leaves, run, tokens

LONG = 2048
"""Tokens of a long input."""
FASTEST_GROWTH = 16.0
"""By how much a state may grow when the input doubles: 2 is a sum, 4 a sum with momentum, more is exponential."""


@check(
    "saved and loaded",
    expected="a module with another seed gives the same outputs to the last bit once it has loaded the state_dict",
    cause="a tensor kept as a plain attribute; make it a Parameter or register_buffer it",
)
@torch.no_grad()
def saved_and_loaded(subject: Subject) -> str:
    saved, loaded, x = subject.module(), subject.module(seed=1), tokens(2, subject.time)
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    change = float((run(loaded, x) - run(saved, x)).abs().max())
    if change != 0.0:
        raise Unmet(f"outputs differ by {change:.2g} after loading")
    return ""


@check(
    "device moves",
    expected="builds without storage (what `sweep plan` does) with the same shapes; on a GPU, outputs as on the CPU",
    cause="a tensor created without `device=`, or numbers looked at while building (`.item()`, `if tensor`)",
)
@torch.no_grad()
def device_moves(subject: Subject) -> str:
    module, x = subject.module(), tokens(2, subject.time)
    with shapes_only():
        meta = subject.build(subject.config, x.shape[-1])
        initial_state(meta, 1)
    shapes, expected = ({name: list(p.shape) for name, p in m.named_parameters()} for m in (meta, module))
    if shapes != expected:
        raise Unmet(f"without storage the parameters are {shapes}; with it {expected}")
    strays = [name for name, parameter in meta.named_parameters() if not parameter.is_meta]
    if strays:
        raise Unmet(f"built within torch.device('meta'), {', '.join(strays)} is on another device")
    if not torch.cuda.is_available():
        return "meta; no GPU here"
    off = deviation(run(module, x), run(subject.module().cuda(), x.cuda()).cpu())
    if not off <= 1e-8:
        raise Unmet(f"outputs on the GPU differ from the CPU's by {off:.2g} of the largest, in float64")
    return "meta and cuda"


@check(
    "type moves",
    expected="float32 follows float64 to 1 %; in bfloat16, and under autocast with gradients, all stays finite",
    cause="a tensor of a fixed type in forward, an exponential or a product of decays in half precision, or an epsilon "
    "that half precision rounds to 0",
)
def type_moves(subject: Subject) -> str:
    x = tokens(2, subject.time)
    with torch.no_grad():
        off = deviation(run(subject.module(), x), run(subject.module().float(), x.float()).double())
        if not off <= 0.01:
            raise Unmet(f"float32 differs from float64 by {off:.2g} of the largest output")
        _expect_finite(run(subject.module().bfloat16(), x.bfloat16()), "bfloat16", torch.bfloat16)
    module = subject.module().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = run(module, x.float())
    _expect_finite(y, "autocast")
    y.float().square().mean().backward()
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            _expect_finite(parameter.grad, f"autocast, the gradient of {name}")
    return f"float32 within {off:.1g}"


def _expect_finite(y: torch.Tensor, where: str, dtype: torch.dtype | None = None) -> None:
    if dtype is not None and y.dtype != dtype:
        raise Unmet(f"{where}: the output is {y.dtype}")
    if not y.isfinite().all():
        raise Unmet(f"{where}: NaN or infinity in {int((~y.isfinite()).sum())} of {y.numel()} values")


@check(
    "long input stays finite",
    expected=f"{LONG} times the same token leave outputs and state finite, the state growing no faster than a power",
    cause="steps along one key that add up to more than 2 before the memory answers to them, a decay above 1, or a "
    "product of decays divided by itself",
)
@torch.no_grad()
def long_input_stays_finite(subject: Subject) -> str:
    module = subject.fresh(subject.declared).eval()
    x = tokens(1, 1, dtype=torch.float32).expand(1, LONG // 2, -1)
    state, sizes, seen = initial_state(module, 1), [], 0
    before = sum(leaf.numel() for leaf in leaves(state))
    for _ in range(2):
        y, state = module(x, state)
        seen += x.shape[1]
        _expect_finite(y, f"outputs within the first {seen} tokens")
        sizes.append(_largest(state, seen))
    growth = sizes[1] / max(sizes[0], 1.0)
    if growth > FASTEST_GROWTH:
        raise Unmet(f"the state's largest value grew from {sizes[0]:.2g} to {sizes[1]:.2g} as the input doubled")
    after = sum(leaf.numel() for leaf in leaves(state))
    return f"state up to {sizes[1]:.2g}" + (f", {before:,} numbers grown to {after:,}" if after > before else "")


def _largest(state: object, seen: int) -> float:
    floating = [leaf for leaf in leaves(state) if leaf.is_floating_point() and leaf.numel()]
    for leaf in floating:
        _expect_finite(leaf, f"the state after {seen} tokens")
    return max((float(leaf.abs().max()) for leaf in floating), default=0.0)
