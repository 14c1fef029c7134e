"""The rules as functions of queries, keys, values and gates: chunk-parallel, streaming, exact."""

from titanlab.memory_modules.rules.deep_memory import (
    DeepMemoryState,
    deep_memory,
    initial_deep_memory,
    read_deep_memory,
)
from titanlab.memory_modules.rules.delta_rule import delta_rule, gated_delta_rule
from titanlab.memory_modules.rules.linear_attention import linear_attention
from titanlab.memory_modules.rules.momentum_delta_rule import MomentumDeltaState, momentum_delta_rule
from titanlab.memory_modules.rules.rwkv7 import rwkv7

__all__ = [
    "DeepMemoryState",
    "MomentumDeltaState",
    "deep_memory",
    "delta_rule",
    "gated_delta_rule",
    "initial_deep_memory",
    "linear_attention",
    "momentum_delta_rule",
    "read_deep_memory",
    "rwkv7",
]
