"""Which attention backend takes a call."""

from __future__ import annotations

from titanlab.architectures.attention.backend import AttentionBackend, Pattern, Queries
from titanlab.architectures.attention.sdpa import SdpaBackend

BACKENDS: tuple[AttentionBackend, ...] = (SdpaBackend(),)
"""In order of preference; the last one takes everything."""


def select(q: Queries, pattern: Pattern) -> AttentionBackend:
    """The first backend that supports these queries under this pattern."""
    return next(backend for backend in BACKENDS if backend.supports(q, pattern))
