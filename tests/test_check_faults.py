"""Planted faults: each is found by the check that should, which says what was expected, what came and why."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from titanlab.platform.architecture import Architecture, ArchitectureConfig
from titanlab.platform.memory import MemoryConfig, MemoryModule
from titanlab.platform.testing import Outcome, Report, check_architecture, check_memory_module
from titanlab.platform.testing.kit import CHECKS


class SoundConfig(MemoryConfig):
    """A moving average a head, right in everything: the faults below are each one change to it."""

    chunk_size: int = 4
    """Tokens that a fault may mix."""

    def build(self, dim: int) -> "Sound":
        return Sound(dim, self)


class Sound(MemoryModule):
    heads = 2

    def __init__(self, dim: int, config: SoundConfig) -> None:
        super().__init__()
        self.config, self.keep = config, 0.9
        self.write, self.query, self.out = (nn.Linear(dim, dim) for _ in range(3))

    def initial_state(self, batch: int) -> Any:
        return self.write.weight.new_zeros(batch, self.heads, self.write.out_features // self.heads)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        states = []
        for value in self.write(x).unflatten(-1, (self.heads, -1)).unbind(1):
            state = self.keep * state + (1 - self.keep) * value
            states.append(state)
        return self.answer(x, torch.stack(states, 1).flatten(2)), state

    def read(self, x: Tensor, state: Any) -> Tensor:
        return self.answer(x, state.flatten(1)[:, None])

    def answer(self, x: Tensor, states: Tensor) -> Tensor:
        return self.out(self.query(x).tanh() * states)


def report_of(module: type[MemoryModule], **methods: Any) -> Report:
    """The checks of a memory whose configuration builds `module`."""
    body = {"build": lambda self, dim: module(dim, self), "__module__": __name__, **methods}
    return check_memory_module(type("PlantedConfig", (SoundConfig,), body), seconds=120)


def failed(report: Report) -> dict[str, Outcome]:
    return {failure.check: failure for failure in report.failures}


def test_a_sound_memory_passes_every_check() -> None:
    report = report_of(Sound)
    report.raise_failures()
    assert report.passed and not report.failures
    assert [outcome.check for outcome in report.outcomes] == [check.name for check in CHECKS]
    assert report.seconds < 20


class Leaks(Sound):
    """Each token sees the next."""

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = super().forward(x, state)
        return y + 1e-9 * x.roll(-1, 1), state


class ReadsAtChunkEnd(Sound):
    """All tokens of a chunk read what the whole chunk has written."""

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs = []
        for chunk in x.split(self.config.chunk_size, 1):
            _, state = super().forward(chunk, state)
            outputs.append(self.read(chunk, state))
        return torch.cat(outputs, 1), state


class NeverUsed(Sound):
    """A weight that no output depends on."""

    def __init__(self, dim: int, config: SoundConfig) -> None:
        super().__init__(dim, config)
        self.spare = nn.Parameter(torch.ones(dim))


class TimesZero(NeverUsed):
    """A weight whose gradient is always 0."""

    def answer(self, x: Tensor, states: Tensor) -> Tensor:
        return super().answer(x, states) + 0 * self.spare


class BatchMean(Sound):
    """Values are centred over the batch."""

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return super().forward(x - x.mean(0, keepdim=True), state)


class BatchNorm(Sound):
    """Mixes sequences in training only."""

    def __init__(self, dim: int, config: SoundConfig) -> None:
        super().__init__(dim, config)
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return super().forward(self.norm(x.mT).mT, state)


class Remembers(Sound):
    """Keeps the last sequence's end for the next one."""

    last = 0.0

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = super().forward(x, state)
        y, self.last = y + self.last, float(x[0, -1, 0])
        return y, state


class HeadsFirst(Sound):
    """The state is [h, b, d]."""

    def initial_state(self, batch: int) -> Tensor:
        return super().initial_state(batch).transpose(0, 1)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = super().forward(x, state.transpose(0, 1))
        return y, state.transpose(0, 1)


class Counts(Sound):
    """A Python number in the state."""

    def initial_state(self, batch: int) -> Any:
        return super().initial_state(batch), 0

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, matrix = super().forward(x, state[0])
        return y, (matrix, state[1] + x.shape[1])


class ReadWrites(Sound):
    """A read that decays what it reads."""

    def read(self, x: Tensor, state: Any) -> Tensor:
        return super().read(x, state.mul_(0.99))


class ReadMixes(Sound):
    """A read whose queries are averaged."""

    def read(self, x: Tensor, state: Any) -> Tensor:
        return super().read(x + x.mean(1, keepdim=True), state)


