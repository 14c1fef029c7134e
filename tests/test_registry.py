"""Registration: by decorator and by entry point, with one clear line for each mistake."""

import copy
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints

import pytest
from pydantic import ValidationError

from titanlab.platform import registry as registry_module
from titanlab.platform.config import Config
from titanlab.platform.errors import PluginError
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.registry import Registry


class ToolConfig(Config, ABC):
    """What a tool is registered by."""

    @abstractmethod
    def build(self) -> str:
        """The tool."""


class Hammer(ToolConfig):
    """A hammer."""

    weight: int = 1

    def build(self) -> str:
        return "hammer"


class Saw(ToolConfig):
    """A saw."""

    def build(self) -> str:
        return "saw"


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry[ToolConfig]]:
    """A registry of its own, whose package registers nothing."""
    install(monkeypatch)
    yield Registry("tools", ToolConfig, "titanlab.commands")
    for cls in (Hammer, Saw):
        cls.type_name = ""


def install(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    """Makes it look as if packages with these entry points were installed."""
    found = EntryPoints(EntryPoint(name.rstrip("_"), value, "titanlab.tools") for name, value in points.items())
    monkeypatch.setattr(registry_module, "entry_points", lambda group: found.select(group=group))


def test_a_registered_class_is_found_and_knows_its_name(tools: Registry[ToolConfig]) -> None:
    assert tools.register("hammer")(Hammer) is Hammer
    assert tools["hammer"] is Hammer and list(tools) == ["hammer"] and len(tools) == 1
    assert "hammer" in tools and "saw" not in tools and ["hammer"] not in tools
    assert tools.resolve({"type": "hammer", "weight": 2}) == Hammer(weight=2)
    assert Hammer(weight=2).settings() == {"type": "hammer", "weight": 2}


def test_a_taken_name_is_refused_and_both_files_named(tools: Registry[ToolConfig]) -> None:
    tools.register("tool")(Hammer)
    with pytest.raises(
        PluginError, match=r"test_registry.py: cannot register 'tool' in tools: .* taken by Hammer in .*"
    ):
        tools.register("tool")(Saw)
    assert tools["tool"] is Hammer


def test_a_name_that_comes_with_titanlab_is_refused_to_a_newcomer() -> None:
    class Mine(MEMORY_MODULES.base):  # type: ignore[name-defined]
        def build(self, dim: int) -> None: ...

    with pytest.raises(PluginError, match="'titans' in memory_modules: the name is taken by TitansConfig in"):
        MEMORY_MODULES.register("titans")(Mine)


def test_a_class_of_a_wrong_base_is_refused(tools: Registry[ToolConfig]) -> None:
    with pytest.raises(PluginError, match="Config must be a subclass of ToolConfig"):
        tools.register("tool")(Config)  # type: ignore[type-var]
    with pytest.raises(PluginError, match="must be a subclass of ToolConfig"):
        tools.register("tool")(lambda: None)  # type: ignore[type-var, arg-type]


def test_a_class_that_misses_a_method_is_refused(tools: Registry[ToolConfig]) -> None:
    class Broken(ToolConfig):
        pass

    with pytest.raises(PluginError, match="Broken does not define build"):
        tools.register("broken")(Broken)


@pytest.mark.parametrize("name", ["", "a b", "a.b", "1a", 3, Hammer])
def test_a_name_that_is_no_word_is_refused(tools: Registry[ToolConfig], name: object) -> None:
    with pytest.raises(PluginError, match="a name is a word"):
        tools.register(name)(Hammer)  # type: ignore[arg-type]


def test_one_class_has_one_name(tools: Registry[ToolConfig]) -> None:
    tools.register("hammer")(Hammer)
    with pytest.raises(PluginError, match="Hammer is registered as 'hammer'"):
        tools.register("mallet")(Hammer)


def test_an_unknown_name_gives_the_nearest_and_the_list(tools: Registry[ToolConfig]) -> None:
    tools.register("hammer")(Hammer)
    with pytest.raises(KeyError, match="did you mean 'hammer'"):
        tools["hamer"]
    with pytest.raises(ValidationError, match="unknown name in tools 'hamer'; did you mean 'hammer'. Known: hammer"):
        tools.resolve({"type": "hamer"})


@pytest.mark.parametrize("value", [None, 3, "hammer", [], {}, {"weight": 1}, {"type": None}, {"type": {"a": 1}}])
def test_what_names_no_type_is_refused_with_words(tools: Registry[ToolConfig], value: object) -> None:
    tools.register("hammer")(Hammer)
    with pytest.raises(ValidationError, match="hammer"):
        tools.resolve(value)


def test_a_registry_is_never_pickled(tools: Registry[ToolConfig]) -> None:
    for attempt in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="the registry of tools is not pickled"):
            attempt(tools)  # type: ignore[operator]


def test_an_entry_point_is_listed_at_once_and_imported_when_asked_for(
    tools: Registry[ToolConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, saw="test_registry_absent:Saw")
    assert "saw" in tools and list(tools) == ["saw"]
    with pytest.raises(
        PluginError, match=r"entry point 'saw' of tools \(test_registry_absent:Saw\) failed to import: Mod"
    ):
        tools["saw"]


def test_an_entry_point_registers_its_class(tools: Registry[ToolConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, saw=f"{__name__}:Saw")
    monkeypatch.setattr(EntryPoint, "load", lambda point: Saw)
    assert tools["saw"] is Saw and tools["saw"] is Saw
    assert tools.resolve({"type": "saw"}) == Saw()


def test_an_entry_point_of_a_wrong_class_is_refused(
    tools: Registry[ToolConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, saw="json:JSONDecoder")
    with pytest.raises(PluginError, match="JSONDecoder must be a subclass of ToolConfig"):
        tools["saw"]


def test_a_file_cannot_take_the_name_of_an_entry_point(
    tools: Registry[ToolConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, saw="another_package.saws:Saw")
    with pytest.raises(PluginError, match="the name is taken by the entry point another_package.saws:Saw"):
        tools.register("saw")(Saw)


def test_two_packages_cannot_share_a_name(tools: Registry[ToolConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, saw="one:Saw", saw_="two:Saw")
    with pytest.raises(PluginError, match="two installed packages register 'saw' in tools: one:Saw and two:Saw"):
        list(tools)
