"""Being asked to stop: the first signal lets running trials write a checkpoint, the second ends them at once.

Whatever is not over by then - a start-up that hangs - the third ends.
"""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP
PATIENCE = 30.0  # seconds the running trials get for their checkpoints


class Interruption:
    """Turns SIGINT, SIGTERM and SIGHUP into a request that the trials see as a file.

    Args:
        stop_file: what every trial's `should_stop` looks for.
    """

    def __init__(self, stop_file: Path) -> None:
        self.stop_file = stop_file
        self.requested_at = 0.0
        self.signals = 0
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether somebody asked to stop."""
        return self.signals > 0

    @property
    def is_urgent(self) -> bool:
        """Whether the trials had their time, or somebody asked twice."""
        return self.signals > 1 or (self.requested and time.monotonic() - self.requested_at > PATIENCE)

    def listen(self) -> None:
        """Takes the signals over; again after something else (Ray) took them."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            before = signal.signal(number, self._receive)
            self._before.setdefault(number, before)

    def __enter__(self) -> Self:
        self.stop_file.unlink(missing_ok=True)
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self.stop_file.unlink(missing_ok=True)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1
        if self.signals == 1:
            self.requested_at = time.monotonic()
            self.stop_file.touch()
        if self.signals > 2:
            raise KeyboardInterrupt
