"""What a sweep will run: its cells and trials, every one of them validated before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from titanlab.platform.run_config import RunConfig


@dataclass(frozen=True)
class Trial:
    """One training run: a cell with a seed."""

    key: str
    """`RunConfig.key`; names the trial's folder and its MLflow run."""
    cell_key: str
    seed: int
    config: RunConfig


@dataclass(frozen=True)
class Cell:
    """One point of the design; its trials differ in their seeds only."""

    key: str
    variant: str
    """What people read: the settings that make this cell, as in `depth=2 momentum=token`."""
    settings: dict[str, Any]
    """Dotted key -> value, for every axis; what the MLflow columns show."""
    trials: tuple[Trial, ...]
    parameters: int
    memory_bytes: int
    """Bytes of memory state a sequence takes, over all layers."""
    is_baseline: bool
