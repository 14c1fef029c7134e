"""The sizes of whole models by name, and models of one size that differ in architecture and memory alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import ValidationError

from titanlab.platform.architecture import ARCHITECTURES, ArchitectureConfig
from titanlab.platform.config import problems_of
from titanlab.platform.costs import parameters_of
from titanlab.platform.errors import ConfigError
from titanlab.platform.memory import MEMORY_MODULES, MemoryConfig
from titanlab.platform.model import ModelConfig

SWIGLU = 8 / 3
"""Hidden width of the transformer's feed-forward layer over the model's: as many weights as one of 4 without a gate."""


class Size(NamedTuple):
    """A model's size."""

    layers: int
    dim: int
    heads: int
    vocabulary: int = 32_000


SIZES = {
    "tiny": Size(2, 128, 4, 256),
    "60M": Size(8, 512, 8),
    "170M": Size(12, 768, 16),
    "340M": Size(24, 1024, 16),
    "760M": Size(24, 1536, 16),
}
"""170M, 340M and 760M have the layers, dim and heads of Titans (arXiv 2501.00663, section 5.1); tiny is for tests."""


@dataclass(frozen=True)
class Parts:
    """What models of every size are made with."""

    memory: str = "titans"
    depth: int = 2
    expansion: float = 4.0
    """Hidden width of a deep memory over the head dimension."""
    chunk_size: int = 64
    window: int = 1024
    """Segment of mac, window of mag, mal and sliding_window."""
    persistent: int = 16
    attention: str = "auto"
    """What computes attention in every architecture that has it."""
    matched: bool = True
    """Whether the feed-forward layer is made so wide that each model has as many parameters as the transformer."""

    def __str__(self) -> str:
        has = MEMORY_MODULES[self.memory].model_fields
        given = {"depth": self.depth, "expansion": f"{self.expansion:g}", "chunk_size": self.chunk_size}
        settings = [f"{key.replace('_size', '')} {value}" for key, value in given.items() if key in has]
        return ", ".join([self.memory, *settings, f"window {self.window}"])


def model_of(architecture: str, size: Size, parts: Parts) -> ModelConfig:
    """A model of a size.

    Raises:
        ConfigError: the architecture or memory cannot be built at these settings.
    """
    try:
        model = ModelConfig(
            dim=size.dim,
            layers=size.layers,
            expansion=SWIGLU,
            architecture=_architecture(architecture, size, parts),
            memory=_memory(size, parts),
        )
        return matched(model, size, parts) if parts.matched else model
    except ValidationError as error:
        raise ConfigError(problems_of(error, lambda path: (option_of(path), None))) from None


def option_of(path: tuple[str | int, ...]) -> str:
    """The command line's option by which a setting of a part is given; of several together, none."""
    name = "window" if path[-1:] == ("segment",) else ".".join(map(str, path))
    return name and "--" + name.replace("_", "-")


def matched(model: ModelConfig, size: Size, parts: Parts) -> ModelConfig:
    """The model, its feed-forward layer as wide as the transformer's number of parameters leaves room for."""
    transformer = model.replace(architecture=_architecture("transformer", size, parts))
    target, multiple = parameters_of(transformer, size.vocabulary), 8 if size.dim < 512 else 64
    without = parameters_of(model.replace(expansion=0), size.vocabulary) + model.layers * size.dim
    width = (target - without) / (3 * size.dim * model.layers)
    return model.replace(expansion=max(multiple, multiple * round(width / multiple)) / size.dim)


def _architecture(name: str, size: Size, parts: Parts) -> ArchitectureConfig:
    settings = {
        "heads": size.heads,
        "segment": parts.window,
        "window": parts.window,
        "persistent": parts.persistent,
        "attention": parts.attention,
    }
    return ARCHITECTURES.resolve(_known(ARCHITECTURES[name], name, settings))


def _memory(size: Size, parts: Parts) -> MemoryConfig:
    settings = {
        "heads": size.heads,
        "depth": parts.depth,
        "expansion": parts.expansion,
        "chunk_size": parts.chunk_size,
    }
    return MEMORY_MODULES.resolve(_known(MEMORY_MODULES[parts.memory], parts.memory, settings))


def _known(kind: Any, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a kind has."""
    return {"type": name, **{key: value for key, value in settings.items() if key in kind.model_fields}}
