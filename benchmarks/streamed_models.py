"""The models that streaming, needles and decoding are measured with: one of each architecture, or trained ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from titanlab.benchmarks.model_sizes import SIZES, Parts, Size, model_of
from titanlab.benchmarks.timing import free_memory
from titanlab.platform.architecture import ARCHITECTURES
from titanlab.platform.corpora.byte_ids import BYTES
from titanlab.platform.errors import ConfigError, Problem, unknown_name
from titanlab.platform.memory import MEMORY_MODULES, MemoryModule
from titanlab.platform.model import Model, ModelConfig
from titanlab.platform.training.checkpoint import load_model
from titanlab.platform.training.device import own_random_state

STREAMED_SIZES = {"small": Size(4, 512, 8)} | SIZES


class StreamedModel(NamedTuple):
    """A model on its device, in evaluation mode."""

    name: str
    model: Model
    trained: bool


@dataclass(frozen=True)
class StreamedModels:
    """Which models: those of the checkpoints if there are any, else one of each architecture, with random weights.

    Raises:
        ConfigError: an unknown name, or a model that cannot be built at these settings.
    """

    architectures: Sequence[str] = ("mac", "mag", "mal", "lmm", "transformer")
    size: str = "small"
    parts: Parts = Parts()
    checkpoints: Sequence[Path] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        known = (("size", [self.size], STREAMED_SIZES), ("memory", [self.parts.memory], MEMORY_MODULES))
        for what, names, among in (*known, ("architecture", self.architectures, ARCHITECTURES)):
            option = "architectures" if what == "architecture" else what
            for name in names:
                if name not in among:
                    raise ConfigError(Problem(f"--{option}: {unknown_name(what, name, among)}"))
        for name in () if self.checkpoints else self.architectures:  # all of them before any is measured
            self._config(name)

    def built(self, device: torch.device) -> Iterator[StreamedModel]:
        """One after another, so that one at a time takes memory.

        Raises:
            ConfigError: one cannot be built at these settings.
            CheckpointError: a checkpoint cannot be read.
        """
        for checkpoint in self.checkpoints:
            yield StreamedModel(checkpoint.name, load_model(checkpoint).to(device), True)
            free_memory(device)
        for name in () if self.checkpoints else self.architectures:
            yield self._fresh(name, device)
            free_memory(device)

    def __str__(self) -> str:
        if self.checkpoints:
            return f"trained models ({len(self.checkpoints)})"
        size = STREAMED_SIZES[self.size]
        return f"{self.size} ({size.layers} layers, dim {size.dim}, {size.heads} heads), {self.parts}"

    def _config(self, architecture: str) -> ModelConfig:
        return model_of(architecture, STREAMED_SIZES[self.size]._replace(vocabulary=BYTES), self.parts)

    def _fresh(self, architecture: str, device: torch.device) -> StreamedModel:
        config = self._config(architecture)
        with own_random_state(torch.device("cpu")):
            torch.manual_seed(self.seed)
            model = config.build(BYTES)
        return StreamedModel(architecture, model.to(device).eval(), False)


def period_of(model: Model) -> int:
    """After how many tokens a model's state has the same shapes again, its windows once filled; 1 without chunks."""
    periods = [1]
    for block, part in zip(model.config.stack(), model.blocks, strict=True):
        if any(isinstance(module, MemoryModule) for module in part.modules()):
            periods += [_setting(block.memory, "chunk_size"), _setting(block.architecture, "segment")]
    return math.lcm(*periods)


def _setting(config: object, name: str) -> int:
    value = getattr(config, name, None)
    return value if isinstance(value, int) and value > 0 else 1


def settings_of(models: StreamedModels) -> dict[str, object]:
    """As a result's facts have them."""
    if models.checkpoints:
        return {"checkpoints": [str(path) for path in models.checkpoints]}
    return {
        "architectures": list(models.architectures),
        "size": models.size,
        **asdict(models.parts),
        "seed": models.seed,
    }
