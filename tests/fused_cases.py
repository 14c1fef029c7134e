"""Runs the kernels of platform/fused_kernels and what a memory reads on one device and prints their errors as JSON.

A process of its own, because Triton decides at import whether kernels are interpreted:
`python fused_cases.py cpu` under TRITON_INTERPRET=1, or `python fused_cases.py cuda`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple, TypeAlias
from unittest import mock

import torch
from torch import Tensor

from titanlab.architectures.attention.backend import Call, Causal, Prefix
from titanlab.architectures.attention.in_parts import CpuPart, FewKeysPart, FlashPart, attend_in_parts
from titanlab.architectures.attention.merging import Part, merged
from titanlab.architectures.attention.rotary import rotate, rotation
from titanlab.memory_modules.gates import _values
from titanlab.memory_modules.kernels.chunk_gates import chunk_gates
from titanlab.memory_modules.kernels.chunking import Piece, to_chunks
from titanlab.memory_modules.layer import _gated_output, _queries, _queries_keys_values
from titanlab.memory_modules.rules.deep_memory import DeepMemoryState, read_deep_memory
from titanlab.platform.architecture import ARCHITECTURES
from titanlab.platform.fused_kernels import few_keys
from titanlab.platform.fused_kernels.choice import kernels_take, plain_torch
from titanlab.platform.fused_kernels.turned_pieces import turned_keys_values, turned_pieces
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.model import swiglu
from titanlab.platform.norms import RMSNorm, gated_by, rms_norm
from titanlab.platform.training.losses import _chunked

Function: TypeAlias = Callable[..., Sequence[Tensor]]


class Sizes(NamedTuple):
    """Of one call."""

    batch: int
    time: int
    heads: int
    dim: int


class Case(NamedTuple):
    """A function, its arguments' shapes (those in `held` are float32 whatever the type), and the type."""

    what: str
    function: Function
    shapes: dict[str, tuple[int, ...]]
    dtype: str
    held: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return f"{self.what}, {self.dtype}, {list(self.shapes.values())}"


