"""Checks of what an output must not depend on: later tokens, other sequences, earlier calls, chance."""

from __future__ import annotations

import torch

from titanlab.platform.testing.report import Unmet, check
from titanlab.platform.testing.subject import Subject, initial_state, run, tokens


@check(
    "future tokens change nothing",
    expected="editing token j changes outputs before j by exactly 0.0",
    cause="a mask missing or off by one, a memory read at its chunk's end, or a mean over the chunk or sequence",
)
@torch.no_grad()
def future_changes_nothing(subject: Subject) -> str:
    module, x, other = subject.module(), tokens(1, subject.time), tokens(1, subject.time, seed=1)
    before = run(module, x)
    stride = max(1, subject.time // 32)  # long chunks that were asked for stay affordable
    for j in range(1, subject.time, stride):
        edited = x.clone()
        edited[:, j] = other[:, j]
        change = (run(module, edited) - before)[:, :j].abs().amax((0, 2))
        if not (change == 0).all():
            first = int((change != 0).nonzero()[0])
            raise Unmet(f"editing token {j} changed output {first}, {j - first} before it, by {change[first]:.2g}")
    return f"{subject.time} tokens"


@check(
    "sequences of a batch are apart",
    expected="editing one sequence of a batch changes the others by exactly 0.0, in training mode too",
    cause="a mean or a norm over the batch axis, or memory that all rows share",
)
@torch.no_grad()
def batch_rows_are_apart(subject: Subject) -> str:
    for training in (True, False):
        x = tokens(3, subject.time)
        before = run(subject.module().train(training), x)
        x[1] = tokens(1, subject.time, seed=1)[0]
        change = float((run(subject.module().train(training), x) - before)[[0, 2]].abs().max())
        if change != 0.0:
            mode = "training" if training else "evaluation"
            raise Unmet(f"editing sequence 1 of 3 changed the others by {change:.2g} in {mode} mode")
    return ""


@check(
    "same seed, same outputs",
    expected="two modules built at one seed give the same outputs to the last bit (in evaluation mode)",
    cause="random numbers drawn in forward, or weights drawn from another generator than torch's",
)
@torch.no_grad()
def same_seed_same_outputs(subject: Subject) -> str:
    x, outputs = tokens(2, subject.time), []
    for seed in (1, 2):
        module = subject.module()
        torch.manual_seed(seed)  # chance in forward shows itself
        outputs.append(module(x, initial_state(module, 2))[0])
    if not torch.equal(*outputs):
        raise Unmet(f"two modules of one seed differ by {float((outputs[0] - outputs[1]).abs().max()):.2g}")
    return ""


@check(
    "nothing stays on the module",
    expected="a call gives the same whatever the module was shown before",
    cause="state kept as an attribute or a buffer; hand it out as part of the state instead",
)
@torch.no_grad()
def nothing_stays_on_the_module(subject: Subject) -> str:
    x = tokens(2, subject.time)
    used, unused = subject.module(), subject.module()
    for seed in (1, 2):
        run(used, tokens(2, subject.time, seed=seed))
    run(used, tokens(3, 2, seed=3))
    change = float((run(used, x) - run(unused, x)).abs().max())
    if change != 0.0:
        raise Unmet(f"after other sequences the same call differs by {change:.2g}")
    return ""
