"""How much memory a training step is likely to take, estimated before one is made.

Weights, gradients and the two moments of AdamW are four numbers of 4 bytes a parameter. Activations are what autograd
keeps from the forward pass for the backward pass: a block of the stack is run on the CPU over one short row and over
one twice as long, what is kept is added up, and the line through both leads to the whole row; the feed-forward layer
and the loss are counted. All in float32: under bfloat16 autocast a part of it takes half. What a step needs for a
moment only, and what torch itself takes (some tens of megabytes), are not in it: expect a tenth to a fifth more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from titanlab.platform.architecture import ArchitectureConfig
from titanlab.platform.costs import ASSUMED_ROW, parameters_of
from titanlab.platform.errors import TitanlabError
from titanlab.platform.memory import MemoryConfig
from titanlab.platform.model import LOGITS_AT_ONCE, FeedForward, parameter_count
from titanlab.platform.operations import remembered
from titanlab.platform.recomputation import always_again
from titanlab.platform.run_config import RunConfig
from titanlab.platform.shapes import shapes_only

NUMBERS = 4
"""Of a parameter: the weight, its gradient and AdamW's two moments."""
FLOAT = 4
LARGEST_BLOCK = 20_000_000
"""Parameters of a block beyond which it is not run to find out."""
SHORTEST, LONGEST = 16, 256
"""Tokens of the shorter row."""


class TrainingMemory(NamedTuple):
    """Bytes that a step of training takes."""

    parameters: int
    """Weights, gradients and moments."""
    activations: int | None
    """Kept for the backward pass; None: not known."""
    failure: str = ""
    """Why it is not."""

    @property
    def total(self) -> int:
        """What is known of it."""
        return self.parameters + (self.activations or 0)


def training_memory(config: RunConfig) -> TrainingMemory:
    """The memory of one step of a run, on one device.

    Raises:
        ConfigError: the model cannot be built.
    """
    model, task = config.model, config.task
    length = task.row_length or ASSUMED_ROW
    rows = config.train.batch_size // config.train.accumulate
    parameters = NUMBERS * FLOAT * parameters_of(model, task.vocab_size)
    try:
        blocks = [_of_block(block.architecture, block.memory, model.dim, length) for block in model.stack()]
    except (Exception, SystemExit) as error:  # a plug-in is run, and may fail in any way
        kind = "" if isinstance(error, TitanlabError) else f"{type(error).__name__}: "
        return TrainingMemory(parameters, None, kind + str(error).partition(". ")[0])
    feed_forward = length * _of_feed_forward(model.dim, model.expansion) if model.expansion else 0
    layers = sum(blocks) + model.layers * feed_forward
    if config.train.checkpoint_blocks:  # each layer's input, and the layer that is computed again
        layers = max(blocks) + feed_forward + model.layers * length * FLOAT * model.dim
    # Embedding and last norm; the logarithms of the probabilities, and two gradients of that size as backward begins.
    logits = rows * length * task.vocab_size
    if config.train.loss != "whole" and (config.train.loss != "auto" or logits > LOGITS_AT_ONCE):
        logits = min(logits, LOGITS_AT_ONCE)
    return TrainingMemory(parameters, round(rows * (layers + length * FLOAT * 2 * model.dim) + FLOAT * 3 * logits))


class _TooLargeError(Exception):
    """A block that is not worth running here."""


@remembered
def _of_block(architecture: ArchitectureConfig, memory: MemoryConfig, dim: int, length: int) -> float:
    """Bytes that a block keeps of one row."""
    with shapes_only():
        size = parameter_count(architecture.build(dim, memory))
    if size > LARGEST_BLOCK:
        raise _TooLargeError(f"a block of {size:,} parameters is not run here to find out")

    def kept(tokens: int) -> int:
        block = architecture.build(dim, memory)
        return _kept(block, lambda x: block(x, block.initial_state(1))[0], tokens, dim)

    pieces = (dict(memory).get("chunk_size") or 0, dict(architecture).get("segment") or 0)
    short = min(max(SHORTEST, *pieces), LONGEST)
    if length <= 2 * short:
        return kept(length)
    first, second = kept(short), kept(2 * short)
    return second + (second - first) * (length - 2 * short) / short


@remembered
def _of_feed_forward(dim: int, expansion: float) -> float:
    """Bytes that a feed-forward layer keeps of one token."""
    layer = FeedForward(16, expansion)
    return _kept(layer, layer, SHORTEST, 16) / SHORTEST * dim / 16


def _kept(module: nn.Module, forward: Callable[[Tensor], Tensor], tokens: int, dim: int) -> int:
    """Bytes of what autograd keeps of a forward pass over one row, parameters apart, each storage once."""
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.random.fork_rng(devices=[]), torch.enable_grad(), always_again():
        x = torch.randn(1, tokens, dim).requires_grad_()
        own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = forward(x)
        size = sum(storage.nbytes() for place, storage in storages.items() if place not in own)
    del y
    return size