class WritesInPlace(Sound):
    """The state handed in is the state handed out."""

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, after = super().forward(x, state)
        with torch.no_grad():
            state.copy_(after)
        return y, after


class DrawsLots(Sound):
    """Random numbers in evaluation too."""

    def answer(self, x: Tensor, states: Tensor) -> Tensor:
        return super().answer(x, states) + 1e-6 * torch.randn_like(x)


class GrowsWithoutBound(Sound):
    """Keeps more than all."""

    def __init__(self, dim: int, config: SoundConfig) -> None:
        super().__init__(dim, config)
        self.keep = 1.2


class GrowsSlowly(GrowsWithoutBound):
    """Exponential, though still finite after 2,048 tokens."""

    def __init__(self, dim: int, config: SoundConfig) -> None:
        super().__init__(dim, config)
        self.keep = 1.01


class ForgetsAtCalls(Sound):
    """A call starts from nothing."""

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return super().forward(x, torch.zeros_like(state))


class DropsChunkEnds(Sound):
    """The memory decays once a chunk, counted within the call by the chunk length."""

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return super().forward(x / self.config.chunk_size, state)


class Detaches(Sound):
    """Gradients stop at a call's end."""

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return super().forward(x, state.detach())


class PlainTensor(Sound):
    """A random projection that state_dict does not know."""

    def __init__(self, dim: int, config: SoundConfig) -> None:
        super().__init__(dim, config)
        self.projection = torch.randn(dim, dim).double()

    def answer(self, x: Tensor, states: Tensor) -> Tensor:
        return super().answer(x, states) + x @ self.projection.to(x)


class LooksAtNumbers(Sound):
    """Cannot be built without storage."""

    def __init__(self, dim: int, config: SoundConfig) -> None:
        super().__init__(dim, config)
        self.scale = self.write.weight.norm().item()


class Float32Inside(Sound):
    """Float64 comes in and leaves, float32 is computed."""

    def answer(self, x: Tensor, states: Tensor) -> Tensor:
        return super().answer(x.float().to(x.dtype), states.float().to(x.dtype))


class RoundsToOne(Sound):
    """log(1 - keep), where bfloat16 rounds keep to 1."""

    def answer(self, x: Tensor, states: Tensor) -> Tensor:
        return super().answer(x, states) + 1e-3 * (1 - torch.full_like(x, 0.999)).log()


class AnswersInFloat32(Sound):
    """The output has another type than the input."""

    def answer(self, x: Tensor, states: Tensor) -> Tensor:
        return super().answer(x, states).float()


class WrongBackward(Sound):
    """A backward of its own that is half of what it should be."""

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient

    def answer(self, x: Tensor, states: Tensor) -> Tensor:
        return super().answer(x, self.Doubled.apply(states))


class InfiniteGradient(Sound):
    """A root at 0."""

    def answer(self, x: Tensor, states: Tensor) -> Tensor:
        return super().answer(x, states) + 0 * (states - states).sqrt()


