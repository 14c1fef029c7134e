"""Train a small model, load its checkpoint, and decode token by token from an explicit state."""

import tempfile
from pathlib import Path

import torch

from titanlab import RunConfig, load_model
from titanlab.platform.training.loop import train

config = RunConfig.model_validate(
    {
        "model": {
            "dim": 32,
            "layers": 2,
            "architecture": {"type": "mag", "window": 16},
            "memory": {"type": "titans", "depth": 2, "momentum": "token", "keep": "token"},
        },
        "task": {"type": "mqar", "vocab": 32, "pairs": 4, "length": 32},
        "train": {"steps": 20, "learning_rate": 1.0e-2},
    }
)
directory = Path(tempfile.mkdtemp())
outcome = train(config, directory)
print(f"accuracy after {outcome.step} steps: {outcome.metrics['final/accuracy']:.2f}")

model = load_model(directory / "checkpoint")
ids = next(config.task.build().train_batches(seed=1, batch_size=1)).ids
with torch.no_grad():
    parallel, _ = model(ids)
    state = None
    for position in range(ids.shape[1]):
        logits, state = model(ids[:, position : position + 1], state)
print(f"last logits, decoded against parallel: {(logits[:, 0] - parallel[:, -1]).abs().max():.1e}")
