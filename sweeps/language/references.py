"""Published values that a sweep's report draws beside its own."""

from __future__ import annotations

from pydantic import Field

from titanlab.platform.config import Config


class Reference(Config):
    """A value that somebody published."""

    name: str = Field(min_length=1, max_length=200)
    """What reached it, as in `Titans LMM, 400M`."""
    value: float = Field(allow_inf_nan=False)
    """The value, in the unit of the metric."""
    source: str = Field(min_length=1, max_length=1000)
    """Where it stands: paper and table, or an address."""
    metric: str | None = Field(None, min_length=1, max_length=200)
    """What was measured, by this task's name for it (`final/accuracy`); by default the sweep's objective."""
