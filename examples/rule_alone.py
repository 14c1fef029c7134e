"""The rule as a function: an MLP that learns key -> value while it reads, in one call or streamed."""

import torch
from torch.nn.functional import normalize

from titanlab.memory_modules.functional import deep_memory

torch.manual_seed(0)
batch, time, heads, dim, hidden = 2, 300, 4, 16, 32
keys = normalize(torch.randn(batch, time, heads, dim), dim=-1)
values = torch.randn(batch, time, heads, dim)
keep = torch.full((batch, time, heads), 0.99)  # the paper's 1 - alpha
momentum = torch.full((batch, time, heads), 0.5)  # the paper's eta
step = torch.full((batch, time, heads), 0.1)  # the paper's theta
weights = [torch.randn(heads, dim, hidden) / dim**0.5, torch.zeros(heads, hidden, dim)]

answers, state = deep_memory(keys, keys, values, keep, momentum, step, weights, chunk_size=64)
print("answers", tuple(answers.shape), "memory", [tuple(matrix.shape) for matrix in state.weights])

state, streamed = None, []
for start, end in ((0, 100), (100, 101), (101, 300)):  # cut anywhere, even inside a chunk
    piece = slice(start, end)
    y, state = deep_memory(
        *(x[:, piece] for x in (keys, keys, values, keep, momentum, step)), weights, chunk_size=64, state=state
    )
    streamed.append(y)
print(f"largest difference when streamed: {(torch.cat(streamed, 1) - answers).abs().max():.1e}")
