"""Settings, metrics and tags in MLflow's alphabet and sizes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

LONGEST_KEY = 250
LONGEST_VALUE = 5000  # of a param or a tag; every MLflow store takes this much


def dotted_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """A nested configuration as params: `model.memory.depth` -> `2`; a list of blocks is numbered, `layers.0.dim`."""
    values: dict[str, str] = {}
    _flatten("", settings, values)
    params: dict[str, str] = {}
    for key, value in values.items():
        name = clean_key(key)
        params[name if name not in params else _marked(name, key)] = value
    return params


def _flatten(prefix: str, value: Any, values: dict[str, str]) -> None:
    if isinstance(value, Mapping) and value:
        entries = [(str(key), entry) for key, entry in value.items()]
    elif isinstance(value, list) and any(isinstance(entry, Mapping | list) for entry in value):
        entries = [(str(index), entry) for index, entry in enumerate(value)]
    else:
        values[prefix] = value_text(value)
        return
    for key, entry in entries:
        _flatten(f"{prefix}.{key}" if prefix else key, entry, values)


def value_text(value: Any) -> str:
    """A setting as text: words as they are, everything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text[:LONGEST_VALUE]


def clean_key(key: str) -> str:
    """A key in the alphabet that MLflow takes for params, metrics and tags; `layers.*` reads `layers.all`.

    A key that is too long ends in a mark of its own, so that two that begin alike stay two.
    """
    name = re.sub(r"[^A-Za-z0-9_\-. /]", "_", key.replace(".*", ".all"))
    return name if len(name) <= LONGEST_KEY else _marked(name, key)


def _marked(name: str, key: str) -> str:
    """A name with a mark of the key it stands for."""
    return f"{name[: LONGEST_KEY - 9]}_{hashlib.sha256(key.encode()).hexdigest()[:8]}"
