"""A memory, an architecture and a task small enough to train in milliseconds: a plug-in that training's tests load."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titanlab.platform.architecture import ARCHITECTURES, Architecture, ArchitectureConfig
from titanlab.platform.memory import MEMORY_MODULES, MemoryConfig, MemoryModule
from titanlab.platform.task import TASKS, Batch, Split, Task, TaskConfig


@MEMORY_MODULES.register("tiny_average")
class TinyAverageConfig(MemoryConfig):
    """A running mean of what was written."""

    keep: float = 0.9
    """What stays of the state at each token."""

    def build(self, dim: int) -> "TinyAverage":
        return TinyAverage(dim, self)


class TinyAverage(MemoryModule):
    def __init__(self, dim: int, config: TinyAverageConfig) -> None:
        super().__init__()
        self.config, self.write = config, nn.Linear(dim, dim)

    def initial_state(self, batch: int) -> Tensor:
        return self.write.weight.new_zeros(batch, self.write.out_features)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        reads = []
        for x_t in self.write(x).unbind(1):
            state = self.config.keep * state + (1 - self.config.keep) * x_t
            reads.append(state)
        return torch.stack(reads, 1), state

    def read(self, x: Tensor, state: Tensor) -> Tensor:
        return state[:, None].expand(-1, x.shape[1], -1)


@ARCHITECTURES.register("tiny_block")
class TinyBlockConfig(ArchitectureConfig):
    """The memory with a residual, dropout (so that training draws random numbers) and a parameter nobody uses."""

    dropout: float = 0.1
    """Probability that a channel is dropped in training."""

    def build(self, dim: int, memory: MemoryConfig) -> "TinyBlock":
        return TinyBlock(dim, self, memory)


class TinyBlock(Architecture):
    def __init__(self, dim: int, config: TinyBlockConfig, memory: MemoryConfig) -> None:
        super().__init__()
        self.memory, self.dropout = memory.build(dim), nn.Dropout(config.dropout)
        self.unused = nn.Parameter(torch.ones(dim))

    def initial_state(self, batch: int) -> Tensor:
        return self.memory.initial_state(batch)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.memory(x, state)
        return x + self.dropout(y), state


@TASKS.register("tiny_count")
class TinyCountConfig(TaskConfig):
    """Say the next number; rows count differently many positions."""

    length: int = 8
    """Tokens in a row."""

    def build(self) -> "TinyCount":
        return TinyCount(self)

    def metrics(self) -> tuple[str, ...]:
        return ("loss", "accuracy")

    @property
    def vocab_size(self) -> int:
        return 16

    @property
    def row_length(self) -> int:
        return self.length


class TinyCount(Task):
    digest = "d1e5" * 16

    def __init__(self, config: TinyCountConfig) -> None:
        self.length, self.vocab_size = config.length, config.vocab_size

    def train_batches(self, seed: int, batch_size: int, start: int = 0) -> Iterator[Batch]:
        number = start
        while True:
            yield self._batch(torch.Generator().manual_seed(seed * 1_000_003 + number), batch_size)
            number += 1

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        device = next(model.parameters()).device
        batch = self._batch(torch.Generator().manual_seed({"val": -1, "test": -2}[split]), 16)
        ids, targets, mask = (tensor.to(device) for tensor in batch)
        logits, _ = model(ids)
        losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view_as(mask)
        right = (logits.argmax(-1) == targets).float()
        return {
            "loss": float((losses * mask).sum() / mask.sum()),
            "accuracy": float((right * mask).sum() / mask.sum()),
        }

    def _batch(self, generator: torch.Generator, rows: int) -> Batch:
        first = torch.randint(self.vocab_size, (rows, 1), generator=generator)
        row = (first + torch.arange(self.length + 1)) % self.vocab_size
        counted = torch.randint(1, self.length + 1, (rows, 1), generator=generator)
        return Batch(row[:, :-1], row[:, 1:], (torch.arange(self.length) < counted).float())