class OfFewKeys(torch.autograd.Function):
    """One softmax over some keys and over others of which the output and the sum are given."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, other: Tensor, other_sum: Tensor) -> tuple[Tensor, Tensor]:
        part = FewKeysPart().forward(q, k, v, q.shape[-1] ** -0.5, causal=False).part
        whole = Part(merged([part, Part(other, other_sum)]), torch.logaddexp(part.log_sum, other_sum))
        ctx.save_for_backward(q, k, v, other, other_sum, *whole)
        return whole

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, d_log_sum: Tensor) -> tuple[Tensor, ...]:
        q, k, v, other, other_sum, *whole = ctx.saved_tensors
        out, log_sum = whole
        programs = few_keys.PROGRAMS if q.is_cuda else 2  # so that one takes several blocks of few queries too
        with mock.patch.object(few_keys, "PROGRAMS", programs):
            part, scale = Part(out, log_sum), q.shape[-1] ** -0.5
            found = FewKeysPart().backward(d_out, q, k, v, part, (), scale, causal=False)
        weight = (other_sum - log_sum).exp()
        along = (d_out.float() * (other.float() - out.float())).sum(-1)
        return *found, (weight[..., None] * d_out).to(other.dtype), weight * along


def cases(sizes: Sizes, dtype: str) -> list[Case]:
    b, t, h, d = sizes
    wide, head, part = (b, t, h * d), (b, t, h, d), (b, h, t, d)
    lower = getattr(torch, dtype)

    def result(x: Tensor) -> torch.dtype:
        return torch.float64 if x.dtype == torch.float64 else lower

    def convolved(x: Tensor, before: Tensor, taps: Tensor) -> Sequence[Tensor]:
        return _queries_keys_values(x, before, taps, h, True)

    def values_as_they_are(x: Tensor, before: Tensor, taps: Tensor) -> Sequence[Tensor]:
        return _queries_keys_values(x, before, taps, h, False)

    def without_taps(x: Tensor) -> Sequence[Tensor]:
        return _queries_keys_values(x, x.new_zeros(b, 0, x.shape[-1]), None, h, True)[:3]

    def cut(x: Tensor, before: Tensor, taps: Tensor) -> Sequence[Tensor]:
        first = _queries_keys_values(x[:, :2], before, taps, h, True)
        second = _queries_keys_values(x[:, 2:], first[3], taps, h, True)
        return [*(torch.cat(pair, 1) for pair in zip(first[:3], second[:3], strict=True)), second[3]]

    def asked(x: Tensor, taps: Tensor) -> Sequence[Tensor]:
        return [_queries(x, taps[:, 0, -1], h)]

    def output(y: Tensor, gate: Tensor, weight: Tensor) -> Sequence[Tensor]:
        return [_gated_output(y.transpose(1, 2), gate[:, :, : h * d], weight, 1e-6, result(y))]

    def norm(x: Tensor, weight: Tensor) -> Sequence[Tensor]:
        return [rms_norm(x, weight, 1e-5, result(x))]

    def gated(y: Tensor, m: Tensor, weight: Tensor, x: Tensor) -> Sequence[Tensor]:
        layer = RMSNorm(h * d, eps=1e-5, device="meta")
        del layer.weight
        layer.weight = weight  # type: ignore[assignment]
        pieces = [tensor.split([1, t - 1], 1) for tensor in (y, m)]
        return [gated_by([y], [m], layer, added=x), gated_by([y], [m], layer), gated_by(*pieces, layer, added=x)]

    def halves(x: Tensor) -> Sequence[Tensor]:
        return [swiglu(x), swiglu(x[:, :, : h * d])]

    def turned(x: Tensor) -> Sequence[Tensor]:
        return [rotate(x.transpose(1, 2), torch.arange(5, 5 + t, device=x.device))]

    def pieces(qkv: Tensor) -> Sequence[Tensor]:
        places, sizes = torch.arange(t, device=qkv.device) % 16, [1, t - 1]
        if kernels_take(qkv):
            cut = turned_pieces(qkv, rotation(places, d, qkv.dtype), h, sizes)
            return [x for piece in cut for x in piece[:4]]  # values apart, which get no gradient then
        q, k, _ = (x.transpose(1, 2) for x in qkv.unflatten(-1, (3 * h, d)).split(h, 2))
        parts = [x.transpose(1, 2).split(sizes, 1) for x in (q, rotate(q, places), k, rotate(k, places))]
        return [x for piece in zip(*parts, strict=True) for x in piece]

    def values(qkv: Tensor) -> Sequence[Tensor]:
        places, sizes = torch.arange(t, device=qkv.device), [t - 1, 1]
        if kernels_take(qkv):
            return [x.values for x in turned_pieces(qkv, rotation(places, d, qkv.dtype), h, sizes)]
        return qkv.unflatten(-1, (3 * h, d))[:, :, 2 * h :].split(sizes, 1)

    def keys_values(kv: Tensor) -> Sequence[Tensor]:
        places = torch.arange(3, 3 + t, device=kv.device)
        if kernels_take(kv):
            return turned_keys_values(kv, rotation(places, d, kv.dtype), h)
        keys, values = kv.unflatten(-1, (2 * h, d)).split(h, 2)
        return [keys, rotate(keys.transpose(1, 2), places).transpose(1, 2), values]

    def put_together(*given: Tensor) -> Sequence[Tensor]:
        half = len(given) // 2
        return [merged([Part(*pair) for pair in zip(given[:half], given[half:], strict=True)])]

    def of_few_keys(q: Tensor, k: Tensor, v: Tensor, other: Tensor, other_sum: Tensor) -> Sequence[Tensor]:
        q, k = q[..., :d].transpose(1, 2), k.transpose(0, 1).expand(b, -1, -1, -1)
        if kernels_take(q):
            return OfFewKeys.apply(q, k, v, other, other_sum)
        scores = d**-0.5 * q @ k.mT
        log_sum = torch.logaddexp(scores.logsumexp(-1), other_sum)
        y = (scores - log_sum[..., None]).exp() @ v + (other_sum - log_sum).exp()[..., None] * other
        return y, log_sum.detach() + 0.0 * other_sum

    def prefixed(q: Tensor, k: Tensor, v: Tensor, queries: Tensor, keys: Tensor, values: Tensor) -> Sequence[Tensor]:
        if kernels_take(q):
            call = Call(q, k, v, Causal(), d**-0.5, Prefix(queries, keys, values))
            return [attend_in_parts(call, [FewKeysPart(), FlashPart() if q.is_cuda else CpuPart()])]
        hidden = torch.ones(t, t, dtype=torch.bool, device=q.device).triu(1)
        scores = torch.cat([queries @ keys.mT, (q @ k.mT).masked_fill(hidden, -torch.inf)], -1)
        return [(d**-0.5 * scores).softmax(-1) @ torch.cat([values, v], 2)]

    def read(q: Tensor, first: Tensor, second: Tensor) -> Sequence[Tensor]:
        state = DeepMemoryState((first, second), (), (first, second), torch.zeros(b))
        plain = read_deep_memory(q[:, :, :, :d], state)
        return [plain, read_deep_memory(q[..., :d], state, activation="silu", residual=True)]

    def nats(x: Tensor, weight: Tensor) -> Sequence[Tensor]:
        tokens = torch.arange(b * t, device=x.device)
        return [_chunked(x.flatten(0, 1), weight, 37 * tokens % len(weight), tokens % 3 > 0)]

    def two_gates(products: Tensor, bias: Tensor) -> Sequence[Tensor]:
        return [x.mT for x in _values(products[:, :, : 2 * h], bias, (1.0, 0.25), None)]

    def three_gates(products: Tensor, bias: Tensor) -> Sequence[Tensor]:
        return _values(products, bias, (1.0, 0.75, 0.125), (2, 1))

    def chunks_gates(keep: Tensor, momentum: Tensor, step: Tensor) -> Sequence[Tensor]:
        gates, found = [x.sigmoid().mT for x in (keep, momentum, step)], []
        for piece in (Piece(0, 4, 16), Piece(5, 3, 13)):
            rates = [to_chunks(x, piece) for x in gates]
            assert all(rate.data_ptr() == x[:, piece.start].data_ptr() for rate, x in zip(rates, gates, strict=True))
            if kernels_take(step):
                from titanlab.memory_modules.kernels.triton_chunk_gates import chunk_gates_on_gpu

                found += chunk_gates_on_gpu(*rates, torch.float32)
            else:
                found += chunk_gates(*rates)
        return found

    rates = ("keep", "momentum", "step")
    taps, three = (3 * h * d, 1, 4), (b, t, 3 * h * d)
    made: list[tuple[str, Function, dict[str, tuple[int, ...]], set[str]]] = [
        ("convolved", convolved, {"x": three, "before": (b, 3, 3 * h * d), "taps": taps}, {"before", "taps"}),
        ("values as they are", values_as_they_are, {"x": three, "before": (b, 3, 3 * h * d), "taps": taps}, {"taps"}),
        (
            "six taps",
            convolved,
            {"x": three, "before": (b, 5, 3 * h * d), "taps": (3 * h * d, 1, 6)},
            {"before", "taps"},
        ),
        ("no taps", without_taps, {"x": three}, set()),
        ("cut", cut, {"x": three, "before": (b, 3, 3 * h * d), "taps": taps}, {"before", "taps"}),
        ("asked", asked, {"x": wide, "taps": (h * d, 1, 4)}, {"taps"}),
        ("output", output, {"y": part, "gate": (b, t, h * d + 16), "weight": (d,)}, {"weight"}),
        ("norm", norm, {"x": wide, "weight": (h * d,)}, {"weight"}),
        ("norm of float32", norm, {"x": wide, "weight": (h * d,)}, {"x", "weight"}),
        ("gated", gated, {"y": wide, "m": wide, "weight": (h * d,), "x": wide}, {"x", "weight"}),
        ("halves", halves, {"x": (b, t, 2 * h * d + 2)}, set()),
        ("nats", nats, {"x": wide, "weight": (4100, h * d)}, set()),
        ("two token gates", two_gates, {"products": (b, t, 2 * h + 3), "bias": (2 * h,)}, {"bias"}),
        ("three token gates", three_gates, {"products": (b, t, 3 * h), "bias": (3 * h,)}, {"bias"}),
        ("gates of chunks", chunks_gates, dict.fromkeys(rates, (b, h, 64)), set(rates)),
        ("turned", turned, {"x": head}, set()),
        ("pieces", pieces, {"qkv": three}, set()),
        ("values of pieces", values, {"qkv": three}, set()),
        ("keys and values", keys_values, {"kv": (b, t, 2 * h * d)}, set()),
        ("two parts", put_together, {"a": part, "b": part, "l": part[:3], "m": part[:3]}, {"l", "m"}),
        (
            "three parts",
            put_together,
            {"a": part, "b": part, "c": part, "l": part[:3], "m": part[:3], "n": part[:3]},
            {"l", "m", "n"},
        ),
    ]
    for count in (5, 16, 64):
        given = {"q": (b, t, h, d + 8), "k": (count, h, d), "v": (b, h, count, d), "other": part, "other_sum": part[:3]}
        made.append(("few keys", of_few_keys, given, {"other_sum"}))
    if dtype != "float32" and d % 8 == 0:
        own = {name: part for name in ("q", "k", "v", "queries")}
        made.append(("prefixed", prefixed, {**own, "keys": (b, h, 6, d), "values": (b, h, 6, d)}, set()))
    if dtype != "float32" and d >= 16:
        matrices = {"first": (b, h, d, 2 * d + 8), "second": (b, h, 2 * d + 8, d)}
        made.append(("read", read, {"q": (b, t, h, d + 8), **matrices}, {"first", "second"}))
    return [Case(what, function, shapes, dtype, frozenset(held)) for what, function, shapes, held in made]


INTERPRETED = [
    *cases(Sizes(2, 70, 2, 16), "float32"),
    *cases(Sizes(1, 3, 1, 20), "float32"),
    *cases(Sizes(2, 37, 2, 20), "bfloat16"),
    *cases(Sizes(1, 130, 1, 16), "float16"),
    *(
        case
        for sizes in (Sizes(1, 201, 3, 12), Sizes(2, 1, 3, 12))  # programs along time: six of a row, and one token
        for case in cases(sizes, "float32")
        if case.what in ("convolved", "values as they are", "no taps", "asked")
    ),
]

ON_A_GPU = [
    case
    for dtype in ("bfloat16", "float32", "float16")
    for sizes in (Sizes(8, 1024, 16, 64), Sizes(2, 333, 3, 48), Sizes(1, 5, 2, 20), Sizes(2, 77, 4, 128))
    for case in cases(sizes, dtype)
]


def arguments(case: Case, device: str) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    made = {name: torch.randn(shape, generator=random) for name, shape in case.shapes.items()}
    if case.what == "nats":  # logits as a model's
        made["weight"] /= made["weight"].shape[1] ** 0.5
    for name in ("first", "second"):  # as long as a memory's
        if name in made:
            made[name] /= made[name].shape[2] ** 0.5
    types = {name: torch.float32 if name in case.held else getattr(torch, case.dtype) for name in made}
    return {name: x.to(device, types[name]) for name, x in made.items()}


def outputs_and_gradients(case: Case, given: dict[str, Tensor]) -> dict[str, Tensor]:
    leaves = {name: x.detach().clone().requires_grad_() for name, x in given.items()}
    results = case.function(*leaves.values())
    random = torch.Generator().manual_seed(1)
    incoming = [torch.randn(x.shape, generator=random).to(getattr(torch, case.dtype)) for x in results]
    weights = [w.to(x.device, x.dtype) for w, x in zip(incoming, results, strict=True)]
    gradients = torch.autograd.grad(results, list(leaves.values()), weights)
    found = {f"result {number}": x for number, x in enumerate(results)}
    return found | {f"d {name}": x for name, x in zip(leaves, gradients, strict=True)}


def errors(case: Case, device: str) -> dict[str, float]:
    """||ours - float64|| / ||float64|| of everything."""
    given = arguments(case, device)
    assert kernels_take(*given.values())
    exact = outputs_and_gradients(case, {name: x.double() for name, x in given.items()})
    ours = outputs_and_gradients(case, given)
    assert all(ours[f"d {name}"].dtype == x.dtype for name, x in given.items())
    return {name: ((ours[name].double() - x).norm() / x.norm().clamp_min(1e-30)).item() for name, x in exact.items()}


def errors_of_a_block(architecture: str, device: str) -> dict[str, float]:
    """How many times as far from float64 as torch's own operations a whole block is, float32, over a row in two calls.

    Both are far off where a gradient is a small sum of large numbers, as of a gate's weights.
    """
    torch.manual_seed(0)
    settings = {"heads": 2, "segment": 32} if architecture == "mac" else {}
    memory = MEMORY_MODULES.resolve({"type": "titans", "heads": 2, "chunk_size": 16, "backend": "torch"})
    block = ARCHITECTURES.resolve({"type": architecture, **settings}).build(32, memory).to(device)
    for module in block.modules():
        if isinstance(module, RMSNorm):
            module.eps = module.epsilon  # its own would be another in float64
    row, found = torch.randn(2, 75, 32, device=device), []
    ways = ((nullcontext(), torch.float32), (plain_torch(), torch.float32), (plain_torch(), torch.float64))
    for context, dtype in ways:
        x, block = row.to(dtype).requires_grad_(), block.to(dtype)
        with context:
            first, state = block(x[:, :41], block.initial_state(2))
            second, _ = block(x[:, 41:], state)
        y, named = torch.cat([first, second], 1), dict(block.named_parameters())
        gradients = torch.autograd.grad(y.square().sum(), [x, *named.values()])
        found.append({"y": y.detach()} | {f"d {n}": g for n, g in zip(["x", *named], gradients, strict=True)})
    ours, torchs, exact = found

    def error(of: dict[str, Tensor], name: str) -> float:
        return ((of[name] - exact[name]).norm() / exact[name].norm().clamp_min(1e-30)).item()

    return {name: error(ours, name) / (error(torchs, name) + 1e-6) for name in exact}


def differences_of_bad_numbers(device: str) -> dict[str, float]:
    """1 where NaN or an unknown id is taken for something else: a run has to learn of either."""
    from titanlab.memory_modules.kernels.triton_token_gates import token_gates_on_gpu
    from titanlab.platform.fused_kernels.nats_of_rows import nats_of_rows

    products, bias = torch.zeros(1, 3, 4, device=device), torch.zeros(4, device=device)
    products[0, 1, 2], products[0, 2, 0] = float("nan"), -200.0
    gates = torch.stack(token_gates_on_gpu(products.requires_grad_(), bias, (1.0, 1.0), None))
    (d_products,) = torch.autograd.grad(gates.sum(), products)
    targets, mask = torch.tensor([1, 7, -100, -100], device=device), torch.tensor([1.0, 1.0, 1.0, 0.0], device=device)
    nats = nats_of_rows(torch.zeros(4, 5, device=device), targets, mask, gradient=False)
    found = {
        "gates": gates.isnan().nonzero().tolist() == [[1, 0, 1, 0]],
        "d products": d_products.isnan().nonzero().tolist() == [[0, 1, 2]],
        "nats": nats.isnan().tolist() == [False, True, True, False],
    }
    return {name: float(not right) for name, right in found.items()}


def main(device: str, number: int = 0, processes: int = 1) -> None:
    """What falls to a process of several."""
    for case in (INTERPRETED if device == "cpu" else ON_A_GPU)[number::processes]:
        print(json.dumps({"name": case.name, "errors": errors(case, device)}), flush=True)
    others = {
        "bad numbers": partial(differences_of_bad_numbers, device),
        **{architecture: partial(errors_of_a_block, architecture, device) for architecture in ("mac", "mag")},
    }
    for name in list(others)[number::processes]:
        print(json.dumps({"name": name, "errors": others[name]()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
