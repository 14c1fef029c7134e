"""Whether what is computed will be recorded as a CUDA graph and replayed, or is being recorded.

A kernel that takes Python longer to start, and the GPU less time to run, is the better one in a recording alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ON: ContextVar[bool] = ContextVar("titanlab_recording", default=False)


@contextmanager
def for_replay() -> Iterator[None]:
    """Within it (in this thread), it will be."""
    before = _ON.set(True)
    try:
        yield
    finally:
        _ON.reset(before)


def is_for_replay() -> bool:
    """Whether it will be."""
    return _ON.get()
