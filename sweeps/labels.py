"""What people read instead of dotted keys: `depth=2 momentum=token`, `architecture=transformer`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def variants(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label for each point (dotted key -> value), as short as stays clear; a point without settings is `base`."""
    names = _short_names({key for point in points for key in point})
    blocks = _block_labels(points)
    labels = []
    for point in points:
        words = [f"{names[key]}={blocks.get(_canonical(value)) or _text(value)}" for key, value in point.items()]
        labels.append(" ".join(words) or "base")
    return labels


def _short_names(keys: Iterable[str]) -> dict[str, str]:
    """The shortest ending of each dotted key that no other key shares; `model.memory.type` reads as `memory`."""
    parts = {key: _reading_parts(key) for key in keys}
    names = {}
    for key, own in parts.items():
        others = [other for name, other in parts.items() if name != key]
        length = next(
            (n for n in range(1, len(own) + 1) if all(other[-n:] != own[-n:] for other in others)),
            len(own),
        )
        names[key] = ".".join(own[-length:])
    return names


def _reading_parts(key: str) -> list[str]:
    parts = key.split(".")
    return parts[:-1] if parts[-1] == "type" and len(parts) > 1 else parts


def _block_labels(points: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Mappings by their type, and by the settings that tell them apart where several have the same type."""
    by_type: dict[Any, list[Mapping[str, Any]]] = {}
    for point in points:
        for value in point.values():
            if isinstance(value, Mapping) and value not in by_type.setdefault(value.get("type"), []):
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


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value, default=str)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
