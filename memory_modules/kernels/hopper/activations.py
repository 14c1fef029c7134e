"""The activations of `activations.py` inside Triton kernels, float32."""

from triton.language import constexpr

from titanlab.memory_modules.kernels.hopper.tiles import fast_tanh, jit, lang


@jit
def value_of(z, ACTIVATION: constexpr):  # type: ignore[no-untyped-def]
    """f(z)."""
    if ACTIVATION == "gelu":
        return z * _sigmoid(z * (1.5957691216057308 + 0.0713548162726003 * z * z))
    elif ACTIVATION == "silu":
        return z * _sigmoid(z)
    elif ACTIVATION == "tanh":
        return fast_tanh(z)
    else:
        return lang.where(z < 0, 0.0, z)  # NaN stays NaN


@jit
def value_and_slope(z, ACTIVATION: constexpr):  # type: ignore[no-untyped-def]
    """f(z) and f'(z)."""
    value, slope, _ = value_slope_curvature(z, ACTIVATION)
    return value, slope


@jit
def value_slope_curvature(z, ACTIVATION: constexpr):  # type: ignore[no-untyped-def]
    """f(z), f'(z) and f''(z)."""
    if ACTIVATION == "gelu":
        # z/2 (1 + tanh u) = z s with s = sigmoid(2 u), 2 u = z (a + b z^2); w is the slope of 2 u
        square = z * z
        s = _sigmoid(z * (1.5957691216057308 + 0.0713548162726003 * square))
        w = 1.5957691216057308 + 0.2140644488178007 * square
        both = s * (1 - s)
        return z * s, s + z * both * w, both * (2 * w + z * w * w * (1 - 2 * s) + 0.4281288976356015 * square)
    elif ACTIVATION == "silu":
        s = _sigmoid(z)
        return z * s, s + z * s * (1 - s), s * (1 - s) * (2 + z * (1 - 2 * s))
    elif ACTIVATION == "tanh":
        value = fast_tanh(z)
        slope = 1 - value * value
        return value, slope, -2 * value * slope
    else:
        return lang.where(z < 0, 0.0, z), lang.where(z > 0, 1.0, 0.0), lang.zeros_like(z)


@jit
def _sigmoid(z):  # type: ignore[no-untyped-def]
    return 0.5 + 0.5 * fast_tanh(0.5 * z)
