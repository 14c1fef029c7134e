"""A language model: embedding, a stack of blocks (architecture, then SwiGLU feed-forward), norm, output layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Self, cast

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from titanlab.platform.architecture import ARCHITECTURES, Architecture, ArchitectureConfig
from titanlab.platform.config import Config, problems_of, validation_error
from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.fused_kernels.choice import kernels_take
from titanlab.platform.fusion import fusible
from titanlab.platform.keys import layer_key
from titanlab.platform.layer_overrides import Block
from titanlab.platform.memory import MEMORY_MODULES, MemoryConfig
from titanlab.platform.norms import RMSNorm
from titanlab.platform.shapes import shapes_only
from titanlab.platform.stack import PatternEntry, StackPlan
from titanlab.platform.switch import as_now
from titanlab.platform.tensors import Hidden, Ids, Logits, State
from titanlab.platform.wavefront import in_wavefront

LOGITS_AT_ONCE = 1 << 26
"""Logits that a loss holds where it does not hold all of them: 256 MB in float32."""


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
    pattern: list[PatternEntry] = Field(default_factory=list)
    """Blocks that follow one another and repeat until `layers` are filled; empty: every block is `architecture` with
    `memory`."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """What single layers have otherwise: `layers.WHICH.SETTING` to a value, WHICH being `3`, `-1`, `3-6`, `0,2,5` or
    `*`, SETTING `memory`, `memory.depth`, `architecture`, `architecture.heads`, ..."""

    @model_validator(mode="before")
    @classmethod
    def _layers_are_overridden(cls, value: Any) -> Any:
        keys = [str(key) for key in value if layer_key(str(key))] if isinstance(value, Mapping) else []
        if keys:
            message = "settings of single layers stand under `overrides`: write overrides: {{{}: ...}}"
            raise validation_error("ModelConfig", [((key,), message.format(key), value[key]) for key in keys])
        return value

    @model_validator(mode="after")
    def _stack_is_whole(self) -> Self:
        if self.is_mixed:
            self.stack_plan.blocks()
        return self

    @property
    def is_mixed(self) -> bool:
        """Whether blocks may differ by more than their layer."""
        return bool(self.pattern or self.overrides)

    @property
    def stack_plan(self) -> StackPlan:
        """How the stack is written."""
        return StackPlan(Block(self.architecture, self.memory), self.layers, self.pattern, self.overrides)

    def stack(self) -> tuple[Block, ...]:
        """The blocks from the first to the last, each with its layer's own settings."""
        blocks = self.stack_plan.blocks()
        return tuple(
            Block(block.architecture, block.memory.for_layer(index, self.layers)) for index, block in enumerate(blocks)
        )

    def identity(self) -> dict[str, Any]:
        """See `Config.identity`; of a mixed stack what its layers are, however pattern and overrides spell it."""
        if not self.is_mixed:
            return super().identity()
        blocks = self.stack_plan.blocks()
        plain = self.replace(pattern=[], overrides={}, **blocks[0]._asdict()).identity()
        layers = [{part: config.identity() for part, config in block._asdict().items()} for block in blocks]
        if all(layer == layers[0] for layer in layers):
            return plain
        return {key: value for key, value in plain.items() if key not in Block._fields} | {"stack": layers}

    def build(self, vocab_size: int) -> Model:
        """The model with freshly initialised weights (torch's random state decides them)."""
        return Model(self, vocab_size)


