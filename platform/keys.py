"""Dotted keys of a run: `model.memory.depth` names a setting by the blocks around it."""

from __future__ import annotations

_LAYERS = ("model", "overrides")
_WITH_BASE = ("base", *_LAYERS)


def key_path(key: str) -> tuple[str, ...]:
    """The parts of a dotted key; what follows `model.overrides` is one key of that block, dots and all.

    `model.memory.depth` has three parts, and so has `model.overrides.layers.3-6.memory.depth`.
    """
    parts = tuple(key.split("."))
    for block in (_LAYERS, _WITH_BASE):
        if parts[: len(block)] == block and len(parts) > len(block):
            return (*block, ".".join(parts[len(block) :]))
    return parts


def layer_key(key: str) -> str | None:
    """The right spelling of a key that reaches for the settings of single layers in some other way, or None.

    `model.layers.3-6.memory.depth` and `layers.3-6.memory.depth` are `model.overrides.layers.3-6.memory.depth`.
    """
    parts = key.removeprefix("base.").removeprefix("model.").split(".")
    return ".".join((*_LAYERS, *parts)) if parts[0] == "layers" and len(parts) > 1 else None
