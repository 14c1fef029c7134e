"""NaN and infinity are found where they arise, but only where somebody asked to look for them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from titanlab.memory_modules.functional import (
    deep_memory,
    delta_rule,
    gated_delta_rule,
    linear_attention,
    module_memory,
    momentum_delta_rule,
    rwkv7,
)
from titanlab.platform.architecture import ARCHITECTURES
from titanlab.platform.config import Config
from titanlab.platform.debugging import NonFiniteError, debug, debugging, refuse_nonfinite
from titanlab.platform.errors import NonFiniteLossError
from titanlab.platform.memory import MEMORY_MODULES, MemoryConfig, MemoryModule
from titanlab.platform.run_config import RunConfig, TrainConfig
from titanlab.platform.shapes import shapes_only
from titanlab.platform.testing import check_memory_module
from titanlab.platform.testing.probe import ProbeConfig
from titanlab.platform.training.loop import train

B, T, H, D = 2, 5, 2, 3


def shipped(registry: Mapping[str, type[Config]]) -> list[str]:
    """The names that come with titanlab, not those of other tests' plug-ins."""
    return sorted(name for name in registry if registry[name].__module__.startswith("titanlab."))


def spoilt(x: Tensor, *position: int, value: float = math.nan) -> Tensor:
    x = x.clone()
    x[position] = value
    return x


def test_the_error_names_the_argument_the_count_the_first_position_and_what_is_there() -> None:
    x = spoilt(spoilt(torch.zeros(2, 3, 4), 0, 2, 1, value=math.inf), 1, 0, 0)
    with debug(), pytest.raises(NonFiniteError) as raised:
        refuse_nonfinite({"fine": torch.ones(3), "x": x})
    assert str(raised.value) == (
        "x: 2 of 24 values are not finite, the first at [0, 2, 1]: inf; expected finite numbers (shape [2, 3, 4], "
        "torch.float32)"
    )
    assert isinstance(raised.value, ValueError)


def test_a_part_of_a_state_is_named_by_its_path() -> None:
    state = {"rule": (torch.zeros(2), spoilt(torch.zeros(2, 2), 1, 0)), "position": torch.zeros(2, dtype=torch.int64)}
    with debug(), pytest.raises(ValueError, match=r"^state\['rule'\]\[1\]: 1 of 4 values .* first at \[1, 0\]: nan"):
        refuse_nonfinite({"state": state})


def test_a_logarithm_may_be_minus_infinity_but_no_more() -> None:
    with debug():
        refuse_nonfinite({"log_decay": torch.tensor([0.0, -math.inf])})
        for value in (math.inf, math.nan):
            with pytest.raises(ValueError, match="log_decay: 1 of 2 .* expected numbers or -inf"):
                refuse_nonfinite({"log_decay": torch.tensor([0.0, value])})


def test_it_is_off_unless_asked_for_and_ends_with_its_block_and_stays_in_its_thread() -> None:
    bad = {"x": torch.tensor([math.nan])}
    refuse_nonfinite(bad)
    with pytest.raises(RuntimeError, match="inside"), debug():
        assert debugging()
        seen: list[bool] = []
        thread = threading.Thread(target=lambda: seen.append(debugging()))
        thread.start()
        thread.join()
        assert seen == [False]
        with debug(False):
            refuse_nonfinite(bad)
        raise RuntimeError("inside")
    assert not debugging()


def test_tensors_without_numbers_are_passed_over() -> None:
    with debug(), shapes_only():
        refuse_nonfinite({"x": torch.empty(3)})


def arguments() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    names = ("q", "k", "v", "r", "a", "b")
    vectors = {name: 0.3 * torch.randn(B, T, H, D, generator=random) for name in names}
    gates = {name: 0.1 + 0.5 * torch.rand(B, T, H, generator=random) for name in ("keep", "momentum", "step", "beta")}
    decays = {"log_decay": -torch.rand(B, T, H, generator=random), "log_w": -torch.rand(B, T, H, D, generator=random)}
    return {**vectors, **gates, **decays}


RULES: list[tuple[Callable[..., Any], list[str], list[Any]]] = [
    (deep_memory, ["q", "k", "v", "keep", "momentum", "step"], [[torch.ones(H, D, D)]]),
    (module_memory, ["q", "k", "v", "keep", "momentum", "step"], [nn.Linear(D, D)]),
    (momentum_delta_rule, ["q", "k", "v", "keep", "momentum", "step"], []),
    (delta_rule, ["q", "k", "v", "beta"], []),
    (gated_delta_rule, ["q", "k", "v", "log_decay", "beta"], []),
    (linear_attention, ["q", "k", "v", "log_decay"], []),
    (rwkv7, ["r", "log_w", "k", "v", "a", "b"], []),
]


