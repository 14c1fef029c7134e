"""What the fields of a sweep accept where a type is too coarse to say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from titanlab.platform.config import shown_value, validation_error
from titanlab.platform.errors import unknown_name
from titanlab.platform.run_config import LARGEST_SEED

MAX_SEEDS = 1000
ABLATION_MODES = ("one_at_a_time", "leave_one_out", "both")


def seeds_of(value: Any) -> Any:
    """A count or a list as the tuple of seeds it stands for."""
    if isinstance(value, tuple):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= MAX_SEEDS:
            raise ValueError(f"expected a count from 1 to {MAX_SEEDS} or a list of seeds, got {value}")
        return tuple(range(value))
    if not isinstance(value, list):
        raise ValueError(f"expected a count or a list of seeds, as in `2` or `[0, 1]`, got {shown_value(value)}")
    if not 1 <= len(value) <= MAX_SEEDS:
        raise ValueError(f"expected 1 to {MAX_SEEDS} seeds, got {len(value)}")
    for index, seed in enumerate(value):
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
            message = f"expected a whole number from 0 to {LARGEST_SEED}, got {shown_value(seed)}"
            raise validation_error("seeds", [((index,), message, seed)])
        if seed in value[:index]:
            raise validation_error("seeds", [((index,), f"the seed {seed} stands here twice", seed)])
    return tuple(value)


def ablation_of(value: Any) -> Any:
    """The factors and the mode of an ablation, checked where pydantic's types are too coarse."""
    if value is None:
        return value
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping, dotted key: list of values, got {shown_value(value)}")
    for key, values in value.items():
        if key == "mode":
            if values not in ABLATION_MODES:
                message = unknown_name("mode", values, ABLATION_MODES)
                raise validation_error("ablate", [((key,), message, values)])
        elif not isinstance(values, list) or not values:
            message = f"expected a list of values, as in [none], got {shown_value(values)}"
            raise validation_error("ablate", [((key,), message, values)])
    if not value.keys() - {"mode"}:
        raise ValueError("names no factor; expected dotted key: list of values, as in model.memory.keep: [none]")
    return value


def pair_errors(
    axes: Mapping[str, Sequence[Any]], paired: Sequence[Mapping[str, Sequence[Any]]]
) -> list[tuple[tuple[str | int, ...], str, Any]]:
    """(path, message, value) of each paired key that varies elsewhere too or has another length than its partners."""
    owners = dict.fromkeys(axes, "`axes`")
    errors: list[tuple[tuple[str | int, ...], str, Any]] = []
    for index, group in enumerate(paired):
        first, length = next((key, len(values)) for key, values in group.items())
        for key, values in group.items():
            if key in owners:
                message = f"'{key}' varies in {owners[key]} already; a key varies in one place"
                errors.append((("paired", index, key), message, values))
            elif len(values) != length:
                message = f"has {len(values)} values, but '{first}' beside it has {length}; they vary together"
                errors.append((("paired", index, key), message, values))
            owners.setdefault(key, f"`paired.{index}`")
    return errors
