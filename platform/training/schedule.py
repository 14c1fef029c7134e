"""The learning rate as a function of the step: a linear rise, then a cosine."""

from __future__ import annotations

import math

from titanlab.platform.run_config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of optimizer step `step`, counted from 1 to `config.steps`.

    With w = round(warmup * steps) steps of warm-up and peak r it is r * step / w up to step w, then
    r * (f + (1 - f) * (1 + cos(pi * p)) / 2) with p = (step - w) / (steps - w): r * f at the last step, f being
    `final_learning_rate`.
    """
    warm = min(round(config.warmup * config.steps), config.steps - 1)
    if step <= warm:
        return config.learning_rate * step / warm
    progress = (step - warm) / (config.steps - warm)
    last = config.final_learning_rate
    return config.learning_rate * (last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2)
