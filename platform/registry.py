"""Names for the things a researcher can plug in: one generic registry of configuration classes."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, NoReturn, TypeVar

from titanlab.platform.config import Config, shown_value, validation_error
from titanlab.platform.errors import PluginError, unknown_name

C = TypeVar("C", bound=Config)
Registered = TypeVar("Registered", bound=Config)

_ALL: list[Registry[Any]] = []
"""Every registry there is, those that plug-in packages make of their own included."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class Registry(Mapping[str, type[C]], Generic[C]):
    """Configuration classes by name.

    Names come from three places: the modules of `package` (imported at the first look-up), installed entry points of
    the group `titanlab.<kind>` (each imported when its name is asked for), and `register` used by a plug-in file.

    Args:
        kind: the plural a user reads, also the word for it in `titanlab list` (`memory_modules`).
        base: what every registered class must derive from.
        package: the dotted package whose modules register themselves, named as a string so that imports point downward.
    """

    def __init__(self, kind: str, base: type[C], package: str) -> None:
        self.kind, self.base, self.package = kind, base, package
        self._classes: dict[str, type[C]] = {}
        self._discovered = False
        _ALL.append(self)

    def register(self, name: str) -> Callable[[type[Registered]], type[Registered]]:
        """Class decorator: makes a configuration class known as `type: name`.

        Raises:
            PluginError: the name is taken, the class has a wrong base, or it does not define `build`.
        """

        def add(cls: type[Registered]) -> type[Registered]:
            self._check(name, cls)
            cls.type_name = name
            self._classes[name] = cls  # type: ignore[assignment]
            return cls

        return add

    def _check(self, name: str, cls: type[Any]) -> None:
        where = f"{_source(cls)}: cannot register '{name}' in {self.kind}"
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise PluginError(f"{where}: a name is a word of letters, digits, '_' and '-'")
        if not (inspect.isclass(cls) and issubclass(cls, self.base)):
            raise PluginError(f"{where}: {getattr(cls, '__name__', cls)} must be a subclass of {self.base.__name__}")
        missing = sorted(getattr(cls, "__abstractmethods__", ()))
        if missing:
            raise PluginError(f"{where}: {cls.__name__} does not define {', '.join(missing)}")
        own = cls.__module__.startswith(f"{self.package}.")
        if not own:
            self._discover()  # what comes with titanlab has its names first, so a clash blames the newcomer
        holder = self._classes.get(name)
        if holder is not None:
            raise PluginError(f"{where}: the name is taken by {holder.__name__} in {_source(holder)}; choose another")
        point = None if own else self._entry_points.get(name)
        if point is not None and _top(point.module) != _top(cls.__module__):
            raise PluginError(f"{where}: the name is taken by the entry point {point.value}; choose another")
        if cls.__dict__.get("type_name"):
            raise PluginError(
                f"{where}: {cls.__name__} is registered as '{cls.type_name}'; derive a class for another name"
            )

    def withdraw(self, module: str) -> None:
        """Forgets what a module registered; for a plug-in that failed half-way."""
        self._classes = {name: cls for name, cls in self._classes.items() if cls.__module__ != module}

    def resolve(self, value: Any) -> C:
        """A configuration from a `{type: name, ...}` mapping; an instance passes through.

        Raises:
            pydantic.ValidationError: with the path of the key at fault.
        """
        if isinstance(value, self.base):
            return value
        if not isinstance(value, Mapping):
            example = value if value in self else next(iter(self), "NAME")
            expected = f"expected a mapping with a `type`, as in {{type: {example}}}"
            self._refuse((), f"{expected}, got {shown_value(value)}", value)
        if "type" not in value:
            known = ", ".join(self)
            self._refuse(("type",), f"this key is required: which of the {self.kind}? Known: {known}", value)
        if value["type"] not in self:
            self._refuse(("type",), unknown_name(f"name in {self.kind}", value["type"], self), value["type"])
        return self[value["type"]].model_validate({key: entry for key, entry in value.items() if key != "type"})

    def _refuse(self, path: tuple[str, ...], message: str, value: Any) -> NoReturn:
        raise validation_error(self.base.__name__, [(path, message, value)])

    def __getitem__(self, name: str) -> type[C]:
        self._discover()
        entry_point = self._entry_points.get(name)
        if entry_point is not None:
            self._load(entry_point)
        if name not in self._classes:
            raise KeyError(unknown_name(f"name in {self.kind}", name, self))
        return self._classes[name]

    def __contains__(self, name: object) -> bool:
        self._discover()
        return isinstance(name, str) and (name in self._classes or name in self._entry_points)

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted({*self._classes, *self._entry_points}))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"the registry of {self.kind} is not pickled: send a configuration's settings, resolve them there"
        )

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True  # before the imports: they may look names up
        try:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self.package}.{module.name}")
            self._refuse_taken_entry_points()
        except BaseException:
            self._discovered = False
            raise

    def _refuse_taken_entry_points(self) -> None:
        for name, point in self._entry_points.items():
            holder = self._classes.get(name)
            if holder is not None and _top(holder.__module__) != _top(point.module):
                raise PluginError(
                    f"the installed package '{_top(point.module)}' registers '{name}' in {self.kind} ({point.value}): "
                    f"the name is taken by {holder.__name__} in {_source(holder)}; uninstall it, or rename its entry "
                    "point"
                )

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        points: dict[str, EntryPoint] = {}
        for point in entry_points(group=f"titanlab.{self.kind}"):
            other = points.setdefault(point.name, point)
            if other.value != point.value:
                raise PluginError(
                    f"two installed packages register '{point.name}' in {self.kind}: {other.value} and {point.value}; "
                    "uninstall one"
                )
        return points

    def _load(self, point: EntryPoint) -> None:
        holder = self._classes.get(point.name)
        if holder is not None and _top(holder.__module__) == _top(point.module):
            return  # loaded before, or its module used the decorator
        try:
            loaded = point.load()
        except PluginError:
            raise
        except (Exception, SystemExit) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise PluginError(
                f"entry point '{point.name}' of {self.kind} ({point.value}) failed to import: "
                f"{type(error).__name__}: {reason}"
            ) from error
        if self._classes.get(point.name) is not loaded:
            self.register(point.name)(loaded)


def withdraw_everywhere(module: str) -> None:
    """Forgets what a module registered, in every registry."""
    for registry in _ALL:
        registry.withdraw(module)


def _top(module: str) -> str:
    """The package a dotted module belongs to."""
    return module.partition(".")[0]


def _source(cls: type[Any]) -> str:
    try:
        return inspect.getsourcefile(cls) or cls.__module__
    except TypeError:
        return getattr(cls, "__module__", repr(cls))
