"""What a sweep's weights will take of the disk, said while there is time to change it."""

from __future__ import annotations

import shutil
from pathlib import Path

from titanlab.sweeps.planning.plan import Plan
from titanlab.sweeps.readable import readable_bytes

ENOUGH = 0.5  # of what is free; below that nothing is said
BYTES = 4  # a weight, as float32


def disk_note(plan: Plan, root: Path) -> str | None:
    """A warning if the weights that stay would take more than half of what is free; None if there is room.

    A run that goes on holds more: two checkpoints, each with AdamW's state.
    """
    kept = [cell for cell in plan.cells if cell.trials and cell.trials[0].config.train.keep_weights != "none"]
    wanted = sum(len(cell.trials) * cell.parameters * BYTES for cell in kept)
    standing = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(standing).free
    if wanted <= ENOUGH * free:
        return None
    return (
        f"the weights of these trials take about {readable_bytes(wanted)}, and {readable_bytes(free)} are free in "
        f"{root}; `train.keep_weights: none` keeps metrics and settings only"
    )