def feed_forward_width(dim: int, expansion: float) -> int:
    """Hidden units of the feed-forward layer, a multiple of 8."""
    return max(8, -(-int(dim * expansion) // 8) * 8)


class FeedForward(nn.Module):
    """SwiGLU: y = (silu(x W_1) * (x W_2)) W_3 (Shazeer, arXiv 2002.05202, eq. 5)."""

    def __init__(self, dim: int, expansion: float) -> None:
        super().__init__()
        width = feed_forward_width(dim, expansion)
        self.norm = RMSNorm(dim)
        self.up = nn.Linear(dim, 2 * width, bias=False)
        self.down = nn.Linear(width, dim, bias=False)

    def forward(self, x: Hidden) -> Hidden:
        return x + self.down(swiglu(self.up(self.norm(x))))


def swiglu(x: Hidden) -> Hidden:
    """silu(a) b of x = [a | b], in one pass where it can be had."""
    if kernels_take(x):
        from titanlab.platform.fused_kernels.gated_halves import gated_halves

        return gated_halves(x)
    return _swiglu_in_torch(x)


@fusible
def _swiglu_in_torch(x: Hidden) -> Hidden:
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


class Model(nn.Module):
    """`model(ids, state=None) -> (logits, state)`; feeding a sequence in pieces gives the same logits as one call."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        stack = config.stack()
        self.embedding = nn.Embedding(vocab_size, config.dim)
        self.blocks = nn.ModuleList(_build_block(config, index, block) for index, block in enumerate(stack))
        self.feed_forwards = nn.ModuleList(
            FeedForward(config.dim, config.expansion) if config.expansion else nn.Identity() for _ in stack
        )
        self.norm = RMSNorm(config.dim)
        self.head = nn.Linear(config.dim, vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def initial_state(self, batch: int) -> list[State]:
        """The state of every block before the first token."""
        return [cast(Architecture, block).initial_state(batch) for block in self.blocks]

    def forward(self, ids: Ids, state: list[State] | None = None) -> tuple[Logits, list[State]]:
        """Logits [b, t, vocab] for the token after each position, and the state after the last one."""
        x, after = self.hidden(ids, state)
        return self.head(x), after

    def hidden(
        self, ids: Ids, state: list[State] | None = None, *, recompute: bool = False, piece: int = 0
    ) -> tuple[Hidden, list[State]]:
        """As `forward`, but what the output layer `head` takes, [b, t, dim].

        Args:
            recompute: whether the gradient computes each layer again from its input, in place of what it would keep.
            piece: tokens of the pieces that the row is computed in, several at once (see `wavefront`); 0: all at once.

        Raises:
            ValueError: not one state a block, a negative `piece`, or one with `recompute`.
        """
        if piece < 0:
            raise ValueError(f"piece: expected a number of tokens, or 0 for all at once, got {piece}")
        if piece and recompute:
            raise ValueError("piece: pieces share what is made of weights, so none is computed again; leave one out")
        states = self.initial_state(ids.shape[0]) if state is None else state
        layers = [partial(_layer, *pair) for pair in zip(self.blocks, self.feed_forwards, strict=True)]
        if recompute:
            layers = [partial(recomputed, layer) for layer in layers]
        x, after = in_wavefront(layers, self.embedding(ids), states, piece or max(1, ids.shape[1]))
        return self.norm(x), after


def _layer(block: nn.Module, feed_forward: nn.Module, x: Hidden, state: State) -> tuple[Hidden, State]:
    x, state = block(x, state)
    return feed_forward(x), state


def recomputed(layer: Callable[[Hidden, State], tuple[Hidden, State]], x: Hidden, state: State) -> tuple[Hidden, State]:
    """The layer, of which the gradient keeps x and the state alone and computes the rest a second time."""
    as_here = as_now()  # the gradient may be taken in another thread, which does not know

    def again(x: Hidden, state: State) -> tuple[Hidden, State]:
        with as_here():
            return layer(x, state)

    return checkpoint(again, x, state, use_reentrant=False)


def _build_block(config: ModelConfig, index: int, block: Block) -> Architecture:
    """One block; what it refuses is told at the pattern's entry or the override that set it."""
    try:
        return block.architecture.build(config.dim, block.memory)
    except ConfigError as error:
        if not config.is_mixed:
            raise
        raise ConfigError([_in_layer(problem, config, index) for problem in error.problems]) from None


def _in_layer(problem: Problem, config: ModelConfig, index: int) -> Problem:
    block, *path = problem.path.split(".")
    if block != "model" or not path:
        return problem
    place = config.stack_plan.place(index, tuple(path))
    return Problem(f"layer {index}: {problem.message}", ".".join(map(str, ("model", *place))))


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
