"""What is off, but within a block of its own: modes that functions far below look up, by thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Switch:
    """False, but true for as long as a block of `turned` lasts, in the block's thread."""

    def __init__(self, name: str) -> None:
        self._state: ContextVar[bool] = ContextVar(f"titanlab_{name}", default=False)

    def __bool__(self) -> bool:
        return self._state.get()

    @contextmanager
    def turned(self, on: bool = True) -> Iterator[None]:
        """On or off within it; blocks may stand in one another."""
        before = self._state.set(on)
        try:
            yield
        finally:
            self._state.reset(before)
