"""What a model costs, from its configuration: parameters, state of a sequence, floating-point operations a token.

Two models are compared fairly if the comparison says how these differ. All are of the model alone, whatever hardware
it runs on: state in float32, operations two a multiply-add (see `operations`).
"""

from __future__ import annotations

from typing import NamedTuple

from titanlab.platform.architecture import ArchitectureConfig
from titanlab.platform.errors import ConfigError
from titanlab.platform.memory import MemoryConfig, MemoryModule
from titanlab.platform.model import FeedForward, ModelConfig, feed_forward_width, meta_model, parameter_count
from titanlab.platform.operations import remembered
from titanlab.platform.shapes import shapes_only

TRAINING = 3
"""Operations of a training step over those of its forward pass: the gradient takes two products for each one."""

ASSUMED_ROW = 1024
"""Tokens of a row where the task does not say."""


class Costs(NamedTuple):
    """What a model costs."""

    parameters: int
    memory_bytes: int
    """Memory state of one sequence over all layers."""
    state_bytes: int | None
    """All state of one sequence over all layers, caches of keys and values included: the most that lies between two
    tokens of a training row. None: a plug-in that was run to find out failed."""
    flops: float | None
    """Operations a token of the forward pass, averaged over a training row. None: as above."""
    row_length: int | None
    """Tokens of the row as the task says; None: `ASSUMED_ROW` was taken."""
    failure: str = ""
    """Why something is None."""

    def training_flops(self, tokens: int) -> float | None:
        """Operations of training on so many tokens: `TRAINING` times the forward pass."""
        return None if self.flops is None else TRAINING * self.flops * tokens

    def metrics(self) -> dict[str, float]:
        """What is known, by the names under which runs log it."""
        known = {
            "cost/parameters": self.parameters,
            "memory/state_bytes": self.memory_bytes,
            "cost/state_bytes": self.state_bytes,
            "cost/flops_per_token": self.flops,
        }
        return {name: float(value) for name, value in known.items() if value is not None}


def model_costs(config: ModelConfig, vocab_size: int, row_length: int | None) -> Costs:
    """The costs of a model, built block by block without storage: equal blocks once.

    Args:
        config: of the model.
        vocab_size: token ids.
        row_length: tokens of a training row; None: not known.

    Raises:
        ConfigError: the model cannot be built.
    """
    length, state_bytes, flops, failure = row_length or ASSUMED_ROW, None, None, ""
    parameters, memory_bytes = parameters_of(config, vocab_size), memory_size(config)
    try:
        state_bytes = state_size(config, length)
        flops = forward_flops(config, vocab_size, length)
    except (Exception, SystemExit) as error:  # a plug-in without a formula is run, and may fail in any way
        failure = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return Costs(parameters, memory_bytes, state_bytes, flops, row_length, failure)


def memory_size(config: ModelConfig) -> int:
    """Bytes of memory state of one sequence in float32, over all layers; 0 for a model without a memory."""
    with_memory = (block for block in config.stack() if _block_shape(*block, config.dim).has_memory)
    return sum(block.memory.state_size(config.dim) for block in with_memory)


def state_size(config: ModelConfig, length: int) -> int:
    """Bytes of all state of one sequence, in float32: the most between two tokens of a row of `length`."""
    return sum(block.architecture.state_size(config.dim, block.memory, length) for block in config.stack())


def forward_flops(config: ModelConfig, vocab_size: int, length: int) -> float:
    """Operations a token of the forward pass, averaged over a row of `length` tokens.

    The blocks', 6 dim width for each feed-forward layer and 2 dim vocabulary for the output layer; the embedding is
    looked up and counts nothing.
    """
    blocks = sum(block.architecture.flops(config.dim, block.memory, length) for block in config.stack())
    width = feed_forward_width(config.dim, config.expansion) if config.expansion else 0
    return blocks + 6 * config.dim * width * config.layers + 2 * config.dim * vocab_size


class _BlockShape(NamedTuple):
    """What a block without storage tells."""

    parameters: int
    has_memory: bool


@remembered
def _block_shape(architecture: ArchitectureConfig, memory: MemoryConfig, dim: int) -> _BlockShape:
    with shapes_only():
        block = architecture.build(dim, memory)
    return _BlockShape(parameter_count(block), any(isinstance(part, MemoryModule) for part in block.modules()))


def parameters_of(config: ModelConfig, vocab_size: int) -> int:
    """Number of trained parameters.

    Raises:
        ConfigError: the model cannot be built.
    """
    try:
        blocks = sum(_block_shape(*block, config.dim).parameters for block in config.stack())
    except ConfigError:
        meta_model(config, vocab_size)  # says which layer it is
        raise
    with shapes_only():
        layer = parameter_count(FeedForward(config.dim, config.expansion)) if config.expansion else 0
    return blocks + config.layers * layer + (2 * vocab_size + 1) * config.dim
