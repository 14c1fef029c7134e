"""Scoring a model on batches, shared between ranks: every rank returns the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titanlab.platform.distributed import share, sum_over_ranks
from titanlab.platform.task import Batch
from titanlab.platform.tensors import at_least_float32

TOKENS_A_BATCH = 1 << 14
LOGITS_A_BATCH = 1 << 24


class Score(NamedTuple):
    """Sums over counted positions."""

    loss: float = 0.0
    """Cross-entropy in nats."""
    correct: float = 0.0
    """Positions whose most likely token is the target."""
    positions: float = 0.0
    """How many there are."""

    def plus(self, other: Score) -> Score:
        """The score of both together."""
        return Score(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def mean_loss(self) -> float:
        """Nats a counted position."""
        return self.loss / self.positions

    @property
    def accuracy(self) -> float:
        """Fraction of the counted positions."""
        return self.correct / self.positions


def rows_a_batch(length: int, vocab_size: int) -> int:
    """How many rows to evaluate at once; fixed by the task, so that results do not depend on the training batch."""
    return max(1, min(TOKENS_A_BATCH, LOGITS_A_BATCH // vocab_size) // length)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are; the CPU for a model without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@torch.no_grad()
def score_batch(model: nn.Module, batch: Batch) -> Score:
    """One batch, moved to the model's device. The logits are compared in float32 or better."""
    ids, targets, mask = (tensor.to(device_of(model)) for tensor in batch)
    logits: Tensor = model(ids)[0]
    counted = mask.bool()
    chosen, wanted = logits[counted], targets[counted]
    losses = F.cross_entropy(chosen.to(at_least_float32(chosen.dtype)), wanted, reduction="none")
    correct = (chosen.argmax(-1) == wanted).sum()
    return Score(losses.double().sum().item(), correct.item(), counted.sum().item())


def score(model: nn.Module, batches: int, make_batch: Callable[[int], Batch]) -> Score:
    """This rank's share of batches number 0 .. `batches` - 1; `over_ranks` adds the shares up."""
    total = Score()
    for number in share(range(batches)):
        total = total.plus(score_batch(model, make_batch(number)))
    return total


def over_ranks(scores: Sequence[Score]) -> list[Score]:
    """Each score summed over all ranks, in one exchange."""
    sums = iter(sum_over_ranks([value for each in scores for value in each]))
    return [Score(next(sums), next(sums), next(sums)) for _ in scores]
