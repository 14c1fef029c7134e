"""The part of a matrix rule that runs in order: from each chunk's start to its end, everything else done before.

Over a chunk every rule here is linear in the state S it starts from. With `reads` and `offsets` prepared for all
chunks at once,

    U = offsets + reads S             what the chunk's tokens write, one row a token
    S <- last * S + added + writes^T U
"""

from __future__ import annotations

import torch
from torch import Tensor


def scan_states(
    state: Tensor,
    *,
    writes: Tensor,
    offsets: Tensor,
    reads: Tensor | None = None,
    last: Tensor | None = None,
    added: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs n equal chunks.

    Args:
        state: S [g, key, value] before the first.
        writes: [n, g, c, key].
        offsets: [n, g, c, value].
        reads: [n, g, c, key]; None: 0.
        last: what is left of S at a chunk's end, [n, g, key or 1, 1]; None: 1.
        added: what is written whatever S is, [n, g, key, value].

    Returns:
        U [n, g, c, value], S at each chunk's start [n, g, key, value], and S after the last.
    """
    if reads is None:
        increments = writes.mT @ offsets
        added = increments if added is None else added + increments
    starts, written = [], []
    for i in range(offsets.shape[0]):
        starts.append(state)
        kept = state if last is None else last[i] * state
        kept = kept if added is None else kept + added[i]
        if reads is None:
            state = kept
            continue
        u = torch.baddbmm(offsets[i], reads[i], state)
        written.append(u)
        state = torch.baddbmm(kept, writes[i].mT, u)
    return (torch.stack(written) if written else offsets), torch.stack(starts), state
