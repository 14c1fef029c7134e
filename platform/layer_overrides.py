"""Settings of single layers: `overrides: {layers.3-6.memory.depth: 3}` over what a stack has otherwise.

A key is `layers.WHICH.BLOCK` for a whole block of settings or `layers.WHICH.BLOCK.SETTING` for one of them. Their order
means nothing: two keys that want different things of the same layer are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, LiteralString, NamedTuple

from pydantic import ValidationError

from titanlab.platform.architecture import ARCHITECTURES, ArchitectureConfig
from titanlab.platform.config import UNKNOWN_KEY, Config, problems_of, shown_value, validation_error
from titanlab.platform.errors import unknown_name
from titanlab.platform.memory import MEMORY_MODULES, MemoryConfig
from titanlab.platform.registry import Registry

PARTS = ("architecture", "memory")
"""The blocks of settings that a layer has."""

_INDEX = re.compile(r"(-?[0-9]{1,9})(?:-(-?[0-9]{1,9}))?")


class Block(NamedTuple):
    """What one block of the stack is built from."""

    architecture: ArchitectureConfig
    memory: MemoryConfig


class LayerOverride(NamedTuple):
    """One entry of `overrides`."""

    key: str
    value: Any
    layers: frozenset[int]
    path: tuple[str, ...]
    """Within a block of the stack: `("memory", "depth")`."""


Fault = tuple[tuple[str, ...], str, Any]
"""A path below `overrides`, what is wrong there, and the value that stands there."""


def parse_overrides(overrides: Mapping[str, Any], layers: int) -> list[LayerOverride]:
    """The entries of `overrides` for a stack of so many layers.

    Raises:
        ValidationError: located at each key that is none, or that contradicts an earlier one.
    """
    parsed, faults = [], []
    for key, value in overrides.items():
        try:
            parsed.append(_parse(key, value, layers))
        except _KeyFault as fault:
            faults.append(((key,), str(fault), value))
    _refuse(faults, UNKNOWN_KEY)
    _refuse(list(_conflicts(parsed)))
    return parsed


class _KeyFault(Exception):
    """What is wrong with a key."""


def _parse(key: str, value: Any, layers: int) -> LayerOverride:
    word, *rest = key.split(".")
    if word != "layers" or not all(rest):
        quote = "; quote a key with a comma within {...}" if re.match(r"[0-9-]", key) else ""
        raise _KeyFault(f"expected layers.WHICH.SETTING, as in layers.3-6.memory.depth{quote}")
    if len(rest) < 2:
        which = rest[0] if rest else "WHICH"
        quote = "; quote a key with a comma within {...}" if value is None else ""
        raise _KeyFault(f"expected what to set there: layers.{which}.memory or layers.{which}.architecture{quote}")
    which, part, *inner = rest
    if part not in PARTS:
        raise _KeyFault(unknown_name("block of a layer", part, PARTS))
    if inner[-1:] == ["type"]:
        raise _KeyFault(f"a type comes with its settings: write layers.{which}.{part}: {{type: {value}}}")
    return LayerOverride(key, value, _layers(which, layers), (part, *inner))


def _layers(which: str, layers: int) -> frozenset[int]:
    """The layers that `3`, `-1`, `3-6`, `0,2,5-7` or `*` mean, counted from 0."""
    if which == "*":
        return frozenset(range(layers))
    found: set[int] = set()
    for piece in which.split(","):
        match = _INDEX.fullmatch(piece)
        if match is None:
            example = "a layer (3), the last (-1), a range (3-6), a list (0,2,5) or all (*)"
            raise _KeyFault(f"expected {example}, got {shown_value(piece)}")
        first = _layer(int(match[1]), layers)
        last = first if match[2] is None else _layer(int(match[2]), layers)
        if last < first:
            raise _KeyFault(f"the range {piece} runs backwards, from layer {first} to layer {last}")
        found.update(range(first, last + 1))
    return frozenset(found)


def _layer(index: int, layers: int) -> int:
    if not -layers <= index < layers:
        held = "one layer, 0" if layers == 1 else f"{layers} layers, 0 to {layers - 1}"
        raise _KeyFault(f"there is no layer {index}: the model has {held}")
    return index % layers


def _conflicts(overrides: Sequence[LayerOverride]) -> Iterator[Fault]:
    """Two entries that want different things of the same setting of the same layer; told at the later one."""
    for earlier, later in combinations(overrides, 2):
        outer, inner = sorted((earlier, later), key=lambda override: len(override.path))
        if inner.path[: len(outer.path)] != outer.path:
            continue
        shared = sorted(earlier.layers & later.layers)
        if shared and not _agree(outer, inner):
            what = f"'{earlier.key}' sets {'.'.join(earlier.path)} of {_named(shared)} too"
            values = f"{shown_value(earlier.value)} there, {shown_value(later.value)} here"
            advice = "narrow one of the two" if outer.path == inner.path else "write the setting into that block"
            yield (later.key,), f"{what}: {values}; {advice}", later.value


def _named(layers: Sequence[int]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]}"
    more = str(layers[-1]) if len(layers) <= 4 else f"{len(layers) - 3} more"
    return f"layers {', '.join(map(str, layers[: min(3, len(layers) - 1)]))} and {more}"


def _agree(outer: LayerOverride, inner: LayerOverride) -> bool:
    """Whether the outer entry's value is, or has, what the inner one wants."""
    held, wanted = outer.value, inner.value
    if len(outer.path) == 1:
        try:
            held = _resolve(outer.path[0], held).settings()
            wanted = _resolve(inner.path[0], wanted).settings() if len(inner.path) == 1 else wanted
        except ValidationError:
            return True  # a block that is wrong by itself is told as such
    for name in inner.path[len(outer.path) :]:
        if not isinstance(held, Mapping) or name not in held:
            return False
        held = held[name]
    return isinstance(held, bool) == isinstance(wanted, bool) and bool(held == wanted)


