"""All checks in order, and what runs them on a memory or an architecture."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from pydantic import ValidationError
from torch import nn

from titanlab.platform.architecture import ArchitectureConfig
from titanlab.platform.config import Config, problems_of
from titanlab.platform.debugging import NonFiniteError, debug
from titanlab.platform.memory import MemoryConfig
from titanlab.platform.testing import cutting, independence, interface, learning, moves
from titanlab.platform.testing.probe import ProbeConfig
from titanlab.platform.testing.report import Check, Outcome, Report, Unmet
from titanlab.platform.testing.subject import Subject, shortened

FIRST = (interface.state_is_batch_first, interface.shapes_and_types)
"""Without these no other check can say anything."""
CHECKS = (
    *FIRST,
    interface.state_handed_in_stays,
    interface.state_size_as_declared,
    interface.read_writes_nothing,
    interface.other_batch_size_is_refused,
    independence.future_changes_nothing,
    independence.batch_rows_are_apart,
    independence.same_seed_same_outputs,
    independence.nothing_stays_on_the_module,
    cutting.pieces_equal_one_call,
    cutting.chunk_length,
    learning.gradients_reach_every_weight,
    learning.gradients_are_right,
    moves.saved_and_loaded,
    moves.device_moves,
    moves.type_moves,
    moves.long_input_stays_finite,
)
SECONDS = 20.0
"""What the checks of one module may take; those not begun by then are not run."""


def check_memory_module(memory: type[MemoryConfig] | MemoryConfig, *, seconds: float = SECONDS) -> Report:
    """Runs every check on a memory.

    Args:
        memory: a configuration, checked as it is; or a class, checked with its default settings, lengths in tokens
            (`chunk_size`, `segment`, `window`) shortened so that few tokens cross many boundaries.
        seconds: after this time no further check is begun.

    Returns:
        What came of each check; `raise_failures()` makes it an AssertionError.
    """

    def build(config: Config, dim: int) -> nn.Module:
        assert isinstance(config, MemoryConfig)
        return config.build(dim)

    return _report(memory, build, CHECKS, seconds)


def check_architecture(
    architecture: type[ArchitectureConfig] | ArchitectureConfig,
    *,
    memory: MemoryConfig | None = None,
    seconds: float = SECONDS,
) -> Report:
    """Runs every check that is not about memories alone on an architecture.

    Args:
        architecture: a configuration or a class, as in `check_memory_module`.
        memory: what it combines; by default a small linear memory, so that faults found are the architecture's.
        seconds: after this time no further check is begun.

    Returns:
        What came of each check.
    """

    def build(config: Config, dim: int) -> nn.Module:
        assert isinstance(config, ArchitectureConfig)
        return config.build(dim, memory or ProbeConfig())

    return _report(architecture, build, [check for check in CHECKS if not check.memories_only], seconds)


def _report(
    target: type[Config] | Config, build: Callable[[Config, int], nn.Module], checks: Sequence[Check], seconds: float
) -> Report:
    name = target.type_name or (target if isinstance(target, type) else type(target)).__name__
    try:
        declared = target() if isinstance(target, type) else target
    except ValidationError as error:
        return Report(name, (_without_defaults(error),))
    subject = Subject(shortened(declared) if isinstance(target, type) else declared, build, declared)
    outcomes: list[Outcome] = []
    with _undisturbed(), debug():
        end = time.monotonic() + seconds
        for check in checks:
            reason = _reason_to_skip(outcomes, end, seconds)
            outcomes.append(Outcome(check.name, "not run", remark=reason) if reason else _outcome(check, subject))
    return Report(name, tuple(outcomes))


def _reason_to_skip(outcomes: list[Outcome], end: float, seconds: float) -> str:
    broken = [outcome.check for outcome in outcomes[: len(FIRST)] if outcome.status == "failed"]
    if broken and len(outcomes) >= len(FIRST):
        return f"needs '{broken[0]}'"
    return f"{seconds:g} s are over" if time.monotonic() >= end else ""


def _outcome(check: Check, subject: Subject) -> Outcome:
    began = time.monotonic()
    try:
        remark, came = check.run(subject), ""
    except Unmet as error:
        remark, came = "", str(error)
    except NonFiniteError as error:
        remark, came = "", f"NaN or infinity: {error}"
    except Exception as error:  # whatever a module raises is a finding about the module
        remark, came = "", _raised(error)
    seconds = time.monotonic() - began
    if came:
        return Outcome(check.name, "failed", seconds, expected=check.expected, came=came, cause=check.cause)
    return Outcome(check.name, "passed", seconds, remark)


def _raised(error: Exception) -> str:
    """An error in one line, with the place it came from: the innermost one that is not torch's own."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next(frame for frame in reversed(frames) if not frame.filename.startswith(os.path.dirname(torch.__file__)))
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]} ({frame.filename}:{frame.lineno})"


def _without_defaults(error: ValidationError) -> Outcome:
    problems = problems_of(error, lambda path: (".".join(map(str, path)), None))
    came = "; ".join(map(str, problems))
    cause = "a setting without a default; give it one, or check a configuration in Python"
    shapes = interface.shapes_and_types
    return Outcome(shapes.name, "failed", expected=shapes.expected, came=came, cause=cause)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leaves torch's random state and threads as they were; tensors this small lose time to more than one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(range(min(1, torch.cuda.device_count()))):
            yield
    finally:
        torch.set_num_threads(threads)
