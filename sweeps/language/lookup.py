"""What a run says under a dotted key, before the run is validated: its written settings, else their defaults."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from titanlab.platform.errors import nearest
from titanlab.platform.keys import key_path
from titanlab.platform.run_config import RunConfig
from titanlab.sweeps.language.conditions import ABSENT, Lookup


class Lookups:
    """Look-ups into many runs of one sweep; the defaults of one choice of types are found once."""

    def __init__(self) -> None:
        self._defaults: dict[str, dict[str, Any]] = {}

    def of(self, run: Mapping[str, Any]) -> Lookup:
        """The look-up into a run as it is written; a block that cannot be told has no defaults."""

        def look(key: str) -> Any:
            path = key_path(key)
            value = _at(run, path)
            return _at(self.defaults(run), path) if value is ABSENT else value

        return look

    def defaults(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """All settings of the run that chooses the same types and leaves everything else out."""
        types = _types(run)
        key = json.dumps(types, sort_keys=True, default=repr)
        if key not in self._defaults:
            try:
                self._defaults[key] = RunConfig.model_validate(types).settings()
            except ValidationError:  # an unknown type: the cell is refused for it when it is validated
                self._defaults[key] = {}
        return self._defaults[key]

    def known_keys(self) -> set[str]:
        """The dotted key of every default that was looked at."""
        return {key for defaults in self._defaults.values() for key in dotted_keys(defaults)}


def _at(block: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = block
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return ABSENT
        value = value[key]
    return value


def _types(block: Mapping[str, Any]) -> dict[str, Any]:
    blocks = {key: value for key, value in block.items() if isinstance(value, Mapping) and key != "overrides"}
    inner = {key: _types(value) for key, value in blocks.items()}
    kept: dict[str, Any] = {key: value for key, value in inner.items() if value}
    return {"type": block["type"], **kept} if "type" in block else kept


def dotted_keys(block: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted key of every setting within a block."""
    keys = []
    for key, value in block.items():
        keys += dotted_keys(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [f"{prefix}{key}"]
    return keys


def unknown_key(key: str, known: Iterable[str]) -> str:
    """What to say of a key in a condition that no run has; the keys of a run are too many to list."""
    guess = nearest(key, known)
    hint = f"; did you mean '{guess}'?" if guess else "; `titanlab list` shows the settings of every kind"
    return f"no run of the sweep has a key '{key}'{hint}"
