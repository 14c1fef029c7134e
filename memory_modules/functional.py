"""The rules as functions of queries, keys, values and gates: chunk-parallel, streaming, exact."""

from titanlab.memory_modules.rules.deep_memory import (
    DeepMemoryState,
    deep_memory,
    initial_deep_memory,
    read_deep_memory,
)
from titanlab.memory_modules.rules.delta_rule import delta_rule, gated_delta_rule
from titanlab.memory_modules.rules.learned_memory import (
    initial_learned_memory,
    learned_memory,
    read_learned_memory,
)
from titanlab.memory_modules.rules.learned_state import LearnedRule, LearnedState, Rates
from titanlab.memory_modules.rules.linear_attention import linear_attention
from titanlab.memory_modules.rules.module_memory import (
    ModuleMemoryState,
    initial_module_memory,
    module_memory,
    read_module_memory,
)
from titanlab.memory_modules.rules.momentum_delta_rule import MomentumDeltaState, momentum_delta_rule
from titanlab.memory_modules.rules.rwkv7 import rwkv7

__all__ = [
    "DeepMemoryState",
    "LearnedRule",
    "LearnedState",
    "ModuleMemoryState",
    "MomentumDeltaState",
    "Rates",
    "deep_memory",
    "delta_rule",
    "gated_delta_rule",
    "initial_deep_memory",
    "initial_learned_memory",
    "initial_module_memory",
    "learned_memory",
    "linear_attention",
    "module_memory",
    "momentum_delta_rule",
    "read_deep_memory",
    "read_learned_memory",
    "read_module_memory",
    "rwkv7",
]
