"""What a reader of a plan should know of the memories in it."""

from __future__ import annotations

from collections.abc import Iterable

from titanlab.memory_modules.layer import LayerConfig
from titanlab.platform.costs import Costs
from titanlab.platform.memory import MemoryConfig
from titanlab.platform.model import ModelConfig


def remarks_on(models: Iterable[tuple[ModelConfig, Costs]]) -> list[str]:
    """What the memories in use say of themselves, and which of them never see a chunk's end; each sentence once."""
    in_use = {id(model): (model, costs.row_length) for model, costs in models if costs.memory_bytes}
    found = [
        remark
        for model, row_length in in_use.values()
        for block in model.stack()
        for remark in (block.memory.remark(), _one_chunk(block.memory, row_length))
    ]
    return list(dict.fromkeys(remark for remark in found if remark))


def _one_chunk(memory: MemoryConfig, row_length: int | None) -> str | None:
    """That no gradient is taken at a memory that was written, where the chunk length is a part of the rule."""
    if not isinstance(memory, LayerConfig) or memory.chunk_exact or row_length is None:
        return None
    if memory.chunk_size < row_length:
        return None
    return (
        f"memory '{memory.type_name}' has chunks of {memory.chunk_size} tokens and the task rows of {row_length}: all "
        "gradients are taken at the memory before the first token"
    )
