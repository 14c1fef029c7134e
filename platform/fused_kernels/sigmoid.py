"""The logistic function in few instructions."""

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):  # type: ignore[no-untyped-def]
    """1 / (1 + e^-x) of float32: the reciprocal of a root, squared. Triton has no reciprocal in one instruction; a
    division is five, and an e^x that keeps subnormal numbers two more than one that does not."""
    root = tl.rsqrt(1.0 + tl.exp2(x * -1.4426950408889634))
    return root * root