def override_blocks(blocks: Sequence[Block], overrides: Sequence[LayerOverride]) -> list[Block]:
    """The blocks with their layers' overrides; layers built from the same settings share one object.

    Raises:
        ValidationError: a setting that a block does not have or a value it does not take, located in its entry.
    """
    made: dict[tuple[Any, ...], Block] = {}
    faults: dict[tuple[str, ...], Fault] = {}
    settled = []
    for index, block in enumerate(blocks):
        own = [override for override in overrides if index in override.layers]
        same = (id(block.architecture), id(block.memory), *(override.key for override in own))
        if same not in made:
            made[same] = Block(
                _overridden("architecture", block.architecture, own, index, faults),
                _overridden("memory", block.memory, own, index, faults),
            )
        settled.append(made[same])
    _refuse(list(faults.values()))
    return settled


def _overridden(
    part: str, config: Config, overrides: Sequence[LayerOverride], index: int, faults: dict[tuple[str, ...], Fault]
) -> Any:
    """A block of settings with a layer's overrides; what is wrong with them is added to `faults` once."""
    own = [override for override in overrides if override.path[0] == part]
    inner = sorted((override for override in own if len(override.path) > 1), key=lambda override: len(override.path))
    to_blame: list[LayerOverride] = inner
    try:
        for block in (override for override in own if len(override.path) == 1):
            to_blame = [block]
            config = _resolve(part, block.value)
        to_blame, settings = inner, config.settings() if inner else {}
        for override in inner:
            _put(settings, override)
        return _resolve(part, settings) if inner else config
    except ValidationError as error:
        for problem in problems_of(error, lambda path: (".".join(map(str, path)), None)):
            path = (part, *filter(None, problem.path.split(".")))
            fault = _blame(to_blame, path, problem.message, config, index)
            faults.setdefault(fault[0], fault)
        return config


def _put(settings: dict[str, Any], override: LayerOverride) -> None:
    """Sets one setting of a block given as plain data; a name nobody knows is put too, for the block to refuse."""
    path = override.path[1:]
    for depth, name in enumerate(path[:-1], start=1):
        inner = settings.setdefault(name, {})
        if not isinstance(inner, dict):
            message = f"is {shown_value(inner)}, no block of settings with a '{'.'.join(path[depth:])}' in it"
            raise validation_error("overrides", [(path[:depth], message, override.value)])
        settings = inner
    settings[path[-1]] = override.value


def source(overrides: Sequence[LayerOverride], path: tuple[str, ...]) -> tuple[LayerOverride, tuple[str, ...]] | None:
    """The finest of a layer's overrides that sets, or reaches into, the setting at `path`, and what is left of it."""
    for override in sorted(overrides, key=lambda override: len(override.path), reverse=True):
        length = min(len(path), len(override.path))
        if override.path[:length] == path[:length]:
            return override, path[length:]
    return None


def _blame(
    overrides: Sequence[LayerOverride], path: tuple[str, ...], message: str, config: Config, index: int
) -> Fault:
    """A problem at the override that brought it; where none set just that, the last one made it one."""
    override, rest = source(overrides, path) or (overrides[-1], ())
    if override.path != path[: len(override.path)] and path != override.path[: len(path)]:
        message = f"{'.'.join(path)}: {message}"
    if len(override.path) > 1:
        message = f"{message} (the {path[0]} of layer {index} is '{config.type_name}')"
    elif isinstance(override.value, Mapping) and override.value and "type" not in override.value:
        message = f"{message}; a single setting is written {override.key}.{next(iter(override.value))}"
    return (override.key, *rest), message, override.value


def _resolve(part: str, value: Any) -> Config:
    registry: Registry[Any] = ARCHITECTURES if part == "architecture" else MEMORY_MODULES
    return registry.resolve(value)


def _refuse(faults: Sequence[Fault], kind: LiteralString = "setting") -> None:
    if faults:
        errors = [(("overrides", *path), message, value) for path, message, value in faults]
        raise validation_error("ModelConfig", errors, kind)
