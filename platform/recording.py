"""Whether what is computed will be recorded as a CUDA graph and replayed, or is being recorded.

A kernel that takes Python longer to start, and the GPU less time to run, is the better one in a recording alone.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from titanlab.platform.switch import Switch

_FOR_REPLAY = Switch("for_replay")


def for_replay() -> AbstractContextManager[None]:
    """Within it (in this thread), it will be."""
    return _FOR_REPLAY.turned()


def is_for_replay() -> bool:
    """Whether it will be."""
    return bool(_FOR_REPLAY)
