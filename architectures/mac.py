"""Memory as a context (Titans, arXiv 2501.00663, section 4.1: MAC), made causal."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import Field
from torch.utils import _pytree as pytree

from titanlab.architectures.attention.backend import AttentionName
from titanlab.architectures.attention.costs import attention_flops, key_value_bytes, mean_segment
from titanlab.architectures.attention.layer import KeyValues
from titanlab.architectures.attention.streaming import Asked, SegmentAttention
from titanlab.architectures.persistent import PersistentTokens
from titanlab.platform.architecture import ARCHITECTURES, Architecture, ArchitectureConfig
from titanlab.platform.config import no_result
from titanlab.platform.made_once import for_all_pieces
from titanlab.platform.memory import MemoryConfig
from titanlab.platform.norms import RMSNorm, gated_by
from titanlab.platform.tensors import Hidden, State


@ARCHITECTURES.register("mac")
class MacConfig(ArchitectureConfig):
    """Attention within segments, over the tokens and what the memory retrieves for them."""

    segment: int = Field(32, ge=1)
    """Tokens of a segment: attention stays within it, and memory is retrieved as it stood at its start."""
    persistent: int = Field(4, ge=0)
    """Learned tokens that attention always sees."""
    heads: int = Field(4, ge=1)
    """Attention heads; must divide dim into heads of an even size."""
    attention: AttentionName = no_result("auto")
    """What computes attention: flash (the flash-attn package), flex (FlexAttention), sdpa (torch's own kernels), or
    auto: the fastest of those that were checked here. They differ by rounding only; see docs/attention.md."""

    def build(self, dim: int, memory: MemoryConfig) -> Mac:
        return Mac(dim, self, memory)

    def flops(self, dim: int, memory: MemoryConfig, length: int) -> float:
        """The memory's read and write, and attention within segments: two keys a token, so 12 dim^2 + 4 w times twice
        the mean place in the segment; persistent tokens are projected once a row."""
        return (
            memory.read_flops(dim)
            + memory.flops(dim)
            + attention_flops(
                dim,
                self.heads,
                keys=2 * mean_segment(self.segment, length),
                persistent=self.persistent,
                prefixes_a_token=1 / length,
                keys_a_token=2,
            )
        )

    def state_size(self, dim: int, memory: MemoryConfig, length: int) -> int:
        """The memory's twice, now and at the segment's start, and two keys and values a token of a segment that is
        about to end."""
        return 2 * memory.state_size(dim) + key_value_bytes(dim, 2 * min(self.segment - 1, length))


class MacState(NamedTuple):
    """The memory's state now, as it stood at the current segment's start, and the segment's keys and values so far."""

    memory: State
    at_start: State
    segment: KeyValues


class Mac(Architecture):
    """Segment by segment, with M_s the memory at the segment's start and M_t the one that has been written y_j, j <= t:

        h_t = M_s(x_t)                                        retrieval              (eq. 21)
        y_t = norm_y(Attention(x_t; p_1 .. p_N, h_j, x_j for j <= t in the segment)) (eq. 22-23)
        M_t = M_{t-1} written with y_t                                               (eq. 24)
        out_t = x_t + y_t * sigmoid(norm_o(M_t(y_t)))                                (eq. 25)

    where x has passed the block's norm except in the residual, which the paper leaves out. Differs from the paper in
    what makes it causal: there every token sees the h of the whole segment, and reads a memory that the whole segment
    has written. Left open by the paper: the gate (as in MAG), whether the memory is written with y before or after its
    norm (after: a memory's input is normed everywhere), and the position of h_j in attention (that of x_j).
    """

    def __init__(self, dim: int, config: MacConfig, memory: MemoryConfig) -> None:
        super().__init__()
        self.segment = config.segment
        self.persistent = PersistentTokens(dim, config.persistent)
        self.norm = RMSNorm(dim)
        self.attention = SegmentAttention(dim, heads=config.heads, attention=config.attention)
        self.attention_norm = RMSNorm(dim)
        self.memory = memory.build(dim)
        self.gate_norm = RMSNorm(dim)

    def initial_state(self, batch: int) -> MacState:
        """A fresh memory at the start of an empty segment."""
        memory = self.memory.initial_state(batch)
        return MacState(memory, memory, self.attention.initial_state(batch))

    def forward(self, x: Hidden, state: MacState) -> tuple[Hidden, MacState]:
        inputs, always = self.norm(x), self.attention.always(self.norm(self.persistent(x.shape[0])))
        past, ys, ms = self.attention.length(state.segment), [], []
        places = (past + torch.arange(x.shape[1], device=x.device)) % self.segment
        sizes = self._segments(x.shape[1], past)
        # What is asked for is known for all segments; cut once, since the gradient of each slice is a whole row.
        asked, questions = self.attention.ask(inputs, places, sizes), self._cut(self.memory.question(inputs), sizes)
        with for_all_pieces():
            for segment, question in zip(asked, questions, strict=True):
                y, m, state = self._within_segment(segment, question, always, state)
                ys.append(y)
                ms.append(m)
        if not ys:
            return x, state
        return gated_by(ys, ms, self.gate_norm, added=x), state

    def _segments(self, tokens: int, past: int) -> list[int]:
        """Lengths of the pieces that belong to one segment each, the first of which has seen `past` tokens."""
        first = min(self.segment - past, tokens)
        rest = range(first, tokens, self.segment)
        return [first] * (first > 0) + [min(self.segment, tokens - start) for start in rest]

    @staticmethod
    def _cut(question: State, sizes: list[int]) -> list[State]:
        """The question of each piece of a row."""
        leaves, structure = pytree.tree_flatten(question)
        cut = [leaf.split(sizes, 1) for leaf in leaves]
        return [pytree.tree_unflatten([parts[piece] for parts in cut], structure) for piece in range(len(sizes))]

    def _within_segment(
        self, asked: Asked, question: State, always: KeyValues | None, state: MacState
    ) -> tuple[Hidden, Hidden, MacState]:
        """What attention and memory say of the tokens of one segment; hands on a fresh one once it is full."""
        # of what is retrieved attention sees the keys and values alone
        found = self.memory.projected_answer(question, state.at_start, self.attention.heads.key_value.weight)
        ends = self.attention.length(state.segment) + found.shape[1] == self.segment
        y, seen = self.attention.answer(asked, found, always, state.segment, ends=ends)
        y = self.attention_norm(y)
        m, memory = self.memory(y, state.memory)
        return y, m, MacState(memory, memory if ends else state.at_start, seen)
