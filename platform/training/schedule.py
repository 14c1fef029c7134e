"""The learning rate as a function of the step, or of the time that has passed: a linear rise, then a cosine."""

from __future__ import annotations

import math

from titanlab.platform.run_config import TrainConfig


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """The rate of optimizer step `step`, counted from 1 to `steps`.

    With w = round(warmup * steps) steps of warm-up and peak r it is r * step / w up to step w, then
    r * (f + (1 - f) * (1 + cos(pi * p)) / 2) with p = (step - w) / (steps - w): r * f at the last step, f being
    `final_learning_rate`.
    """
    warm = min(round(config.warmup * steps), steps - 1)
    if step <= warm:
        return config.learning_rate * step / warm
    return _decayed((step - warm) / (steps - warm), config)


def learning_rate_at(fraction: float, config: TrainConfig) -> float:
    """The same curve over time: the rate after a fraction of the run, from 0 to 1 (and as at 1 beyond it)."""
    if fraction < config.warmup:
        return config.learning_rate * fraction / config.warmup
    return _decayed(min(1.0, (fraction - config.warmup) / (1 - config.warmup)), config)


def _decayed(progress: float, config: TrainConfig) -> float:
    last = config.final_learning_rate
    return config.learning_rate * (last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2)
