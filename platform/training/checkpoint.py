"""Checkpoints: weights, optimizer and position of a run, replaced as one, complete whenever the process is killed.

A checkpoint is a folder with two files: `model.safetensors` holds the weights, and in its metadata what the model is
rebuilt from (the configuration as JSON, `vocab_size`, `schema_version`); `training.pt` holds plain tensors and
numbers. The random state is no part of it: each step seeds its own (`device.seed_step`), and the number of the step
is the position in the data.

A new one is written beside the old, synced, and takes its place by two renames: checkpoint -> checkpoint.old,
checkpoint.writing -> checkpoint. So at every moment a folder named `checkpoint` is complete, or `checkpoint.old` is.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors import torch as safetensors

from titanlab.platform.config import SCHEMA_VERSION, problems_of
from titanlab.platform.errors import CheckpointError
from titanlab.platform.files import sync_file, sync_folder
from titanlab.platform.model import Model
from titanlab.platform.run_config import RunConfig
from titanlab.platform.training.device import own_random_state
from titanlab.platform.training.optimizer import AdamW
from titanlab.platform.yaml_source import dotted

NAME, WRITING, OLD = "checkpoint", "checkpoint.writing", "checkpoint.old"
WEIGHTS, TRAINING = "model.safetensors", "training.pt"


@dataclass
class Position:
    """How far a run has come, apart from weights and optimizer."""

    step: int = 0
    """Optimizer steps done; the next batch has this number."""
    nats: list[float] = field(default_factory=list)
    """Loss of each step since the last line of metrics; see `LossWindow`."""
    counted: list[float] = field(default_factory=list)
    gradient_norm: float = 0.0
    """Of the last step, before clipping."""
    seconds: float = 0.0
    """Spent in training steps."""
    tokens: int = 0
    """Seen in training."""


def save_checkpoint(directory: Path, config: RunConfig, model: Model, optimizer: AdamW, position: Position) -> Path:
    """Replaces the checkpoint of a run's directory; returns its folder. Only the main rank calls this."""
    writing, target, old = directory / WRITING, directory / NAME, directory / OLD
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    metadata = {
        "format": "pt",
        "schema_version": str(SCHEMA_VERSION),
        "config": json.dumps(config.settings()),
        "vocab_size": str(model.vocab_size),
        "step": str(position.step),
    }
    safetensors.save_model(model, str(writing / WEIGHTS), metadata)
    state = {"key": config.key, "optimizer": optimizer.state(), "position": asdict(position)}
    torch.save(state, writing / TRAINING)
    for name in (WEIGHTS, TRAINING):
        sync_file(writing / name)
    sync_folder(writing)
    if target.exists():
        # While the newer one stands, what an earlier kill left of the older may go.
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    writing.rename(target)
    sync_folder(directory)
    shutil.rmtree(old, ignore_errors=True)
    return target


def load_checkpoint(directory: Path, config: RunConfig, model: Model, optimizer: AdamW) -> Position | None:
    """Puts a run's directory's checkpoint into model and optimizer; None if there is none.

    Raises:
        CheckpointError: it is of another configuration, incomplete or cannot be read.
    """
    folder = _folder_in(directory)
    if folder is None:
        return None
    metadata = _metadata(folder / WEIGHTS)
    try:
        # Plain tensors and numbers only: nothing in the file can run code.
        state = torch.load(folder / TRAINING, map_location="cpu", weights_only=True)
        key, position = state["key"], Position(**state["position"])
    except Exception as error:
        raise _unreadable(folder / TRAINING, error) from error
    if key != config.key:
        raise other_configuration(directory, key, config.key)
    if metadata["step"] != str(position.step):
        raise _unreadable(folder, f"its weights are of step {metadata['step']}, its optimizer of {position.step}")
    _load_weights(folder / WEIGHTS, model)
    try:
        optimizer.restore(state["optimizer"])
    except (ValueError, KeyError, RuntimeError) as error:
        raise _unreadable(folder / TRAINING, error) from error
    return position


def load_model(checkpoint: str | Path) -> Model:
    """A trained model, in evaluation mode on the CPU: `model(ids, state=None) -> (logits, state)`.

    Args:
        checkpoint: a run's directory (what `titanlab train` prints), its checkpoint folder, or `model.safetensors`.

    Raises:
        CheckpointError: there is none, it cannot be read, or a plug-in it needs is not loaded.
    """
    weights = _weights_of(Path(checkpoint))
    metadata = _metadata(weights)
    try:
        config = RunConfig.model_validate(json.loads(metadata["config"]))
        vocab_size = int(metadata["vocab_size"])
    except ValidationError as error:
        reasons = "; ".join(str(problem) for problem in problems_of(error, lambda path: (dotted(path), None)))
        raise CheckpointError(
            f"{weights}: its configuration is not known here (load its plug-in first?): {reasons}"
        ) from error
    except (KeyError, ValueError) as error:
        raise _unreadable(weights, error) from error
    with own_random_state(torch.device("cpu")):
        model = config.model.build(vocab_size)
    _load_weights(weights, model)
    return model.eval()


def other_configuration(directory: Path, found: str, wanted: str) -> CheckpointError:
    """The error for a directory that holds a run of another key."""
    return CheckpointError(
        f"{directory}: holds a run of another configuration (key {found}, this one is {wanted}); "
        "choose another directory, or remove this one to start afresh"
    )


def _folder_in(directory: Path) -> Path | None:
    """The complete checkpoint of a run's directory."""
    return next((directory / name for name in (NAME, OLD) if (directory / name).is_dir()), None)


def _weights_of(path: Path) -> Path:
    if path.is_file():
        return path
    folder = _folder_in(path) or path
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(
            f"{path}: there is no checkpoint (no {NAME}/{WEIGHTS}); give a run's directory or its checkpoint folder"
        )
    return folder / WEIGHTS


def _metadata(weights: Path) -> dict[str, str]:
    try:
        with safe_open(str(weights), framework="pt") as stream:
            metadata: dict[str, str] = stream.metadata() or {}
        version = metadata["schema_version"]
    except Exception as error:
        raise _unreadable(weights, error) from error
    if version != str(SCHEMA_VERSION):
        raise CheckpointError(
            f"{weights}: was written for schema version {version}, this titanlab reads {SCHEMA_VERSION}; "
            "train it again, or use the titanlab that wrote it"
        )
    return metadata


def _load_weights(weights: Path, model: Model) -> None:
    try:
        safetensors.load_model(model, str(weights))
    except Exception as error:
        raise _unreadable(weights, error) from error


def _unreadable(path: Path, reason: Any) -> CheckpointError:
    text = str(reason).strip().splitlines()
    return CheckpointError(
        f"{path}: the checkpoint is incomplete or damaged ({text[0] if text else type(reason).__name__}); "
        "remove its folder and the run starts from its first step, or put a copy back"
    )
