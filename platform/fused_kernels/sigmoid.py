"""The logistic function in few instructions."""

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):  # type: ignore[no-untyped-def]
    """1 / (1 + e^-x) of float32: the reciprocal of a root, squared. One instruction more than a reciprocal, which Triton
    has not; a division is five, and an e^x that keeps subnormal numbers two more."""
    root = tl.rsqrt(1.0 + tl.exp2(x * -1.4426950408889634))
    return root * root
