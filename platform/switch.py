"""What is off, but within a block of its own: modes that functions far below look up, by thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import ClassVar
from weakref import WeakSet


class Switch:
    """False, but true for as long as a block of `turned` lasts, in the block's thread."""

    every: ClassVar[WeakSet[Switch]] = WeakSet()

    def __init__(self, name: str) -> None:
        self._state: ContextVar[bool] = ContextVar(f"titanlab_{name}", default=False)
        self.every.add(self)

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


def as_now() -> Callable[[], AbstractContextManager[None]]:
    """Makes blocks, for any thread and any time later, in which every switch is as it is at this call. The gradient of
    a GPU's tensors is taken in a thread of its own, where all of them are off."""
    states = [(switch, bool(switch)) for switch in Switch.every]

    @contextmanager
    def block() -> Iterator[None]:
        with ExitStack() as blocks:
            for switch, on in states:
                blocks.enter_context(switch.turned(on))
            yield

    return block
