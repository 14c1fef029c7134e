"""A language model: embedding, a stack of blocks (architecture, then SwiGLU feed-forward), norm, output layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError
from torch import Tensor, nn

from titanlab.platform.architecture import ARCHITECTURES, Architecture, ArchitectureConfig
from titanlab.platform.config import Config, problems_of
from titanlab.platform.errors import ConfigError
from titanlab.platform.memory import MEMORY_MODULES, MemoryConfig, MemoryModule
from titanlab.platform.shapes import shapes_only
from titanlab.platform.tensors import Hidden, Ids, Logits, State


class Block(NamedTuple):
    """What one block of the stack is built from."""

    architecture: ArchitectureConfig
    memory: MemoryConfig


class ModelConfig(Config):
    """A stack of blocks."""

    dim: int = Field(64, ge=16, multiple_of=16)
    """Model width."""
    layers: int = Field(2, ge=1, le=1024)
    """Number of blocks."""
    expansion: float = Field(2.0, ge=0, le=64)
    """Hidden width of the feed-forward layer over the model width; 0 leaves the layer out."""
    architecture: Annotated[SerializeAsAny[ArchitectureConfig], BeforeValidator(ARCHITECTURES.resolve)] = Field(
        default_factory=lambda: ARCHITECTURES.resolve({"type": "mac"})
    )
    """How a block combines memory and attention."""
    memory: Annotated[SerializeAsAny[MemoryConfig], BeforeValidator(MEMORY_MODULES.resolve)] = Field(
        default_factory=lambda: MEMORY_MODULES.resolve({"type": "titans"})
    )
    """The memory of each block; baselines without a memory ignore it."""

    def stack(self) -> tuple[Block, ...]:
        """The blocks from the first to the last, each with its layer's own settings."""
        memories = (self.memory.for_layer(index, self.layers) for index in range(self.layers))
        return tuple(Block(self.architecture, memory) for memory in memories)

    def build(self, vocab_size: int) -> Model:
        """The model with freshly initialised weights (torch's random state decides them)."""
        return Model(self, vocab_size)


class FeedForward(nn.Module):
    """SwiGLU: y = (silu(x W_1) * (x W_2)) W_3 (Shazeer, arXiv 2002.05202, eq. 5), hidden width a multiple of 8."""

    def __init__(self, dim: int, expansion: float) -> None:
        super().__init__()
        width = max(8, -(-int(dim * expansion) // 8) * 8)
        self.norm = nn.RMSNorm(dim)
        self.up = nn.Linear(dim, 2 * width, bias=False)
        self.down = nn.Linear(width, dim, bias=False)

    def forward(self, x: Hidden) -> Hidden:
        gate, value = self.up(self.norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * value)


class Model(nn.Module):
    """`model(ids, state=None) -> (logits, state)`; feeding a sequence in pieces gives the same logits as one call."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        stack = config.stack()
        self.embedding = nn.Embedding(vocab_size, config.dim)
        self.blocks = nn.ModuleList(block.architecture.build(config.dim, block.memory) for block in stack)
        self.feed_forwards = nn.ModuleList(
            FeedForward(config.dim, config.expansion) if config.expansion else nn.Identity() for _ in stack
        )
        self.norm = nn.RMSNorm(config.dim)
        self.head = nn.Linear(config.dim, vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def initial_state(self, batch: int) -> list[State]:
        """The state of every block before the first token."""
        return [cast(Architecture, block).initial_state(batch) for block in self.blocks]

    def forward(self, ids: Ids, state: list[State] | None = None) -> tuple[Logits, list[State]]:
        """Logits [b, t, vocab] for the token after each position, and the state after the last one."""
        states = self.initial_state(ids.shape[0]) if state is None else state
        x, after = self.embedding(ids), []
        for block, feed_forward, before in zip(self.blocks, self.feed_forwards, states, strict=True):
            x, block_state = block(x, before)
            x = feed_forward(x)
            after.append(block_state)
        return self.head(self.norm(x)), after


def build_model(model: ModelConfig | Mapping[str, Any], vocab_size: int) -> Model:
    """A model from its configuration or from the mapping of a YAML file's `model` block.

    Raises:
        ConfigError: naming the dotted path of the setting at fault.
    """
    if isinstance(model, ModelConfig):
        return model.build(vocab_size)
    try:
        return ModelConfig.model_validate(model).build(vocab_size)
    except ValidationError as error:
        raise ConfigError(problems_of(error, lambda path: (".".join(map(str, ("model", *path))), None))) from None


def parameter_count(model: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def memory_state_size(config: ModelConfig, model: Model) -> int:
    """Bytes of memory state a sequence takes in float32, over all layers; 0 for a model without a memory."""
    with_memory = [any(isinstance(part, MemoryModule) for part in block.modules()) for block in model.blocks]
    memories = [block.memory for block, has_one in zip(config.stack(), with_memory, strict=True) if has_one]
    distinct = {id(memory): memory for memory in memories}  # most rules have the same settings in every layer
    bytes_of = {key: memory.state_size(config.dim) for key, memory in distinct.items()}
    return sum(bytes_of[id(memory)] for memory in memories)


def meta_model(config: ModelConfig, vocab_size: int) -> Model:
    """The model without storage: its shapes only, to count parameters and state of a plan."""
    with shapes_only():
        return config.build(vocab_size)


def logits_loss(logits: Logits, targets: Ids, mask: Tensor) -> Tensor:
    """Sum over counted positions of the cross-entropy in nats, in float32 or better."""
    losses = F.cross_entropy(
        logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32)), targets.flatten(), reduction="none"
    )
    return (losses * mask.flatten()).sum()
