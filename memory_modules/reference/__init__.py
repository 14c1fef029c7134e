"""The memory rules token by token, exactly as the papers print them: oracles for tests, far too slow for anything else.

Nothing here is derived by hand. The inner gradient is taken by `torch.func.grad` of the inner loss, the recurrences are
loops over time, and the outer autograd flows through both, so outputs, final states and gradients of the fast forms
(`titanlab.memory_modules.functional`) can all be held against these functions. Run them in float64.

Vectors are rows: a matrix maps x to `x @ W`, and W is [in, out].
"""

from titanlab.memory_modules.reference.deep_memory import deep_memory_by_token
from titanlab.memory_modules.reference.learned_memory import learned_memory_by_token
from titanlab.memory_modules.reference.matrix_rules import (
    delta_rule_by_token,
    gated_delta_rule_by_token,
    linear_attention_by_token,
    momentum_delta_rule_by_token,
    rwkv7_by_token,
)

__all__ = [
    "deep_memory_by_token",
    "delta_rule_by_token",
    "gated_delta_rule_by_token",
    "learned_memory_by_token",
    "linear_attention_by_token",
    "momentum_delta_rule_by_token",
    "rwkv7_by_token",
]
