"""Greedy decoding: the model reads its own most likely tokens, one by one, through its state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from titanlab.platform.corpora.byte_ids import START
from titanlab.platform.tasks.evaluation import device_of
from titanlab.platform.tasks.haystack import Row
from titanlab.platform.tensors import Ids


@torch.no_grad()
def greedy(model: nn.Module, prompts: Ids, tokens: int) -> Ids:
    """The `tokens` most likely next tokens after each prompt [b, t], each chosen given the ones before: [b, tokens]."""
    logits, state = model(prompts)
    chosen: list[Tensor] = [logits[:, -1].argmax(-1)]
    while len(chosen) < tokens:
        logits, state = model(chosen[-1][:, None], state)
        chosen.append(logits[:, -1].argmax(-1))
    return torch.stack(chosen, 1)


def answered(model: nn.Module, rows: Sequence[Row]) -> list[bool]:
    """For rows of one length: whether the model, given the prompt alone, says the answer exactly."""
    prompts = torch.tensor([[START, *row.prompt] for row in rows], device=device_of(model))
    said = greedy(model, prompts, len(rows[0].answer)).cpu()
    return [bytes(ids) == row.answer for ids, row in zip(said.tolist(), rows, strict=True)]
