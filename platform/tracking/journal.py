"""The metrics of a run on disk, as JSON lines: what every other view of a run (MLflow, tables, plots) is made from.

A line is `{"step": 10, "time": 1700000000.0, "metrics": {"train/loss": 2.5}}`, `time` in seconds since 1970. JSON has
no NaN and no infinity: such a metric stands as null, and the line's `non_finite` names it with its value as text.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from titanlab.platform.errors import TitanlabError
from titanlab.platform.files import full_disk_reason, telling_full_disk


class Point(NamedTuple):
    """One line of a journal."""

    step: int
    time: float
    metrics: dict[str, float]


class Journal:
    """Appends metrics, each step once. One process writes; any number may read meanwhile.

    A torn last line, left by a killed writer, is cut off when the journal is opened.

    Args:
        path: the file; it is created if missing, its folder must exist.
    """

    def __init__(self, path: str | Path) -> None:
        points, whole = _parse(Path(path))
        self.last_step = points[-1].step if points else -1
        self._path, self._stream = Path(path), open(path, "ab")
        self._stream.truncate(whole)

    def write(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Appends a line and hands it to the operating system, so that it outlives this process.

        Returns whether it was written: a resumed run recomputes steps that are here already, and those are left out.

        Raises:
            DiskFullError: there is no room; half a line may be there, which the next opening cuts off.
        """
        if step <= self.last_step:
            return False
        with telling_full_disk(self._path):
            self._stream.write(_line(Point(step, time.time(), dict(metrics))))
            self._stream.flush()
        self.last_step = step
        return True

    def sync(self) -> None:
        """Waits until all lines are on the disk, so that they outlive the machine."""
        with telling_full_disk(self._path):
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        try:
            self._stream.close()
        except OSError as error:  # of a line that `write` could not write, and said so
            if full_disk_reason(error) is None:
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_journal(path: str | Path, after: int = -1) -> list[Point]:
    """The lines of steps beyond `after`; a missing file has none, and a torn last line is left out.

    Raises:
        TitanlabError: a line that is not the last one cannot be read.
    """
    return [point for point in _parse(Path(path))[0] if point.step > after]


def _parse(path: Path) -> tuple[list[Point], int]:
    """All points, and the length in bytes of the lines they stand on."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    points: list[Point] = []
    whole = 0
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            point = _point(line)
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise TitanlabError(
                f"{path}:{number}: not a line of metrics ({error}); repair or remove the file, "
                "a run trained again writes it anew"
            ) from error
        points.append(point)
        whole += len(line)
    return points, whole


def _line(point: Point) -> bytes:
    broken = {name: repr(float(value)) for name, value in point.metrics.items() if not math.isfinite(value)}
    record = {
        "step": point.step,
        "time": point.time,
        "metrics": {name: None if name in broken else float(value) for name, value in point.metrics.items()},
        **({"non_finite": broken} if broken else {}),
    }
    return json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _point(line: bytes) -> Point:
    if not line.endswith(b"\n"):
        raise ValueError("the line is torn")
    record = json.loads(line)
    broken = {name: float(text) for name, text in record.get("non_finite", {}).items()}
    metrics = {name: broken[name] if value is None else float(value) for name, value in record["metrics"].items()}
    return Point(int(record["step"]), float(record["time"]), metrics)
