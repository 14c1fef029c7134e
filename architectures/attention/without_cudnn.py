"""Leaves cuDNN's attention out for a while.

It plans a kernel for each shape anew, which takes tens of milliseconds: too long for shapes that do not come again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch


class _Switch:
    """torch has one for the whole process: off while any thread wants it off, then as it was."""

    def __init__(self) -> None:
        self.lock, self.users, self.before = Lock(), 0, True

    def enter(self) -> None:
        with self.lock:
            if self.users == 0:
                self.before = torch.backends.cuda.cudnn_sdp_enabled()
                torch.backends.cuda.enable_cudnn_sdp(False)
            self.users += 1

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                torch.backends.cuda.enable_cudnn_sdp(self.before)


_SWITCH = _Switch()


@contextmanager
def without_cudnn() -> Iterator[None]:
    """Within it, in every thread, torch takes another of its kernels."""
    _SWITCH.enter()
    try:
        yield
    finally:
        _SWITCH.leave()
