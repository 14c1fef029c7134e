"""flash-attn and FlexAttention: equal to torch's attention in every pattern, alone and in every architecture.

On a CPU flash-attn's functions are stood in for by float64 forms with their signatures, and FlexAttention runs
uncompiled; test_attention_on_gpu compares the kernels themselves.
"""

import math
import sys
from collections.abc import Iterator
from functools import lru_cache
from threading import Thread
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend
from torch.nn.attention import flex_attention as torch_flex

from titanlab.architectures.attention import flash, flex, in_parts, sdpa
from titanlab.architectures.attention.backend import (
    Call,
    CallInStreams,
    Causal,
    Pattern,
    Prefix,
    SlidingWindow,
    Stream,
)
from titanlab.architectures.attention.flash import FlashBackend
from titanlab.architectures.attention.flash_kernels import kernel_for
from titanlab.architectures.attention.flex import FlexBackend, block_mask
from titanlab.architectures.attention.in_parts import CpuPart, CudnnPart, FewKeysPart, FlashPart, Rows
from titanlab.architectures.attention.merging import Part
from titanlab.architectures.attention.sdpa import SdpaBackend
from titanlab.architectures.attention.selection import BACKENDS
from titanlab.architectures.attention.without_cudnn import without_cudnn
from titanlab.platform.model import Model, build_model
from titanlab.platform.recording import for_replay

ATTENDING = ("mac", "mag", "mal", "sliding_window", "transformer")
CALLS = [
    (pattern, prefix, time, past)
    for pattern in (Causal(), Causal(2), SlidingWindow(1), SlidingWindow(5))
    for prefix in (0, 3)
    for time, past in ((1, 0), (1, 4), (13, 0), (13, 4))
]


def call_for(pattern: Pattern, prefix: int, time: int, past: int) -> tuple[Call, list[Tensor]]:
    """Random inputs, and these as leaves that want gradients."""
    keys = (past + time) * pattern.keys_per_token
    sizes = [time, keys, keys, *([time, prefix, prefix] if prefix else [])]
    make = torch.Generator().manual_seed(0)
    leaves = [torch.randn(2, 3, size, 8, generator=make, dtype=torch.float64).requires_grad_() for size in sizes]
    return Call(*leaves[:3], pattern, 0.3, Prefix(*leaves[3:]) if prefix else None), leaves


def outputs(backend: Any, call: Call, leaves: list[Tensor]) -> list[Tensor]:
    """What a backend answers, and its gradients."""
    y = backend.attend(call)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return [y.detach(), *torch.autograd.grad(y, leaves, upstream)]


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, left: int, right: int) -> tuple[Tensor, Tensor]:
    """What flash-attn promises, for [b, t, h, d]: the last query stands at the last key; -1 sets no limit."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    distance = torch.arange(k.shape[2]) - torch.arange(k.shape[2] - q.shape[2], k.shape[2])[:, None]
    hidden = torch.zeros_like(distance, dtype=torch.bool)
    hidden |= (distance > 0) & causal
    hidden |= (distance < -left) & (left >= 0)
    hidden |= (distance > right) & (right >= 0)
    scores = (q @ k.mT * scale).masked_fill(hidden, -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2), scores.logsumexp(-1)


def flash_attn_4_func(
    q, k, v, qv=None, gather_kv_indices=None, softmax_scale=None, causal=False, window_size=(None, None),
    learnable_sink=None, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False, score_mod=None,
    score_mod_bwd=None, mask_mod=None, aux_tensors=None, aux_scalars=None, block_sparse_tensors=None,
    block_sparse_tensors_bwd=None, return_lse=False,
):  # fmt: skip
    """flash-attn 4.0.0b36: the log-sum-exp has a gradient if it was asked for."""
    left, right = (-1 if side is None else side for side in window_size)
    out, log_sum = attend(q, k, v, softmax_scale, causal, left, right)
    return out, log_sum if return_lse else None


def flash_attn_4_bwd(q, k, v, out, dout, lse, softmax_scale=None, causal=False, *, deterministic=False):
    """Its backward kernel, which takes the output and log-sum-exp of more keys than these as well."""
    q, k, v, out, d_out = (x.transpose(1, 2) for x in (q, k, v, out, dout))
    weights = (q @ k.mT * softmax_scale - lse[..., None]).exp()
    weights = weights.tril(k.shape[2] - q.shape[2]) if causal else weights
    d_scores = weights * (d_out @ v.mT - (d_out * out).sum(-1, keepdim=True)) * softmax_scale
    return tuple(x.transpose(1, 2) for x in (d_scores @ k, d_scores.mT @ q, weights.mT @ d_out))


def another_bwd(q, k, v, dout, out, lse, softmax_scale=None, causal=False, *, deterministic=False):
    """As another version might have it."""
    raise AssertionError("it was called all the same")


def flash_attn_2_func(
    q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None,
    deterministic=False, return_attn_probs=False,
):  # fmt: skip
    """flash-attn 2.8: the log-sum-exp has no gradient."""
    out, log_sum = attend(q, k, v, softmax_scale, causal, *window_size)
    return (out, log_sum.detach(), None) if return_attn_probs else out


def module(name: str, **content: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(content)
    return made


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Installs flash-attn's two generations, or what stands for them; none is there before."""

    def installs(**packages: Any) -> None:
        kernel_for.cache_clear()
        for name in ("flash_attn", "flash_attn.cute"):
            monkeypatch.setitem(sys.modules, name, packages.get(name.replace(".", "_")))

    monkeypatch.setattr(flash, "capability", lambda device: (9, 0))
    installs()
    yield installs
    kernel_for.cache_clear()


