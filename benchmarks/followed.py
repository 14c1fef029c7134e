"""A benchmark that is followed while it runs: what is measured next, and what was found so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from titanlab.benchmarks.result import Result


@dataclass(frozen=True, kw_only=True)
class Followed:
    """What every benchmark has beside its settings."""

    tell: Callable[[str], None] = field(default=lambda text: None, compare=False)
    """Is told what is measured next."""
    keep: Callable[[Result], None] = field(default=lambda result: None, compare=False)
    """Is given all that was measured so far: before the first row, once a model could be built, so that no older result
    is taken for this one, and after every row, so that what is cut has not run for nothing."""

    def plain_settings(self, *apart: str) -> dict[str, Any]:
        """What the JSON file has as it stands: all but the fields named and those above."""
        return {key: value for key, value in self.__dict__.items() if key not in {"tell", "keep", *apart}}