class TakesAnyState(Sound):
    """Goes around the interface's own look at the batch, as `forward` called by hand does."""

    def __call__(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.forward(x, state)


class Raises(Sound):
    """Cannot run at all."""

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        raise KeyError("no such head")


FAULTS = {
    WrongBackward: ("gradients are right", "the slope measured", "a term missing"),
    InfiniteGradient: ("gradients reach every weight", "the gradient of .* is not finite", "root"),
    TakesAnyState: ("other batch size is refused", "a state of 3 for 2 sequences raised RuntimeError", "around"),
    Raises: ("shapes and types", r"KeyError: 'no such head' \(.*_faults.py:\d+\)", "setting without a default"),
    Leaks: ("future tokens change nothing", r"editing token 1 changed output 0, 1 before it", "mask"),
    ReadsAtChunkEnd: ("future tokens change nothing", r"editing token 1 changed output 0", "chunk's end"),
    NeverUsed: ("gradients reach every weight", "spare gets no gradient", "does not use"),
    TimesZero: ("gradients reach every weight", "the gradient of spare is 0 everywhere", "does not use"),
    BatchMean: ("sequences of a batch are apart", "changed the others by .* in training mode", "over the batch axis"),
    BatchNorm: ("sequences of a batch are apart", "changed the others by .* in training mode", "over the batch axis"),
    Remembers: ("nothing stays on the module", "after other sequences the same call differs", "attribute"),
    HeadsFirst: ("state is tensors, batch first", r"for 5 sequences has shape \[2, 5, 8\]", "before the batch"),
    Counts: ("state is tensors, batch first", "leaf 1 .* is 0, of type int", "make it a tensor"),
    ReadWrites: ("read writes nothing", "the state has other values after read", "in place"),
    ReadMixes: ("read writes nothing", "editing the query of token 2 changed", "over the queries"),
    WritesInPlace: ("state handed in stays", "other values after the call", "in place"),
    DrawsLots: ("same seed, same outputs", "two modules of one seed differ by", "random numbers"),
    GrowsWithoutBound: ("long input stays finite", "NaN or infinity", "decay above 1"),
    GrowsSlowly: ("long input stays finite", "grew from .* as the input doubled", "decay above 1"),
    ForgetsAtCalls: ("cut anywhere, same outputs", "token by token, outputs differ", "missing in the state"),
    DropsChunkEnds: ("chunk length", "chunk_size 1 and 8 differ by", "chunk_exact"),
    Detaches: (
        "gradients are right",
        r"along one direction of \w[\w.]* the gradient is .*, the slope measured",
        "detach",
    ),
    PlainTensor: ("saved and loaded", "outputs differ by", "register_buffer"),
    LooksAtNumbers: ("device moves", r"item\(\)", "while building"),
    Float32Inside: ("gradients are right", "the slope measured", "float32"),
    RoundsToOne: ("type moves", "NaN or infinity: y .*torch.bfloat16", "half precision"),
    AnswersInFloat32: ("shapes and types", r"float64 gave y .* torch.float32", "float"),
}


@pytest.mark.parametrize("module", FAULTS, ids=lambda module: module.__name__)
def test_a_planted_fault_is_found_by_its_check(module: type[Sound]) -> None:
    name, came, cause = FAULTS[module]
    report = report_of(module)
    outcome = failed(report)[name]
    assert re.search(came, outcome.came), outcome.came
    assert cause in outcome.cause and outcome.expected
    with pytest.raises(AssertionError) as listed:
        report.raise_failures()
    assert all(str(failure) in str(listed.value) for failure in report.failures)


def test_a_wrong_declared_state_size_is_found() -> None:
    failure = failed(report_of(Sound, state_size=lambda self, dim: 4 * dim - 4))["state size as declared"]
    assert failure.came == "state_size(16) is 60 bytes; initial_state(1) takes 64"
    assert "misses a part of the state" in failure.cause


def test_a_chunk_length_that_is_part_of_the_rule_is_printed_and_no_failure() -> None:
    report = report_of(DropsChunkEnds, chunk_exact=False)
    report.raise_failures()
    remark = {outcome.check: outcome.remark for outcome in report.outcomes}["chunk length"]
    assert re.fullmatch(r"part of the rule: \d+\.\d% between chunk_size 1 and 8", remark)


def test_a_setting_without_a_default_is_found() -> None:
    class NeedsKeep(SoundConfig):
        keep: float

    (failure,) = check_memory_module(NeedsKeep).failures
    assert (failure.check, failure.came) == ("shapes and types", "keep: this key is required")
    check_memory_module(NeedsKeep(keep=0.5)).raise_failures()


def test_checks_that_nothing_can_be_said_by_are_not_run() -> None:
    report = report_of(Raises)
    assert {failure.check for failure in report.failures} == {"state is tensors, batch first", "shapes and types"}
    assert {outcome.remark for outcome in report.outcomes[2:]} == {"needs 'state is tensors, batch first'"}


def test_what_was_not_run_in_time_is_no_pass() -> None:
    report = check_memory_module(SoundConfig, seconds=0)
    assert not report.failures and not report.passed
    with pytest.raises(AssertionError, match="not run .0 s are over"):
        report.raise_failures()


def test_checks_leave_chance_and_threads_as_they_were() -> None:
    torch.manual_seed(5)
    expected, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(5)
    check_memory_module(SoundConfig)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads


class LooseConfig(ArchitectureConfig):
    """A residual around the memory, and a look at the whole sequence."""

    def build(self, dim: int, memory: MemoryConfig) -> "Loose":
        return Loose(dim, memory)


class Loose(Architecture):
    def __init__(self, dim: int, memory: MemoryConfig) -> None:
        super().__init__()
        self.memory = memory.build(dim)

    def initial_state(self, batch: int) -> Any:
        return self.memory.initial_state(batch)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self.memory(x, state)
        return x + y / x.norm(dim=1, keepdim=True), state


def test_a_fault_of_an_architecture_is_found_with_any_memory() -> None:
    for memory in (None, SoundConfig()):
        failures = failed(check_architecture(LooseConfig, memory=memory))
        assert "future tokens change nothing" in failures and "cut anywhere, same outputs" in failures
