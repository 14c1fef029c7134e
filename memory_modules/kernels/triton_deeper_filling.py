"""Rows of tokens, gates and matrices filled up with zeros to whole tiles, for kernels of three and four matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from titanlab.memory_modules.kernels.chunk_gates import ChunkGates
from titanlab.memory_modules.kernels.chunking import Piece, from_chunks, to_chunks
from titanlab.memory_modules.kernels.triton_matrix_memory import padded_width

TILE = 64


class Filling:
    """n chunks of c tokens for g = batch x heads heads of width `dim`, and their matrices of `sizes`, in tiles.

    Letters as in triton_deeper_tiles: BC is `tokens`, D `width`, F `hidden`, T `tile`, L `layers` and N `weights`.
    """

    def __init__(self, q: Tensor, step: Tensor, matrices: Sequence[Tensor]) -> None:
        self.batch, self.dim = q.shape[0], q.shape[3]
        self.n, self.g, self.c = step.shape
        self.layers, self.sizes = len(matrices), [tuple(x.shape[2:]) for x in matrices]
        # float16 has too short a range for gradients of states: its products are taken in tf32, as precise
        self.dtype = torch.bfloat16 if q.dtype == torch.bfloat16 else torch.float32
        self.tokens, self.width = padded_width(self.c), padded_width(self.dim)
        hidden = max(after for _, after in self.sizes[:-1])
        self.tile = min(TILE, self.width, padded_width(hidden))
        self.hidden = triton.cdiv(hidden, self.tile) * self.tile
        widths = [self.width, *[self.hidden] * (self.layers - 1), self.width]
        self.filled_sizes = list(zip(widths[:-1], widths[1:], strict=True))
        self.weights = sum(before * after for before, after in self.filled_sizes)

    def by_chunk(self, x: Tensor) -> Tensor:
        """[b, n c, h, d] -> [n, g, BC, D] in the type of the products."""
        chunks = to_chunks(x, Piece(0, self.n, self.c)).to(self.dtype)
        return F.pad(chunks, (0, self.width - self.dim, 0, self.tokens - self.c)).contiguous()

    def by_token(self, x: Tensor, like: Tensor) -> Tensor:
        """The other way round, in the type of another tensor."""
        return from_chunks(x[:, :, : self.c, : self.dim], self.batch).to(like.dtype)

    def gates(self, gates: Sequence[Tensor]) -> ChunkGates:
        """What `gates_for` returned, of BC tokens."""
        read, inner, write, mix = gates
        more = self.tokens - self.c
        read, write = (F.pad(x, (0, 0, 0, more)).contiguous() for x in (read, write))
        return ChunkGates(read, F.pad(inner, (0, more, 0, more)).contiguous(), write, mix.contiguous())

    def d_gates(self, d_gates: ChunkGates) -> list[Tensor]:
        """Gradients of the gates from those of the filled ones; of write and mix, each program left its part."""
        read, inner, write, mix = d_gates
        c = self.c
        return [read[:, :, :c], inner[:, :, :c, :c], write.sum(0)[:, :, :c], mix.sum(0)]

    def joined(self, matrices: Sequence[Tensor]) -> Tensor:
        """L tensors [g, p, in, out] -> [g, p, N]."""
        wide = [
            F.pad(x, (0, after - x.shape[3], 0, before - x.shape[2])).flatten(2)
            for x, (before, after) in zip(matrices, self.filled_sizes, strict=True)
        ]
        return torch.cat(wide, 2)

    def parted(self, state: Tensor) -> list[Tensor]:
        """The other way round."""
        wide = state.split([before * after for before, after in self.filled_sizes], 2)
        return [
            x.unflatten(2, filled)[:, :, :before, :after].contiguous()
            for x, filled, (before, after) in zip(wide, self.filled_sizes, self.sizes, strict=True)
        ]
