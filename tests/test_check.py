"""The conformance kit passes every registered module; `titanlab check` says what it found."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from titanlab.__main__ import main
from titanlab.platform.architecture import ARCHITECTURES
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.testing import check_architecture, check_memory_module
from titanlab.platform.testing.kit import CHECKS
from titanlab.platform.testing.probe import ProbeConfig

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", MEMORY_MODULES)
def test_every_registered_memory_keeps_its_promises(name: str) -> None:
    check_memory_module(MEMORY_MODULES[name], seconds=120).raise_failures()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_registered_architecture_keeps_its_promises(name: str) -> None:
    check_architecture(ARCHITECTURES[name], seconds=120).raise_failures()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", [*MEMORY_MODULES, *ARCHITECTURES])
def test_a_gpu_is_part_of_the_checks(name: str) -> None:
    if name in MEMORY_MODULES:
        report = check_memory_module(MEMORY_MODULES[name], seconds=120)
    else:
        report = check_architecture(ARCHITECTURES[name], seconds=120)
    assert {outcome.check: outcome.remark for outcome in report.outcomes}["device moves"] == "meta and cuda"


SETTINGS: list[dict[str, Any]] = [
    {"type": "titans", "depth": 3, "keep": "chunk", "momentum": "chunk", "step": "chunk", "chunk_size": 3},
    {"type": "titans", "depth": 1, "keep": "constant", "momentum": "none", "residual": True, "convolution": 1},
    {"type": "delta", "step": "constant", "heads": 1, "chunk_size": 5},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_other_settings_keep_them_too(settings: dict[str, Any]) -> None:
    check_memory_module(MEMORY_MODULES.resolve(settings), seconds=120).raise_failures()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", [MEMORY_MODULES, ARCHITECTURES], ids=lambda registry: registry.kind)
def test_a_state_of_another_batch_size_is_refused_with_its_shape(kind: Any, batch: int) -> None:
    for name in kind:
        module = kind.resolve({"type": name})
        module = module.build(16) if kind is MEMORY_MODULES else module.build(16, ProbeConfig())
        with pytest.raises(
            ValueError, match=rf"state: tensor 0 has shape \[{batch}, .*expected the first axis to be 2"
        ):
            module(torch.randn(2, 3, 16), module.initial_state(batch))


def test_every_check_is_on_the_page_about_them() -> None:
    page = (ROOT / "docs/checking.md").read_text()
    rows = re.findall(r"^\| (.+?) \| .+? \| .+? \|$", page, flags=re.MULTILINE)
    assert [row for row in rows if row != "check" and set(row) != {"-"}] == [check.name for check in CHECKS]


PLUGIN = '''
import torch
from torch import nn
from titanlab import MEMORY_MODULES, MemoryConfig, MemoryModule

@MEMORY_MODULES.register("checked_ema")
class EmaConfig(MemoryConfig):
    """A moving average."""
    def build(self, dim: int) -> "Ema":
        return Ema(dim)

class Ema(MemoryModule):
    def __init__(self, dim):
        super().__init__()
        self.write, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
    def initial_state(self, batch):
        return self.write.weight.new_zeros(batch, self.write.out_features)
    def forward(self, x, state):
        reads = []
        for x_t in self.write(x).unbind(1):
            state = 0.9 * state + 0.1 * x_t
            reads.append(state)
        return self.out(torch.stack(reads, 1)), state
    def read(self, x, state):
        return self.out(state[:, None].expand(-1, x.shape[1], -1))
'''


@pytest.fixture
def titanlab(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., tuple[object, str, str]]]:
    """The command line in this process, in an empty folder; plug-ins are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)

    def call(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["titanlab", *arguments])
        with pytest.raises(SystemExit) as leaving:
            main()
            raise SystemExit(0)
        captured = capsys.readouterr()
        return leaving.value.code or 0, captured.out, captured.err

    yield call
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.startswith(("titanlab_plugin_", "checked_package")):
            MEMORY_MODULES.withdraw(name)
            del sys.modules[name]


def test_the_command_shows_a_line_a_check_and_leaves_with_0(titanlab: Callable[..., Any]) -> None:
    code, out, err = titanlab("check", "delta")
    assert (code, err) == (0, "")
    lines = [line.strip() for line in out.splitlines()]
    assert all(sum(line.startswith(f"{check.name}  ") for line in lines) == 1 for check in CHECKS)
    assert re.search(rf"delta: {len(CHECKS)} passed, 0 failed in \d", out)


def test_a_plugin_file_is_checked_in_all_it_registers(titanlab: Callable[..., Any]) -> None:
    Path("mine.py").write_text(PLUGIN)
    for _ in range(2):  # a file loaded before is checked again
        code, out, _ = titanlab("check", "mine.py")
        assert code == 0 and "checked_ema (memory_modules)" in out
    assert titanlab("check", "checked_ema", "--plugin", "mine.py")[0] == 0


def test_a_package_is_checked_in_all_it_registers(titanlab: Callable[..., Any]) -> None:
    Path("checked_package").mkdir()
    Path("checked_package/__init__.py").write_text("")
    Path("checked_package/memories.py").write_text(PLUGIN)
    code, out, _ = titanlab("check", "checked_package.memories")
    assert code == 0 and "checked_ema: " in out


def test_a_failed_check_says_what_came_and_leaves_with_1(titanlab: Callable[..., Any]) -> None:
    Path("leaks.py").write_text(PLUGIN.replace("self.write(x).unbind", "self.write(x + x.mean(1, True)).unbind"))
    code, out, _ = titanlab("check", "leaks.py")
    assert code == 1
    assert re.search(r"future tokens change nothing +FAILED", out)
    for heading in ("expected: +editing token j", "came: +editing token 1 changed output 0", "usual cause: +a mask"):
        assert re.search(heading, out)
    assert re.search(r"checked_ema: \d+ passed, [1-9] failed", out)


def test_a_target_that_names_nothing_is_refused(titanlab: Callable[..., Any]) -> None:
    code, _, err = titanlab("check", "titens")
    assert code == 2 and "did you mean 'titans'?" in err and "FILE.py or package.module" in err
    Path("empty.py").write_text("x = 1\n")
    code, _, err = titanlab("check", "empty.py")
    assert code == 2 and "empty.py registers no memory, inner model or architecture" in err
    code, _, err = titanlab("check", "absent.py")
    assert code == 2 and "cannot be read" in err
