"""MLflow's user interface over a store: two processes on the loopback address, no telemetry."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from types import TracebackType
from typing import Self

from titanlab.platform.errors import TitanlabError
from titanlab.platform.tracking.store import Store

HOST = "127.0.0.1"
START = 120.0  # seconds
END = 10.0

_SETTINGS = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes more that nothing here needs
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


class UiError(TitanlabError):
    """The user interface cannot be served."""


class UiServer:
    """Serves a store while it is entered.

    Args:
        store: a local one that holds something.
        port: 0 chooses a free one.
    """

    def __init__(self, store: Store, port: int) -> None:
        self.store, self.port = store, _free_port(port)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """As a browser takes it."""
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        self._log = open(self.store.root / "ui.log", "wb")
        self._empty = tempfile.TemporaryDirectory()  # Python imports from where it is started: not from the store
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server"),
                *("--default-artifact-root", (self.store.root / "artifacts").as_uri()),
                *("--host", HOST, "--port", str(self.port), "--workers", "1"),
            ],
            # The address may hold a password, and arguments are everybody's to read.
            env={**os.environ, **_SETTINGS, "MLFLOW_BACKEND_STORE_URI": self.store.tracking_uri},
            cwd=self._empty.name,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which then ends the server
        )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait(self) -> None:
        """Returns when the server ends by itself."""
        if self._process is not None:
            self._process.wait()

    def close(self) -> None:
        """Ends the server and its worker."""
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(END)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()
        self._process = None
        self._log.close()
        self._empty.cleanup()

    def _wait_until_it_answers(self) -> None:
        process, began = self._process, time.monotonic()
        while process is not None and process.poll() is None and time.monotonic() - began < START:
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise UiError(f"MLflow's server does not answer at {self.address}; its log is {self.store.root / 'ui.log'}")


def _free_port(port: int) -> int:
    """The port, if nobody listens there.

    Raises:
        UiError: it is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UiError(f"port {port} of {HOST}: {error.strerror}; choose another with --port") from None
        return probe.getsockname()[1]
