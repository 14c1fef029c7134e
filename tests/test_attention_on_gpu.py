"""On a GPU: every attention backend against float32, and caches cut anywhere. Run with `pytest -m gpu`."""

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from titanlab.architectures.attention.backend import AttentionName, Call, Causal, Pattern, Prefix, SlidingWindow
from titanlab.architectures.attention.in_parts import ON_CUDA, attend_in_parts
from titanlab.architectures.attention.selection import select
from titanlab.architectures.attention.streaming import SegmentAttention, WindowAttention
from titanlab.platform.errors import ConfigError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore"),  # torch's and cutlass's own, while they compile
]

NAMES: tuple[AttentionName, ...] = ("sdpa", "flex", "flash")


def outputs(
    attention: AttentionName, leaves: list[Tensor], pattern: Pattern, *, time_first: bool = False
) -> list[Tensor]:
    """What a backend answers, and its gradients; that of the output may have the heads of a token side by side."""
    call = Call(*leaves[:3], pattern, leaves[0].shape[3] ** -0.5, Prefix(*leaves[3:]) if leaves[3:] else None)
    y = select(attention, call).attend(call)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    upstream = upstream.transpose(1, 2).contiguous().transpose(1, 2) if time_first else upstream
    return [y.detach(), *torch.autograd.grad(y, leaves, upstream)]


@pytest.mark.parametrize("attention", NAMES)
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize(
    ("pattern", "prefix", "time", "past"),
    [
        (Causal(), 0, 1000, 0),
        (Causal(), 0, 100, 77),
        (SlidingWindow(100), 16, 1000, 99),
        (Causal(2), 4, 128, 0),
        (Causal(2), 16, 1024, 0),  # sdpa in parts
        (Causal(2), 0, 1000, 0),
        (Causal(), 16, 1000, 0),
    ],
    ids=str,
)
def test_a_backend_equals_float32(attention, dim, pattern, prefix, time, past) -> None:
    keys = (past + time) * pattern.keys_per_token
    make = torch.Generator().manual_seed(0)
    sizes = [time, keys, keys, *([time, prefix, prefix] if prefix else [])]
    narrow = [torch.randn(2, 3, size, dim, generator=make).cuda().bfloat16().requires_grad_() for size in sizes]
    wide = [leaf.detach().float().requires_grad_() for leaf in narrow]
    try:
        actual = outputs(attention, narrow, pattern)
    except ConfigError as error:
        pytest.skip(str(error))
    expected = outputs("sdpa", wide, pattern)
    bounds = [1e-2] + [2e-2] * len(narrow)  # of the output and of gradients
    for ours, reference, bound in zip(actual, expected, bounds, strict=True):
        assert (ours.float() - reference).norm() <= bound * reference.norm()


@pytest.mark.parametrize("attention", ["auto", *NAMES])
def test_a_window_may_be_cut_anywhere(attention) -> None:
    torch.manual_seed(0)
    layer = WindowAttention(128, heads=2, window=30, attention=attention).cuda().bfloat16()
    x, prefix = (torch.randn(2, size, 128).cuda().bfloat16() for size in (90, 4))

    def fed(pieces: list[int]) -> Tensor:
        state, answers = layer.initial_state(2), []
        for piece in x.split(pieces, 1):
            y, state = layer(piece, prefix, state)
            answers.append(y)
        return torch.cat(answers, 1)

    assert_cut_anywhere(fed, 90)


@pytest.mark.parametrize("attention", ["auto", *NAMES])
def test_a_segment_may_be_cut_anywhere(attention) -> None:
    torch.manual_seed(0)
    layer = SegmentAttention(128, heads=2, attention=attention).cuda().bfloat16()
    x, prefix = (torch.randn(2, size, 128).cuda().bfloat16() for size in (90, 4))

    def fed(pieces: list[int]) -> Tensor:
        state, answers = layer.initial_state(2), []
        for piece in x.split(pieces, 1):
            y, state = layer(piece, piece.flip(-1), prefix, state)
            answers.append(y)
        return torch.cat(answers, 1)

    assert_cut_anywhere(fed, 90)


@pytest.mark.parametrize("backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION])
@pytest.mark.parametrize(("prefix", "past"), [(0, 0), (16, 0), (0, 700), (16, 700)])
def test_each_of_torchs_kernels_for_parts_equals_float32(backend: SDPBackend, prefix: int, past: int) -> None:
    make = torch.Generator().manual_seed(0)
    keys = 2 * (past + 1024)
    sizes = [1024, keys, keys, *([1024, prefix, prefix] if prefix else [])]
    narrow = [torch.randn(2, 3, size, 64, generator=make).cuda().bfloat16().requires_grad_() for size in sizes]
    wide = [leaf.detach().float().requires_grad_() for leaf in narrow]
    kernels = [ON_CUDA[backend.value]] * (2 * (1 + (past > 0)) + (prefix > 0))
    call = Call(*narrow[:3], Causal(2), 0.125, Prefix(*narrow[3:]) if prefix else None)
    y = attend_in_parts(call, kernels)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    actual, expected = [y.detach(), *torch.autograd.grad(y, narrow, upstream)], outputs("sdpa", wide, Causal(2))
    for ours, reference, bound in zip(actual, expected, [1e-2] + [2e-2] * len(narrow), strict=True):
        assert (ours.float() - reference).norm() <= bound * reference.norm()


@pytest.mark.parametrize("prefix_first", [False, True])
def test_a_gradient_does_not_depend_on_calls_of_the_same_sizes_before(prefix_first: bool) -> None:
    """torch has one of cuDNN's plans for them, whatever the layout of outputs."""
    make = torch.Generator().manual_seed(0)
    time = 1016 if prefix_first else 1008  # sizes of its own: plans stay for the whole process
    narrow = [torch.randn(2, 3, size, 64, generator=make).cuda().bfloat16().requires_grad_()
              for size in (time, time, time, time, 16, 16)]  # fmt: skip
    for leaves in [narrow, narrow[:3]] if prefix_first else [narrow[:3], narrow]:
        wide = [leaf.detach().float().requires_grad_() for leaf in leaves]
        # a call that is one kernel is torch's alone, its gradient's layout, too
        for time_first in (False, True) if len(leaves) > 3 else (False,):
            found = outputs("sdpa", leaves, Causal(), time_first=time_first)
            for ours, reference in zip(found, outputs("sdpa", wide, Causal()), strict=True):
                assert (ours.float() - reference).norm() <= 2e-2 * reference.norm()


@torch.no_grad()
def assert_cut_anywhere(fed, time: int) -> None:
    try:
        whole = fed([time])
    except ConfigError as error:
        pytest.skip(str(error))
    assert (fed([40, 1, 1, time - 42]) - whole).norm() <= 1e-2 * whole.norm()