@pytest.mark.parametrize(
    ("rule", "names", "rest", "name"),
    [(rule, names, rest, name) for rule, names, rest in RULES for name in [*names, "state"]],
    ids=[f"{rule.__name__}-{name}" for rule, names, _ in RULES for name in [*names, "state"]],
)
def test_every_rule_refuses_every_argument(
    rule: Callable[..., Any], names: list[str], rest: list[Any], name: str
) -> None:
    given = arguments()
    _, state = rule(*(given[other] for other in names), *rest, chunk_size=2)
    if name == "state":
        state = torch.utils._pytree.tree_map(lambda x: x * math.nan if x.is_floating_point() else x, state)
    else:
        given[name] = spoilt(given[name], 1, 3, 1)
    positional = [given[other] for other in names]
    rule(*positional, *rest, chunk_size=2, state=state)
    with debug(), pytest.raises(NonFiniteError, match=rf"^{name}\b"):
        rule(*positional, *rest, chunk_size=2, state=state)


@pytest.mark.parametrize("name", shipped(MEMORY_MODULES))
def test_every_memory_refuses_what_is_not_finite_and_runs_as_before_otherwise(name: str) -> None:
    module, x = MEMORY_MODULES.resolve({"type": name}).build(16), torch.randn(2, 5, 16)
    with torch.no_grad():
        expected, state = module(x, module.initial_state(2))
        with debug():
            assert torch.equal(module(x, module.initial_state(2))[0], expected)
            with pytest.raises(NonFiniteError, match=r"^x: 1 of 160 .* \[1, 3, 2\]: inf") as raised:
                module(spoilt(x, 1, 3, 2, value=math.inf), state)
    assert raised.value.module is module


@pytest.mark.parametrize("name", shipped(ARCHITECTURES))
def test_every_architecture_does_too(name: str) -> None:
    block, x = ARCHITECTURES.resolve({"type": name}).build(16, ProbeConfig()), torch.randn(2, 40, 16)
    with torch.no_grad():
        expected, _ = block(x, block.initial_state(2))
        with debug():
            y, state = block(x, block.initial_state(2))
            assert torch.equal(y, expected)
            block(x, state)
            with pytest.raises(NonFiniteError, match=r"^x: 1 of"):
                block(spoilt(x, 0, 0, 0), state)


class Reads(TorchDispatchMode):
    """Records what a GPU would be waited for: numbers read, or looked for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(word in str(func) for word in ("_local_scalar_dense", "nonzero", "isfinite", "is_nonzero")):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def test_nothing_is_looked_for_when_it_is_off() -> None:
    module, x = ProbeConfig().build(16), torch.randn(2, 5, 16)
    with torch.no_grad():
        for on in (False, True):
            with debug(on), Reads() as reads:
                module(x, module.initial_state(2))
            assert bool(reads.found) == on


class FaultyConfig(MemoryConfig):
    """A memory that breaks after some tokens."""

    fault: str = "output"
    """output or gradient."""

    def build(self, dim: int) -> FaultyMemory:
        return FaultyMemory(dim, self)


class FaultyMemory(MemoryModule):
    def __init__(self, dim: int, config: FaultyConfig) -> None:
        super().__init__()
        self.fault, self.gain, self.calls = config.fault, nn.Parameter(torch.zeros(dim)), 0

    def initial_state(self, batch: int) -> Tensor:
        return self.gain.new_zeros(batch, 1)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if self.training and not x.is_meta:
            self.calls += 1
        if self.fault == "gradient":
            return x + (self.gain * 0).sqrt(), state  # finite, with an infinite slope times 0
        return (x / 0 if self.calls > 2 else x + self.gain), state

    def read(self, x: Tensor, state: Tensor) -> Tensor:
        return x


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    MEMORY_MODULES.register("faulty_for_debugging")(FaultyConfig)
    yield
    MEMORY_MODULES.withdraw(__name__)


def run_of(fault: str, debug: bool) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {
                "dim": 16, "layers": 2, "architecture": {"type": "lmm", "persistent": 0},
                "memory": {"type": "faulty_for_debugging", "fault": fault},
            },
            "task": {"type": "mqar", "vocab": 16, "pairs": 2, "length": 8, "eval_examples": 4},
            "train": {"steps": 6, "batch_size": 2, "debug": debug},
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("output", r"blocks\.0\.memory: y \(x and state were finite\): .* values are not finite, .* at step 3 of 6"),
        ("gradient", r"gradient of blocks\.\d\.memory\.gain: 16 of 16 values are not finite, .* at step 1 of 6"),
    ],
)
def test_training_in_debug_mode_names_the_layer(fault: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=message):
        train(run_of(fault, debug=True), tmp_path / "debug")
    with pytest.raises(NonFiniteLossError, match="the (loss|gradient) became"):
        train(run_of(fault, debug=False), tmp_path / "plain")
    assert not debugging()


def test_debug_is_no_part_of_a_runs_identity() -> None:
    run: Config = run_of("output", debug=True)
    assert isinstance(run, RunConfig) and run.key == run_of("output", debug=False).key
    assert not TrainConfig().debug


def test_the_kit_names_what_is_not_finite() -> None:
    class Spoils(FaultyConfig):
        """Infinite from the first token."""

        def build(self, dim: int) -> FaultyMemory:
            module = FaultyMemory(dim, self)
            module.calls = 3
            return module

    report = check_memory_module(Spoils)
    assert any("NaN or infinity: y (x and state were finite)" in failure.came for failure in report.failures)
