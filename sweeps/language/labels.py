"""What people read instead of dotted keys: `depth=2 momentum=token`, `architecture=transformer`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from titanlab.platform.keys import key_path
from titanlab.platform.printable import visible_line

_PARTS = ("architecture", "memory")
"""The blocks of settings that an entry of `model.pattern` has."""


def variants(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label for each point (dotted key -> value), as short as stays clear; a point without settings is `base`."""
    names = _short_names({key for point in points for key in point})
    blocks = _block_labels(points)
    labels = []
    for point in points:
        words = [f"{names[key]}={_value_text(value, blocks)}" for key, value in point.items()]
        labels.append(" ".join(words) or "base")
    return labels


def _short_names(keys: Iterable[str]) -> dict[str, str]:
    """The shortest ending of each dotted key that no other key shares; `model.memory.type` reads as `memory`.

    A key of single layers says which: `model.overrides.layers.3-6.memory.depth` reads as `layers.3-6.depth`.
    """
    parts = {key: _reading_parts(key) for key in keys}
    names = {}
    for key, (layers, own) in parts.items():
        others = [other for name, (same, other) in parts.items() if name != key and same == layers]
        length = next(
            (n for n in range(1, len(own) + 1) if all(other[-n:] != own[-n:] for other in others)),
            len(own),
        )
        names[key] = layers + ".".join(own[-length:])
    return names


def _reading_parts(key: str) -> tuple[str, list[str]]:
    """The layers that a key is about (none: all of them), and its parts."""
    path = key_path(key)
    layers, parts = "", list(path)
    if path[:-1] == ("model", "overrides") and path[-1].count(".") >= 2:
        word, which, *parts = path[-1].split(".")
        layers = f"{word}.{which}."
    return layers, parts[:-1] if parts[-1] == "type" and len(parts) > 1 else parts


def _block_labels(points: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Mappings by their type, and by the settings that tell them apart where several have the same type."""
    by_type: dict[Any, list[Mapping[str, Any]]] = {}
    for point in points:
        for value in itertools.chain.from_iterable(map(_blocks_in, point.values())):
            if value not in by_type.setdefault(value.get("type"), []):
                by_type[value.get("type")].append(value)
    labels = {}
    for kind, blocks in by_type.items():
        for block in blocks:
            telling = {
                name: entry
                for name, entry in block.items()
                if name != "type" and not all(name in other and other[name] == entry for other in blocks)
            }
            inner = ",".join(f"{name}={_text(entry)}" for name, entry in telling.items())
            labels[_canonical(block)] = f"{kind or ''}({inner})" if inner else str(kind or _text(block))
    return labels


def _blocks_in(value: Any) -> list[Mapping[str, Any]]:
    """The blocks of settings that a value is, or that a pattern of blocks names."""
    if _is_pattern(value):
        return [entry[part] for entry in value for part in _PARTS if isinstance(entry.get(part), Mapping)]
    return [value] if isinstance(value, Mapping) else []


def _is_pattern(value: Any) -> bool:
    names = {"repeat", *_PARTS}
    return isinstance(value, list) and bool(value) and all(isinstance(e, Mapping) and e.keys() <= names for e in value)


def _value_text(value: Any, blocks: Mapping[str, str]) -> str:
    """A value as a label shows it; of a pattern its blocks, `3(lmm/lightning)+transformer`."""
    if not _is_pattern(value):
        return blocks.get(_canonical(value)) or _text(value)
    entries = []
    for entry in value:
        parts = [_value_text(entry[part], blocks) for part in _PARTS if entry.get(part) is not None]
        count, name = entry.get("repeat", 1), "/".join(parts) or "base"
        entries.append(name if count == 1 else f"{_text(count)}({name})")
    return "+".join(entries)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return visible_line(value)
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value, default=str)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
