"""What an error means for a trial: of which class it is, and whether another attempt could end otherwise."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

import torch

from titanlab.platform.errors import NonFiniteLossError, TitanlabError
from titanlab.platform.files import full_disk_reason
from titanlab.platform.redaction import redacted
from titanlab.sweeps.execution.trial_record import Status, TrialRecord

REPEATING = (
    *(TitanlabError, TypeError, ValueError, LookupError, AttributeError, NameError, ImportError),
    *(NotImplementedError, AssertionError, SyntaxError),
)
"""Wrong settings and wrong code: the same attempt ends the same way."""

SHAPES = (
    *("size mismatch", "shape", "must match the size", "mat1 and mat2", "Sizes of tensors", "Expected size"),
    *("dimension", "size of tensor", "Expected input batch", "einsum"),
)
"""Words of torch's errors about shapes, which have no class of their own."""


def failure_of(error: BaseException, warnings: Sequence[str] = ()) -> TrialRecord:
    """The record of a trial that ended in this error.

    `diverged` for a loss that is no number, `out_of_memory` and `disk_full` for what the machine lacked, else
    `failed`. Only the machine's faults and errors that nothing in the trial explains are worth another attempt.
    """
    trace = "".join(traceback.format_exception(error))
    status, name, may_pass = _class_of(error)
    return TrialRecord(
        status=status,
        error_type=name,
        message=redacted(str(error)),
        traceback=redacted(trace),
        may_pass=may_pass,
        warnings=list(warnings),
    )


def _class_of(error: BaseException) -> tuple[Status, str, bool]:
    """Status, name, and whether it may pass."""
    if isinstance(error, NonFiniteLossError):
        return "diverged", type(error).__name__, False
    if _is_out_of_memory(error):
        return "out_of_memory", "OutOfMemory", True
    if full_disk_reason(error) is not None:
        return "disk_full", "DiskFull", True
    repeats = isinstance(error, REPEATING) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in SHAPES)
    )
    return "failed", type(error).__name__, not repeats


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # The CPU allocator has no error class of its own.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
