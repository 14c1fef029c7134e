"""`match`: what the cells of a sweep are made equal in, and the width that is varied to that end."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from pydantic import BeforeValidator, Field

from titanlab.platform.config import Config, shown_value
from titanlab.platform.keys import key_path

Measure: TypeAlias = Literal["parameters", "state", "flops"]


def _target(value: Any) -> Any:
    if value == "baseline" or (isinstance(value, int | float) and not isinstance(value, bool) and value > 0):
        return value
    raise ValueError(f"expected baseline or a number greater than 0, got {shown_value(value)}")


def _width(value: Any) -> Any:
    if isinstance(value, str) and (len(path := key_path(value)) < 2 or path[0] != "model" or not all(path)):
        raise ValueError(f"expected the dotted key of a width, as in model.expansion, got {shown_value(value)}")
    return value


class MatchConfig(Config):
    """Brings every cell to the same size by varying one width; solved before anything runs."""

    on: Measure
    """What is made equal: trained parameters, the bytes of all state that a sequence holds, or operations a token."""
    vary: Annotated[str, BeforeValidator(_width)]
    """Dotted key of the number that is varied: `model.expansion`, `model.dim`, `model.memory.heads`, ..."""
    to: Annotated[float | Literal["baseline"], BeforeValidator(_target)] = "baseline"
    """What the cells are brought to: the baseline's own, which stays as written, or a number for all of them."""
    tolerance: float = Field(0.02, gt=0, lt=1)
    """How far off a cell may be, as a fraction; one that is within it as written stays so."""


class Matched(NamedTuple):
    """What a cell was brought to."""

    key: str
    """The dotted key that was varied."""
    value: int | float
    """Its value in the cell."""
    deviation: float
    """How far the cell is off, as a fraction of the target."""
    solved: bool
    """False for a cell that was close enough as written."""

    @property
    def words(self) -> str:
        """`expansion=2.4, +0.31%`."""
        return f"{key_path(self.key)[-1]}={self.value:g}, {self.deviation:+.2%}"
