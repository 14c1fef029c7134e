"""A text stream whose end is nobody's problem: a sweep outlives the terminal that it was started from."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TextIO


class LastingStream:
    """Writes to a stream for as long as it takes what is written; afterwards nothing is said, and nothing is raised.

    Args:
        stream: a terminal that may be closed, a pipe whose reader may leave, or a file on a disk that may be full.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As much as the stream takes."""
        with suppress(OSError, ValueError):  # ValueError: it was closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hands over what was written, if it can be."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Whether a person reads it."""
        try:
            return self._stream.isatty()
        except ValueError:
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
