"""Being asked to stop: the first request lets running trials write a checkpoint, the second ends them at once.

A request is a signal to the driver, or the stop file that `titanlab sweep stop` writes from anywhere. Whatever is not
over after the second - a start-up that hangs - the third signal ends.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP
PATIENCE = 30.0  # seconds the running trials get for their checkpoints
PAUSE = 0.5  # seconds between looks at the stop file
STOP_FILE, NOW = "stop", "now"


class Interruption:
    """Turns SIGINT, SIGTERM and SIGHUP into a request that the trials see as a file, and sees that file itself.

    Args:
        stop_file: what every trial's `should_stop` looks for.
    """

    def __init__(self, stop_file: Path) -> None:
        self.stop_file = stop_file
        self.requested_at = 0.0
        self.signals = 0
        self._before: dict[int, Any] = {}
        self._looked_at = 0.0
        self._is_asked = self._is_hurried = False

    @property
    def requested(self) -> bool:
        """Whether somebody asked to stop."""
        return self.signals > 0 or self._asked()

    @property
    def is_urgent(self) -> bool:
        """Whether the trials had their time, or somebody asked twice."""
        late = self.requested and time.monotonic() - self.requested_at > PATIENCE
        return self.signals > 1 or self._is_hurried or late

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
        self._asked()  # remembers it beyond the file
        for number, before in self._before.items():
            signal.signal(number, before)
        self.stop_file.unlink(missing_ok=True)

    def _asked(self) -> bool:
        """Whether the stop file is there; asks the disk now and then only."""
        now = time.monotonic()
        if now - self._looked_at >= PAUSE and not self._is_hurried:
            self._looked_at = now
            with suppress(OSError):
                self._is_hurried = self.stop_file.read_text(encoding="utf-8").strip() == NOW
                self.requested_at = self.requested_at or now
                self._is_asked = True
        return self._is_asked

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1
        if self.signals == 1:
            self.requested_at = time.monotonic()
            with suppress(OSError):  # a full disk
                self.stop_file.touch()
        if self.signals > 2:
            raise KeyboardInterrupt


def ask_to_stop(folder: Path, *, now: bool) -> None:
    """Asks the driver of a sweep to end it.

    Args:
        folder: the sweep's.
        now: without waiting for checkpoints.
    """
    (folder / STOP_FILE).write_text(NOW if now else "", encoding="utf-8")
