"""Checks of what goes in and comes out: shapes, types, the state, and input that must be refused."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from titanlab.platform.errors import TitanlabError
from titanlab.platform.memory import MemoryConfig, MemoryModule
from titanlab.platform.testing.report import Unmet, check
from titanlab.platform.testing.subject import DIM, Subject, copied, initial_state, leaves, run, same, tokens


@check(
    "shapes and types",
    expected="builds from its default settings at any dim divisible by 16; x [b, t, dim] gives a finite y of the same "
    "shape and type",
    cause="a size taken from the wrong axis, a setting without a default, or `.float()` on the output",
)
def shapes_and_types(subject: Subject) -> str:
    for dim in (16, 48, 80):
        module = subject.fresh(subject.declared, dim=dim)
        for batch, time in ((2, 1), (3, 5)):
            _expect_like(torch.randn(batch, time, dim), module)
    _expect_like(tokens(2, 5), subject.module())
    return ""


def _expect_like(x: Tensor, module: nn.Module) -> None:
    with torch.no_grad():
        y = run(module, x)
    if y.shape != x.shape or y.dtype != x.dtype:
        raise Unmet(f"x {list(x.shape)} {x.dtype} gave y {list(y.shape)} {y.dtype}")
    if not y.isfinite().all():
        raise Unmet(f"x {list(x.shape)} gave NaN or infinity in {int((~y.isfinite()).sum())} of {y.numel()} values")


@check(
    "state is tensors, batch first",
    expected="every leaf of a state is a tensor whose first axis is the batch, before and after tokens",
    cause="a number in the state (make it a tensor [b]), heads or layers before the batch, one row for all sequences",
)
def state_is_batch_first(subject: Subject) -> str:
    module = subject.module()
    for batch in (5, 7):
        _expect_batch_first(initial_state(module, batch), batch, "initial_state")
    with torch.no_grad():
        _, state = module(tokens(5, subject.time), initial_state(module, 5))
    _expect_batch_first(state, 5, "forward")
    return ""


def _expect_batch_first(state: object, batch: int, source: str) -> None:
    for index, leaf in enumerate(leaves(state)):
        if not isinstance(leaf, Tensor):
            raise Unmet(f"leaf {index} of the state from {source} is {leaf!r}, of type {type(leaf).__name__}")
        if leaf.ndim < 1 or leaf.shape[0] != batch:
            raise Unmet(f"leaf {index} of the state from {source} for {batch} sequences has shape {list(leaf.shape)}")


@check(
    "state handed in stays",
    expected="forward leaves the state it was given as it is and returns another one",
    cause="an operation in place on the state (`state += ...`, `state[...] = ...`); architectures keep old states",
)
@torch.no_grad()
def state_handed_in_stays(subject: Subject) -> str:
    module, x = subject.module(), tokens(2, subject.time)
    state = copied(module(x, initial_state(module, 2))[1])
    before = copied(state)
    module(x, state)
    if not same(state, before):
        raise Unmet("the state handed to forward has other values after the call")
    return ""


@check(
    "read writes nothing",
    expected="read(x, state) gives [b, t, dim], leaves the state as it is, and answers each token by itself",
    cause="an operation in place on the state, or a convolution or a mean over the queries",
    memories_only=True,
)
@torch.no_grad()
def read_writes_nothing(subject: Subject) -> str:
    module, x = subject.module(), tokens(2, subject.time)
    assert isinstance(module, MemoryModule)
    read = module.read
    state = copied(module(x, initial_state(module, 2))[1])
    before = copied(state)
    y = read(x, state)
    if y.shape != x.shape or not y.isfinite().all():
        raise Unmet(f"x {list(x.shape)} gave y {list(y.shape)}{'' if y.isfinite().all() else ', not finite'}")
    if not same(state, before):
        raise Unmet("the state has other values after read")
    edited = x.clone()
    edited[:, 2] += 1
    others = [index for index in range(x.shape[1]) if index != 2]
    change = float((read(edited, state) - y)[:, others].abs().max())
    if change != 0.0:
        raise Unmet(f"editing the query of token 2 changed the answers to other tokens by {change:.2g}")
    return ""


@check(
    "state size as declared",
    expected="config.state_size(dim) is the bytes of initial_state(1), floating values counted as float32",
    cause="state_size was overridden and misses a part of the state (momentum, a convolution's cache, all heads)",
    memories_only=True,
)
def state_size_as_declared(subject: Subject) -> str:
    assert isinstance(subject.declared, MemoryConfig)
    declared = subject.declared.state_size(DIM)
    state = initial_state(subject.fresh(subject.declared), 1)
    found = sum(leaf.numel() * (4 if leaf.is_floating_point() else leaf.element_size()) for leaf in leaves(state))
    if declared != found:
        raise Unmet(f"state_size({DIM}) is {declared} bytes; initial_state(1) takes {found}")
    return f"{found:,} bytes at dim {DIM}"


@check(
    "other batch size is refused",
    expected="a state of another batch size than x raises a ValueError that says so",
    cause="forward called around `Module.__call__`, or an error of another type raised before it",
)
@torch.no_grad()
def other_batch_size_is_refused(subject: Subject) -> str:
    module, x = subject.module(), tokens(2, 3)
    for batch in (3, 1):
        try:
            module(x, initial_state(module, batch))
        except (ValueError, TitanlabError):
            continue
        except Exception as error:
            raise Unmet(f"a state of {batch} for 2 sequences raised {type(error).__name__}: {error}") from error
        raise Unmet(f"a state of {batch} for 2 sequences was taken: its rows were broadcast")
    return ""
