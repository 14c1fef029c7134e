"""Which blocks a model is a stack of: a pattern repeated over its layers, then what single layers have otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, SerializeAsAny

from titanlab.platform.architecture import ARCHITECTURES, ArchitectureConfig
from titanlab.platform.config import Config, validation_error
from titanlab.platform.layer_overrides import Block, override_blocks, parse_overrides, source
from titanlab.platform.memory import MEMORY_MODULES, MemoryConfig


class PatternEntry(Config):
    """One or several equal blocks of a pattern; what it leaves out is the model's own."""

    repeat: int = Field(1, ge=1, le=1024)
    """How many such blocks follow one another."""
    architecture: Annotated[
        SerializeAsAny[ArchitectureConfig] | None,
        BeforeValidator(lambda value: None if value is None else ARCHITECTURES.resolve(value)),
    ] = Field(None, exclude_if=lambda value: value is None)
    """How these blocks combine memory and attention; by default the model's `architecture`."""
    memory: Annotated[
        SerializeAsAny[MemoryConfig] | None,
        BeforeValidator(lambda value: None if value is None else MEMORY_MODULES.resolve(value)),
    ] = Field(None, exclude_if=lambda value: value is None)
    """Their memory; by default the model's `memory`."""


class StackPlan(NamedTuple):
    """How a model's configuration writes its stack."""

    base: Block
    """What a layer is built from where nothing else is said."""
    layers: int
    pattern: Sequence[PatternEntry]
    overrides: Mapping[str, Any]

    def blocks(self) -> list[Block]:
        """What each layer is built from as written, before a memory takes its layer's own settings.

        Raises:
            ValidationError: located below `layers` or `overrides`.
        """
        base = self.base
        made = [Block(entry.architecture or base.architecture, entry.memory or base.memory) for entry in self.pattern]
        blocks = [made[number] for number in self._pattern_numbers()] or [base] * self.layers
        return override_blocks(blocks, parse_overrides(self.overrides, self.layers)) if self.overrides else blocks

    def place(self, index: int, path: tuple[str, ...]) -> tuple[str | int, ...]:
        """Where the configuration sets `("memory", "heads")` of a layer: `("pattern", 1, "memory", "heads")`."""
        overrides = parse_overrides(self.overrides, self.layers)
        found = source([override for override in overrides if index in override.layers], path)
        if found is not None:
            return ("overrides", found[0].key, *found[1])
        numbers = self._pattern_numbers()
        in_pattern = bool(numbers) and getattr(self.pattern[numbers[index]], path[0], None) is not None
        return ("pattern", numbers[index], *path) if in_pattern else path

    def _pattern_numbers(self) -> list[int]:
        """For each layer the number of its entry in the pattern."""
        once = [number for number, entry in enumerate(self.pattern) for _ in range(entry.repeat)]
        if once and self.layers % len(once):
            below = self.layers // len(once) * len(once)
            fitting = " or ".join(str(count) for count in (below, below + len(once)) if count)
            message = (
                f"{self.layers} layers are no multiple of the {len(once)} blocks of `pattern`; {fitting} would be "
                "(a stack that ends within a pattern is written with `overrides`)"
            )
            raise validation_error("ModelConfig", [(("layers",), message, self.layers)])
        return once * (self.layers // len(once)) if once else []
