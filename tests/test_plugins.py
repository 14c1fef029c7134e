"""A researcher's own file or package: loaded when named, refused with one line that names file and cause."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from titanlab.platform.errors import PluginError
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.plugins import Plugin, install, load_plugin

GOOD = '''\
import torch
from torch import nn
from titanlab import MEMORY_MODULES, MemoryConfig, MemoryModule

@MEMORY_MODULES.register("plugged")
class PluggedConfig(MemoryConfig):
    """A running mean."""
    keep: float = 0.9
    """What stays at each token."""
    def build(self, dim: int) -> "Plugged":
        return Plugged(dim, self)

class Plugged(MemoryModule):
    def __init__(self, dim: int, config: PluggedConfig) -> None:
        super().__init__()
        self.out = nn.Linear(dim, dim)
    def initial_state(self, batch: int) -> torch.Tensor:
        return self.out.weight.new_zeros(batch, self.out.in_features)
    def forward(self, x, state):
        return self.out(x), state
    def read(self, x, state):
        return self.out(x)
'''


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """Each test leaves no plug-in behind."""
    before, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.startswith(("titanlab_plugin_", "own_package")):
            MEMORY_MODULES.withdraw(name)
            del sys.modules[name]


def write(folder: Path, text: str, name: str = "own.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_file_registers_what_it_holds(tmp_path: Path) -> None:
    plugin = load_plugin(write(tmp_path, GOOD))
    assert (plugin.name, plugin.source, plugin.module) == ("own", GOOD, "")
    memory = MEMORY_MODULES.resolve({"type": "plugged", "keep": 0.5})
    assert memory.state_size(16) == 64
    assert type(memory).model_fields["keep"].description == "What stays at each token."


def test_the_same_file_named_twice_is_loaded_once(tmp_path: Path) -> None:
    assert load_plugin(write(tmp_path, GOOD)) == load_plugin(write(tmp_path, GOOD))


def test_a_worker_installs_what_it_was_sent_without_the_file() -> None:
    install(Plugin("own", GOOD, "/not/there/own.py"))
    assert MEMORY_MODULES["plugged"].model_fields["keep"].description == "What stays at each token."


def test_a_package_is_imported_by_its_dotted_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_package").mkdir()
    write(tmp_path / "own_package", "", "__init__.py")
    write(tmp_path / "own_package", GOOD, "memories.py")
    monkeypatch.chdir(tmp_path)
    plugin = load_plugin("own_package.memories")
    assert plugin.module == "own_package.memories" and plugin.source == GOOD
    assert "plugged" in MEMORY_MODULES
    install(plugin)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("import nothing_like_it\n", r"failed to import: ModuleNotFoundError: No module .* \(.*own.py:1\)"),
        ("x = 1\n\nraise ValueError('first\\nsecond')\n", r"failed to import: ValueError: first \(.*own.py:3\)$"),
        ("x = 1\ndef f(:\n", r"failed to import: SyntaxError: .* \(.*own.py:2\)$"),
        ("import sys\nsys.exit(3)\n", r"failed to import: SystemExit: 3 \(.*own.py:2\)"),
        (GOOD.replace("def read(", "def reed("), r"class Plugged \(MemoryModule\) does not define read"),
        (GOOD.replace("def build(", "def bild("), r"PluggedConfig does not define build"),
        (GOOD.replace('"plugged"', '"titans"'), r"'titans' in memory_modules: .* taken by TitansConfig"),
        (GOOD.replace('"plugged"', "7"), r"a name is a word"),
        ("x = '\x00'\n", r"failed to import: "),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_gives_one_line_with_its_name_and_the_cause(
    tmp_path: Path, text: str, expected: str
) -> None:
    file = write(tmp_path, text)
    with pytest.raises(PluginError, match=expected) as refused:
        load_plugin(file)
    assert str(refused.value).startswith(f"plugin {file}: ")
    assert len(str(refused.value).splitlines()) == 1
    assert "plugged" not in MEMORY_MODULES, "a failed plug-in leaves nothing behind"


def test_a_mended_file_can_be_loaded_again_in_the_same_process(tmp_path: Path) -> None:
    with pytest.raises(PluginError):
        load_plugin(write(tmp_path, GOOD + "\nraise RuntimeError\n"))
    load_plugin(write(tmp_path, GOOD))
    assert "plugged" in MEMORY_MODULES


def test_a_base_class_of_ones_own_may_be_abstract(tmp_path: Path) -> None:
    text = GOOD.replace("class Plugged(MemoryModule)", "class Base(MemoryModule):\n    pass\n\nclass Plugged(Base)")
    load_plugin(write(tmp_path, text))


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="cannot be read: No such file or directory"):
        load_plugin(str(tmp_path / "absent.py"))
    with pytest.raises(PluginError, match="cannot be read: Is a directory"):
        load_plugin(f"{tmp_path}/")
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe")
    with pytest.raises(PluginError, match="is not a text file"):
        load_plugin(str(tmp_path / "binary.py"))


def test_a_package_that_is_not_there_is_refused() -> None:
    with pytest.raises(PluginError, match="plugin no_such_package.memories: failed to import: ModuleNotFoundError"):
        load_plugin("no_such_package.memories")
