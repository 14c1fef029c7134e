"""What stays of a run's weights: `train.keep_weights`."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors import torch as safetensors

from titanlab.platform.files import sync_file, telling_full_disk
from titanlab.platform.model import Model
from titanlab.platform.run_config import RunConfig
from titanlab.platform.task import smaller_is_better
from titanlab.platform.training.checkpoint import weights_metadata
from titanlab.platform.training.checkpoint_files import (
    BEST,
    DAMAGED,
    NAME,
    OLD,
    TRAINING,
    WEIGHTS,
    WRITING,
    write_digests,
)

VALUE = "value"
"""In the metadata of the best weights: what made them the best."""


class BestWeights:
    """Keeps the weights of the best evaluation so far, beside the checkpoints.

    A resumed run takes the evaluations after its checkpoint again; they are the same, and none is better than itself.
    """

    def __init__(self, directory: Path, config: RunConfig) -> None:
        self.directory, self.config = directory, config
        self.metric = f"val/{config.task.metrics()[0]}"
        self._sign = 1.0 if smaller_is_better(self.metric) else -1.0
        self._best = self._known()

    def offer(self, step: int, metrics: Mapping[str, float], model: Model) -> None:
        """Keeps the weights if these metrics are the best; does nothing where there was no evaluation."""
        value = metrics.get(self.metric, math.nan)
        if not math.isfinite(value) or self._sign * value >= self._best:
            return
        folder = self.directory / BEST
        writing = folder / f".{WEIGHTS}.writing"
        with telling_full_disk(folder):
            folder.mkdir(exist_ok=True)
            metadata = {**weights_metadata(self.config, model, step), VALUE: repr(value)}
            safetensors.save_model(model, str(writing), metadata)
            sync_file(writing)
            os.replace(writing, folder / WEIGHTS)
        self._best = self._sign * value

    def _known(self) -> float:
        """What an earlier session kept; nothing is as bad as infinity."""
        path = self.directory / BEST / WEIGHTS
        if not path.is_file():
            return math.inf
        try:
            with safe_open(str(path), framework="pt") as stream:
                return self._sign * float((stream.metadata() or {})[VALUE])
        except Exception:  # damaged: the next evaluation takes its place
            path.unlink()
            return math.inf


def keep_of_complete(directory: Path, config: RunConfig) -> None:
    """Removes what a complete run need not keep; what stays is in `checkpoint/`."""
    for name in (OLD, WRITING, DAMAGED):
        shutil.rmtree(directory / name, ignore_errors=True)
    keep, best = config.train.keep_weights, directory / BEST
    if keep == "none":
        shutil.rmtree(directory / NAME, ignore_errors=True)
    elif keep == "best" and (best / WEIGHTS).is_file():
        write_digests(best)
        shutil.rmtree(directory / NAME, ignore_errors=True)
        best.rename(directory / NAME)
    shutil.rmtree(best, ignore_errors=True)
    (directory / NAME / TRAINING).unlink(missing_ok=True)