GENERATIONS = {
    4: {"flash_attn_cute": module("flash_attn.cute", flash_attn_func=flash_attn_4_func)},
    2: {"flash_attn": module("flash_attn", flash_attn_func=flash_attn_2_func)},
}


@pytest.mark.parametrize("back", [True, False], ids=["with its backward kernel", "without"])
@pytest.mark.parametrize(("pattern", "prefix", "time", "past"), CALLS, ids=str)
def test_flash_attn_4_with_its_merging_is_exact(install, monkeypatch, pattern, prefix, time, past, back) -> None:
    install(**GENERATIONS[4])
    if back:
        monkeypatch.setattr(sys.modules[__name__], "_flash_attn_bwd", flash_attn_4_bwd, raising=False)
    kernel = kernel_for((9, 0))
    assert not isinstance(kernel, str) and (kernel.back is not None) is back
    call, leaves = call_for(pattern, prefix, time, past)
    for actual, expected in zip(
        outputs(FlashBackend(), call, leaves), outputs(SdpaBackend(), call, leaves), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_a_backward_kernel_with_other_arguments_is_left_alone(install, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "_flash_attn_bwd", another_bwd, raising=False)
    install(**GENERATIONS[4])
    kernel = kernel_for((9, 0))
    assert not isinstance(kernel, str) and kernel.back is None
    call, leaves = call_for(Causal(2), 4, 12, 0)
    for actual, expected in zip(
        outputs(FlashBackend(), call, leaves), outputs(SdpaBackend(), call, leaves), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("pattern", "prefix", "time", "past"), CALLS, ids=str)
def test_flash_attn_2_is_exact_and_trains_where_one_kernel_does_it_all(install, pattern, prefix, time, past) -> None:
    install(**GENERATIONS[2])
    call, leaves = call_for(pattern, prefix, time, past)
    torch.testing.assert_close(FlashBackend().attend(call), SdpaBackend().attend(call), rtol=0, atol=1e-12)
    if call.is_one_kernel:
        for actual, expected in zip(
            outputs(FlashBackend(), call, leaves), outputs(SdpaBackend(), call, leaves), strict=True
        ):
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention as torch runs it without a compiler, and with gradients, which it refuses on a CPU."""
    monkeypatch.setattr(flex, "compiled", lambda: torch_flex.flex_attention)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


@pytest.mark.parametrize(("pattern", "prefix", "time", "past"), CALLS, ids=str)
def test_flex_attention_is_exact(uncompiled, pattern, prefix, time, past) -> None:
    call, leaves = call_for(pattern, prefix, time, past)
    for actual, expected in zip(
        outputs(FlexBackend(), call, leaves), outputs(SdpaBackend(), call, leaves), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("uncompiled")
def test_masks_that_a_recorded_graph_reads_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[torch_flex.BlockMask] = []

    def note(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: torch_flex.BlockMask) -> Part:
        used.append(mask)
        return Part(q, q[..., 0])

    monkeypatch.setattr(flex, "_RECORDED", {})
    monkeypatch.setattr(flex, "block_mask", lru_cache(maxsize=4)(block_mask.__wrapped__))
    monkeypatch.setattr(flex, "_attend", note)
    with for_replay():
        FlexBackend().attend(call_for(Causal(), 0, 2, 5)[0])
    for past in range(6, 16):  # as decoding with a growing cache asks for
        FlexBackend().attend(call_for(Causal(), 0, 2, past)[0])
    for past in (5, 6):
        FlexBackend().attend(call_for(Causal(), 0, 2, past)[0])
    recorded, unrecorded, *_ = used
    assert used[-2] is recorded and used[-1] is not unrecorded
    assert len(flex._RECORDED) == 1


@pytest.mark.parametrize("past", [0, 1, 127, 128, 300])
@pytest.mark.parametrize("time", [1, 128, 385])
@pytest.mark.parametrize("pattern", [Causal(), Causal(2), SlidingWindow(1), SlidingWindow(130), SlidingWindow(600)])
def test_the_blocks_that_flex_attention_skips_are_those_that_nobody_sees(pattern, time: int, past: int) -> None:
    keys = (past + time) * pattern.keys_per_token
    ours = block_mask(pattern, time, keys, torch.device("cpu"))
    made = torch_flex.create_block_mask(ours.mask_mod, None, None, time, keys, device="cpu")
    assert torch.equal(ours.kv_num_blocks, made.kv_num_blocks)
    assert torch.equal(ours.full_kv_num_blocks, made.full_kv_num_blocks)
    assert torch.equal(ours.to_dense(), made.to_dense())


IN_PARTS = [
    (count, prefix, past) for count in (1, 2, 3) for prefix in (0, 3) for past in (0, 5) if count > 1 or prefix or past
]


def call_in_streams(count: int, prefix: int, time: int, past: int = 0) -> tuple[CallInStreams, list[Tensor]]:
    """A call of several keys a token, and its inputs as leaves that want gradients."""
    make = torch.Generator().manual_seed(0)
    sizes = [time] + [past + time] * (2 * count) + ([time, prefix, prefix] if prefix else [])
    leaves = [torch.randn(2, 3, size, 8, generator=make, dtype=torch.float64).requires_grad_() for size in sizes]
    streams = [Stream(*leaves[1 + 2 * number :][:2]) for number in range(count)]
    return CallInStreams(leaves[0], streams, 0.3, Prefix(*leaves[1 + 2 * count :]) if prefix else None), leaves


@pytest.mark.parametrize(("count", "prefix", "past"), IN_PARTS)
def test_torch_attends_in_parts_as_it_does_with_a_mask(count: int, prefix: int, past: int, monkeypatch) -> None:
    call, leaves = call_in_streams(count, prefix, 13, past)
    expected = outputs(SdpaBackend(), call, leaves)
    parts = [CpuPart()] * (count * (1 + (past > 0)) + (prefix > 0))
    monkeypatch.setattr(sdpa, "kernels_for", lambda call: parts)
    monkeypatch.setattr(sdpa, "_causal", None)
    for actual, wanted in zip(outputs(SdpaBackend(), call, leaves), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("heads_side_by_side", [False, True])
def test_cudnns_gradient_is_given_the_output_in_the_layout_of_queries(heads_side_by_side: bool, monkeypatch) -> None:
    given: list[Tensor] = []

    def backward(d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, *rest: Any, scale: float) -> Any:
        given.extend([out, d_out])
        return q, k, v

    monkeypatch.setattr(in_parts, "_aten", SimpleNamespace(_scaled_dot_product_cudnn_attention_backward=backward))
    out = torch.randn(2, 5, 3, 4).transpose(1, 2)  # heads of a token side by side
    q = torch.randn_like(out) if heads_side_by_side else torch.randn(2, 3, 5, 4)
    d_out = torch.randn(2, 3, 5, 4)
    CudnnPart().backward(d_out, q, q, q, Part(out, torch.zeros(2, 3, 5)), (None,) * 6, 0.5, causal=True)
    assert torch.equal(given[0], out) and torch.equal(given[1], d_out)
    assert given[0].stride() == given[1].stride() == q.stride()
    assert (given[0] is out) == heads_side_by_side == (given[1] is not d_out)  # copied only where it must be


@pytest.mark.parametrize(
    ("keys", "dim", "of_prefix", "ours"),
    [(4, 64, True, True), (64, 128, True, True), (65, 64, True, False), (4, 136, True, False), (4, 64, False, False)],
)
def test_few_keys_of_a_prefix_have_a_kernel_of_their_own(
    keys: int, dim: int, of_prefix: bool, ours: bool, monkeypatch
) -> None:
    pytest.importorskip("triton", reason="needs Triton, which is for Linux")
    torchs = SimpleNamespace(_fused_sdp_choice=lambda *given, scale: SDPBackend.FLASH_ATTENTION.value)
    monkeypatch.setattr(in_parts, "_aten", torchs)
    rows = Rows(*(torch.zeros(1, 2, size, dim) for size in (130, keys, keys)))
    assert isinstance(in_parts._kernel_for(rows, False, of_prefix, 0.3), FlashPart)  # on a CPU ours takes nothing
    monkeypatch.setattr(in_parts, "kernels_take", lambda *tensors: True)
    assert isinstance(in_parts._kernel_for(rows, False, of_prefix, 0.3), FewKeysPart if ours else FlashPart)
    mixed = Rows(rows.queries.bfloat16(), rows.keys, rows.values)
    assert isinstance(in_parts._kernel_for(mixed, False, of_prefix, 0.3), FlashPart)


def test_what_has_a_window_or_is_one_kernel_is_not_computed_in_parts(monkeypatch) -> None:
    monkeypatch.setattr(sdpa, "kernels_for", None)
    for pattern, past in ((SlidingWindow(5), 4), (SlidingWindow(5), 0), (Causal(), 0)):
        SdpaBackend().attend(call_for(pattern, 0, 13, past)[0])


@pytest.mark.parametrize(
    ("pattern", "past", "again"),
    [(Causal(), 0, True), (Causal(), 4, False), (SlidingWindow(9), 4, False), (SlidingWindow(5), 4, True)],
    ids=str,
)
def test_a_cache_that_grows_has_shapes_that_do_not_come_again(pattern, past, again) -> None:
    assert all(sdpa.comes_again(call_for(pattern, 0, time, past)[0]) == again for time in (1, 7))


def test_cudnn_is_left_out_while_any_thread_wants_it_and_is_then_as_it_was() -> None:
    seen = []

    def often() -> None:
        for _ in range(500):
            with without_cudnn():
                seen.append(torch.backends.cuda.cudnn_sdp_enabled())

    for before in (True, False, True):
        torch.backends.cuda.enable_cudnn_sdp(before)
        threads = [Thread(target=often) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.backends.cuda.cudnn_sdp_enabled() is before
    assert len(seen) == 6000 and not any(seen)


@pytest.mark.parametrize("pattern", [Causal(), SlidingWindow(5)], ids=str)
def test_sdpa_compiles_as_one_graph(pattern) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return SdpaBackend().attend(Call(q, k, v, pattern, 0.3))

    call, _ = call_for(pattern, 0, 7, 4)
    compiled = torch.compile(attend, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(call.q, call.k, call.v), attend(call.q, call.k, call.v))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_call_in_streams_is_one_of_keys_side_by_side(count: int) -> None:
    call, _ = call_in_streams(count, 0, 5)
    other = Call(call.q, call.k, call.v, Causal(count), 0.3)
    assert (call.past, call.is_one_kernel, call.needs_gradients) == (0, count == 1, True)
    for mine, theirs in zip(call.streams, other.streams, strict=True):
        assert torch.equal(mine.keys, theirs.keys) and torch.equal(mine.values, theirs.values)
    assert torch.equal(call.k[:, :, ::count], call.streams[0].keys)


def model_with(attention: str, architecture: str, **settings: Any) -> Model:
    torch.manual_seed(0)
    block = {"type": architecture, "heads": 2, "attention": attention, **settings}
    memory = {"type": "linear_attention", "heads": 2}
    return build_model({"dim": 32, "layers": 1, "architecture": block, "memory": memory}, 11).double()


SMALL: dict[str, dict[str, int]] = {
    "mac": {"segment": 4},
    "mag": {"window": 3},
    "mal": {"window": 3},
    "sliding_window": {"window": 3},
    "transformer": {},
}


@pytest.fixture(params=["flash", "flex"])
def forced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend that takes tensors on a CPU as if they were on a GPU."""
    if request.param == "flash":
        request.getfixturevalue("install")(**GENERATIONS[4])
    else:
        request.getfixturevalue("uncompiled")
    monkeypatch.setattr(type(BACKENDS[request.param]), "obstacle", lambda self, call: "")
    return request.param


@pytest.mark.parametrize("architecture", ATTENDING)
def test_a_forced_backend_trains_like_torch_and_decodes_token_by_token(forced: str, architecture: str) -> None:
    ids = torch.randint(11, (2, 11), generator=torch.Generator().manual_seed(0))
    model, other = (model_with(name, architecture, **SMALL[architecture]) for name in (forced, "sdpa"))
    whole, expected = model(ids)[0], other(ids)[0]
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-11)
    gradients = (
        torch.autograd.grad(y.square().sum(), list(m.parameters())) for y, m in ((whole, model), (expected, other))
    )
    for actual, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-10)
    state, pieces = None, []
    with torch.no_grad():
        for piece in ids.split([5, 1, 1, 4], 1):
            logits, state = model(piece, state)
            pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, 1), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("architecture", ATTENDING)
def test_with_a_forced_backend_the_future_changes_nothing(forced: str, architecture: str) -> None:
    model = model_with(forced, architecture, **SMALL[architecture])
    ids = torch.randint(11, (2, 11), generator=torch.Generator().manual_seed(0))
    edited = ids.clone()
    edited[:, 6] = (edited[:, 6] + 1) % 11
    change = (model(edited)[0] - model(ids)[0]).abs()
    assert change[:, :6].max() == 0.0 and change[:, 6].max() > 0
