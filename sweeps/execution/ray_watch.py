"""Ray's own processes: without its raylet Ray ends the driver some seconds later, without a word and with all it knows.

So the driver looks after them: when one is gone it leaves Ray at once, ends the workers that Ray can no longer end,
and says what happened.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

PAUSE = 0.3  # seconds between looks; Ray's driver ends some ten seconds after the raylet
NEEDED = ("raylet", "gcs_server")


class RayLostError(BaseException):
    """One of Ray's processes died. No `Exception`: Ray, in whose code it arises, must not swallow it."""


class RayWatch:
    """Raises `RayLostError` in the main thread when a process that Ray needs is gone."""

    def __init__(self) -> None:
        self.lost = ""
        """Which, once it is."""
        named = [(child, _name(child)) for child in _children(psutil.Process())]
        self._needed = [(child, name) for child, name in named if name in NEEDED]
        self._workers: list[psutil.Process] = []
        self._over = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches; only on the main thread, whose work it interrupts."""
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGUSR2"):
            yield
            return
        before = signal.signal(signal.SIGUSR2, self._raise)
        thread = threading.Thread(target=self._look, name="ray-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
            signal.signal(signal.SIGUSR2, before)

    def end_workers(self) -> None:
        """Ends what nobody else can end now: a worker that trains on would be in the way of its successor."""
        for worker in self._workers:
            with suppress(psutil.Error):
                worker.kill()
        psutil.wait_procs(self._workers, timeout=5)

    def _look(self) -> None:
        while not self._over.wait(PAUSE):
            gone = [f"{name} (pid {process.pid})" for process, name in self._needed if not _runs(process)]
            if gone:
                self.lost = ", ".join(gone)
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
                continue
            found = [worker for process, _ in self._needed for worker in _children(process)]
            self._workers = found or self._workers

    def _raise(self, number: int, frame: object) -> None:
        if not self._over.is_set():
            raise RayLostError(self.lost)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
