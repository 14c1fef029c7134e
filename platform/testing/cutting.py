"""Checks of how a sequence is cut: into calls, and into chunks."""

from __future__ import annotations

import torch
from pydantic import ValidationError
from torch import Tensor

from titanlab.platform.errors import TitanlabError
from titanlab.platform.memory import MemoryConfig
from titanlab.platform.testing.report import Unmet, check
from titanlab.platform.testing.subject import TOLERANCE, Subject, deviation, in_pieces, run, tokens


@check(
    "cut anywhere, same outputs",
    expected=f"one call, pieces cut anywhere and token by token agree in float64 to {TOLERANCE:.0e}",
    cause="something missing in the state: the last inputs of a convolution, momentum, the place within a chunk, a "
    "gate held over a chunk",
)
@torch.no_grad()
def pieces_equal_one_call(subject: Subject) -> str:
    module, time = subject.module(), subject.time
    x = tokens(2, time)
    whole, worst = run(module, x), 0.0
    for lengths in _cuts(time):
        off = deviation(whole, in_pieces(module, x, lengths))
        if not off <= TOLERANCE:
            shown = "token by token" if max(lengths) == 1 else f"in pieces of {lengths}"
            raise Unmet(f"{shown}, outputs differ from one call by {off:.2g} of the largest")
        worst = max(worst, off)
    return f"within {worst:.1g}"


def _cuts(time: int) -> list[list[int]]:
    half = time // 2
    return [
        [1] * time, [1, time - 1], [time - 1, 1], [half, time - half], [half - 1, 1, 1, time - half - 1],
        [2, 3, 4, time - 9],
    ]  # fmt: skip


@check(
    "chunk length",
    expected=f"chunk_size changes speed only: outputs agree in float64 to {TOLERANCE:.0e}",
    cause="gates or decay that count from the wrong side of a chunk's edge; where the chunk length is part of the "
    "rule, its configuration says `chunk_exact: ClassVar[bool] = False`",
)
@torch.no_grad()
def chunk_length(subject: Subject) -> str:
    if "chunk_size" not in type(subject.config).model_fields:
        return "no chunk_size"
    x = tokens(2, subject.time)
    outputs = {size: y for size in (1, 2, 3, 4, 8) if (y := _with_chunks_of(subject, size, x)) is not None}
    if len(outputs) < 2:
        return "takes only one chunk_size"
    first, *others = outputs
    off, size = max((deviation(outputs[first], outputs[size]), size) for size in others)
    if isinstance(subject.config, MemoryConfig) and not subject.config.chunk_exact:
        return f"part of the rule: {off:.1%} between chunk_size {first} and {size}"
    if not off <= TOLERANCE:
        raise Unmet(f"chunk_size {first} and {size} differ by {off:.2g} of the largest output")
    return f"within {off:.1g}"


def _with_chunks_of(subject: Subject, size: int, x: Tensor) -> Tensor | None:
    """The outputs at a chunk length, or None where the module does not take it."""
    try:
        module = subject.module(subject.config.replace(chunk_size=size))
    except (ValidationError, TitanlabError):
        return None
    return run(module, x)
