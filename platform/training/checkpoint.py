"""Checkpoints: weights, optimizer and position of a run, replaced as one, complete whenever the process is killed.

A checkpoint is a folder: `model.safetensors` holds the weights, and in its metadata what the model is rebuilt from (the
configuration as JSON, `vocab_size`, `schema_version`); `training.pt` holds plain tensors and numbers, until the run is
complete; `sha256.json` holds the digests of both. The random state is no part of it: each step seeds its own
(`device.seed_step`), and the number of the step is the position in the data.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors import torch as safetensors

from titanlab.platform.config import SCHEMA_VERSION, problems_of
from titanlab.platform.distributed import is_main, wait_for_all
from titanlab.platform.errors import CheckpointError, DamagedCheckpointError
from titanlab.platform.model import Model
from titanlab.platform.run_config import RunConfig
from titanlab.platform.training.checkpoint_files import (
    BEST,
    NAME,
    OLD,
    TRAINING,
    WEIGHTS,
    damaged,
    folders_in,
    replacing,
    set_aside,
    verify,
)
from titanlab.platform.training.device import own_random_state
from titanlab.platform.training.optimizer import AdamW
from titanlab.platform.yaml_source import dotted


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
    """Replaces the checkpoint of a run's directory; returns its folder. Only the main rank calls this.

    Raises:
        DiskFullError: it does not fit; the checkpoint of before stays.
    """
    state = {"key": config.key, "optimizer": optimizer.state(), "position": asdict(position)}
    with replacing(directory) as folder:
        safetensors.save_model(model, str(folder / WEIGHTS), weights_metadata(config, model, position.step))
        with open(folder / TRAINING, "wb") as stream:  # a path would hide why it cannot be written
            torch.save(state, stream)
    return directory / NAME


def weights_metadata(config: RunConfig, model: Model, step: int) -> dict[str, str]:
    """What a model is rebuilt from, as it stands in the file of its weights."""
    return {
        "format": "pt",
        "schema_version": str(SCHEMA_VERSION),
        "config": json.dumps(config.settings()),
        "vocab_size": str(model.vocab_size),
        "step": str(step),
    }


def load_checkpoint(
    directory: Path,
    config: RunConfig,
    model: Model,
    optimizer: AdamW,
    warn: Callable[[str], None] = lambda text: None,
) -> Position | None:
    """Puts a run's newest undamaged checkpoint into model and optimizer; None, and nothing changed, if there is none.

    All ranks call this. A damaged one is set aside as `checkpoint.damaged`.

    Args:
        warn: is told of each damaged one, and what stands in for it.

    Raises:
        CheckpointError: it is of another configuration or another version, or does not fit the model.
    """
    position, broken = None, []
    for folder in folders_in(directory):
        try:
            position, moments = _read(folder, config)
        except DamagedCheckpointError as error:
            broken.append((folder, error))
            continue
        _load_weights(folder / WEIGHTS, model)
        try:
            optimizer.restore(moments)
        except (ValueError, KeyError, RuntimeError) as error:
            raise _other_model(folder / TRAINING, error) from error
        break
    if broken:
        wait_for_all()  # every rank has seen the same
        for folder, reason in broken:
            if is_main():
                set_aside(folder)
            warn(f"{reason}; the run goes on from {f'step {position.step}' if position else 'its first step'}")
    return position


def _read(folder: Path, config: RunConfig) -> tuple[Position, dict[str, dict[str, torch.Tensor]]]:
    """Position and optimizer of a checkpoint whose files are whole."""
    verify(folder, WEIGHTS, TRAINING)
    metadata = _metadata(folder / WEIGHTS)
    try:
        # Plain tensors and numbers only: nothing in the file can run code.
        state = torch.load(folder / TRAINING, map_location="cpu", weights_only=True)
        key, position, moments = state["key"], Position(**state["position"]), state["optimizer"]
    except Exception as error:
        raise damaged(folder / TRAINING, error) from error
    if key != config.key:
        raise other_configuration(folder.parent, key, config.key)
    if metadata["step"] != str(position.step):
        raise damaged(folder, f"its weights are of step {metadata['step']}, its optimizer of {position.step}")
    return position, moments


def load_model(checkpoint: str | Path) -> Model:
    """A trained model, in evaluation mode on the CPU: `model(ids, state=None) -> (logits, state)`.

    Args:
        checkpoint: a run's directory (what `titanlab train` prints), its checkpoint folder, or `model.safetensors`.

    Raises:
        CheckpointError: there is none, it cannot be read, or a plug-in it needs is not loaded.
    """
    weights = weights_of(Path(checkpoint))
    verify(weights.parent, weights.name)
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
        raise damaged(weights, error) from error
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


def weights_of(path: Path) -> Path:
    if path.is_file():
        return path
    candidates = [path / name for name in (NAME, OLD, BEST)] + [path]
    folder = next((folder for folder in candidates if (folder / WEIGHTS).is_file()), None)
    if folder is None:
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
        raise damaged(weights, error) from error
    if version != str(SCHEMA_VERSION):
        raise CheckpointError(
            f"{weights}: was written for schema version {version}, this titanlab reads {SCHEMA_VERSION}; "
            "train it again, or use the titanlab that wrote it"
        )
    return metadata


def _load_weights(weights: Path, model: Model) -> None:
    try:
        safetensors.load_model(model, str(weights))
    except RuntimeError as error:
        raise _other_model(weights, error) from error
    except Exception as error:
        raise damaged(weights, error) from error


def _other_model(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path}: does not fit the model ({str(error).strip().splitlines()[0]}); its code is another than the one that "
        "wrote this. Bring that code back, or remove the folder to train from the first step"
    )
