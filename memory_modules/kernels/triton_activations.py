"""The activations of `activations.py` inside Triton kernels, float32."""

import triton
import triton.language as tl

from titanlab.platform.fused_kernels.sigmoid import sigmoid


@triton.jit
def value_of(z, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    """f(z)."""
    if ACTIVATION == "gelu":
        return z * sigmoid(z * (1.5957691216057308 + 0.0713548162726003 * z * z))
    elif ACTIVATION == "silu":
        return z * sigmoid(z)
    elif ACTIVATION == "tanh":
        return tanh(z)
    else:
        return tl.where(z < 0, 0.0, z)  # NaN stays NaN


@triton.jit
def value_and_slope(z, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    """f(z) and f'(z)."""
    value, slope, _ = value_slope_curvature(z, ACTIVATION)
    return value, slope


@triton.jit
def value_slope_curvature(z, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    """f(z), f'(z) and f''(z)."""
    if ACTIVATION == "gelu":
        # z/2 (1 + tanh u) = z s with s = sigmoid(2 u), 2 u = z (a + b z^2); w is the slope of 2 u
        square = z * z
        s = sigmoid(z * (1.5957691216057308 + 0.0713548162726003 * square))
        w = 1.5957691216057308 + 0.2140644488178007 * square
        both = s * (1 - s)
        return z * s, s + z * both * w, both * (2 * w + z * w * w * (1 - 2 * s) + 0.4281288976356015 * square)
    elif ACTIVATION == "silu":
        s = sigmoid(z)
        return z * s, s + z * s * (1 - s), s * (1 - s) * (2 + z * (1 - 2 * s))
    elif ACTIVATION == "tanh":
        value = tanh(z)
        slope = 1 - value * value
        return value, slope, -2 * value * slope
    else:
        return tl.where(z < 0, 0.0, z), tl.where(z > 0, 1.0, 0.0), tl.zeros_like(z)


@triton.jit
def tanh(z):  # type: ignore[no-untyped-def]
    """Near 0 by its series: there 2 sigmoid(2 z) - 1 is a difference of numbers next to 1."""
    square = z * z
    near = z * (1 - square * (0.3333333333333333 - square * (0.13333333333333333 - 0.05396825396825397 * square)))
    return tl.where(square < 0.01, near, 2 * sigmoid(2 * z) - 1)
