"""What a run knows about itself between two lines of metrics: its losses, and how fast it goes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from titanlab.platform.distributed import sum_over_ranks


@dataclass
class LossWindow:
    """The loss of each step since the last line of metrics.

    A step's loss stays on the device until `read`, so that a GPU runs ahead of the process that feeds it.
    """

    nats: list[float] = field(default_factory=list)
    """Per step, the sum over counted tokens of all ranks, in nats."""
    counted: list[float] = field(default_factory=list)
    """Per step, the number of counted tokens of all ranks."""
    _unread: list[Tensor] = field(default_factory=list)

    def add(self, nats: Tensor, counted: float) -> None:
        """Takes this rank's sum of one step."""
        self._unread.append(nats)
        self.counted.append(counted)

    def read(self) -> list[float]:
        """Waits for the device, adds up the ranks; returns the nats per counted token of each step not read before."""
        before = len(self.nats)
        if self._unread:
            self.nats += sum_over_ranks(torch.stack(self._unread).double().tolist())
            self._unread.clear()
        return [nats / max(count, 1.0) for nats, count in zip(self.nats[before:], self.counted[before:], strict=True)]

    def mean(self) -> float:
        """Nats per counted token over all steps; they have been read."""
        return math.fsum(self.nats) / max(math.fsum(self.counted), 1.0)

    def clear(self) -> None:
        """Starts the next window."""
        self.nats, self.counted = [], []


class Speed:
    """Time and tokens of training steps; evaluation and checkpoints are left out.

    Args:
        seconds: spent by earlier sessions of the run.
        tokens: seen by earlier sessions of the run.
    """

    FORGETTING = 0.9  # per lap: what is shown follows the last ten laps

    def __init__(self, seconds: float = 0.0, tokens: int = 0) -> None:
        self.seconds, self.tokens = seconds, tokens
        self._recent_seconds = self._recent_tokens = self._recent_steps = 0.0
        self._new_tokens = self._new_steps = 0
        self._mark = time.perf_counter()

    def pause_ended(self) -> None:
        """The time since the last lap was no training."""
        self._mark = time.perf_counter()

    def add(self, tokens: int) -> None:
        """Counts a step."""
        self._new_tokens += tokens
        self._new_steps += 1

    def lap(self) -> None:
        """Takes the time of the steps since the last lap; call it when the device has finished them."""
        now = time.perf_counter()
        elapsed, self._mark = now - self._mark, now
        self.seconds += elapsed
        self.tokens += self._new_tokens
        self._recent_seconds = self.FORGETTING * self._recent_seconds + elapsed
        self._recent_tokens = self.FORGETTING * self._recent_tokens + self._new_tokens
        self._recent_steps = self.FORGETTING * self._recent_steps + self._new_steps
        self._new_tokens = self._new_steps = 0

    def metrics(self) -> dict[str, float]:
        """Of all sessions, by the names under which runs log them."""
        return {
            "cost/tokens_per_second": self.tokens / max(self.seconds, 1e-9),
            "cost/seconds": self.seconds,
            "cost/tokens": float(self.tokens),
        }

    @property
    def tokens_per_second(self) -> float:
        """Of the last laps; 0 before the first."""
        return self._recent_tokens / self._recent_seconds if self._recent_seconds else 0.0

    @property
    def seconds_per_step(self) -> float:
        """Of the last laps; 0 before the first."""
        return self._recent_seconds / self._recent_steps if self._recent_steps else 0.0
