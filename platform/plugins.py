"""Loading a researcher's own module: `--plugin FILE.py` or `--plugin package.module`, only when named."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import linecache
import os
import re
import sys
import traceback
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from titanlab.platform.architecture import Architecture
from titanlab.platform.config import Config
from titanlab.platform.errors import PluginError
from titanlab.platform.memory import MemoryModule
from titanlab.platform.registry import withdraw_everywhere
from titanlab.platform.task import Task

_OF_FILE = "titanlab_plugin_"
"""How the name of a module begins that was made of a file."""


@dataclass(frozen=True)
class Plugin:
    """A loaded plug-in, with its source so that it can travel to workers."""

    name: str
    """The file's stem or the dotted module: the `plugin.<name>` tag of a run."""
    source: str
    file: str
    module: str = ""
    """The dotted module it is imported as; empty for a file, whose source is run instead."""

    @property
    def digest(self) -> str:
        """sha256 of the source."""
        return hashlib.sha256(self.source.encode()).hexdigest()


def installed_plugins(configs: Iterable[Config]) -> list[Plugin]:
    """The modules of installed packages whose kinds configurations name, found by an entry point."""
    modules = {type(block).__module__ for config in configs for block in _blocks(config)}
    return [
        Plugin(name, inspect.getsource(module), inspect.getsourcefile(module) or name, name)
        for name in sorted(modules)
        if not name.startswith(("titanlab.", _OF_FILE)) and (module := sys.modules.get(name)) and _has_source(module)
    ]


def _blocks(value: Any) -> Iterator[Config]:
    """A configuration and all within it."""
    if isinstance(value, Config):
        yield value
        for name in type(value).model_fields:
            yield from _blocks(getattr(value, name))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _blocks(entry)
    elif isinstance(value, Mapping):
        yield from _blocks(list(value.values()))


def _has_source(module: types.ModuleType) -> bool:
    try:
        return bool(inspect.getsource(module))
    except (OSError, TypeError):  # a compiled extension
        return False


def load_plugin(target: str) -> Plugin:
    """Imports a plug-in, which registers what it holds.

    Raises:
        PluginError: one line naming the file and the cause.
    """
    if not target.strip():
        raise PluginError("--plugin is empty; expected FILE.py or package.module")
    if target.endswith(".py") or "/" in target:
        plugin = _read_file(target)
        install(plugin)
        return plugin
    if not all(part.isidentifier() for part in target.split(".")):
        raise PluginError(f"plugin {target}: expected FILE.py or package.module, dots between words")
    module = _import(target)
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):  # no Python file: an extension, a built-in module or a folder
        file = getattr(module, "__file__", None) or "it is built in or a folder, and so"
        raise PluginError(f"plugin {target}: {file} holds no Python source") from None
    return Plugin(target, source, inspect.getsourcefile(module) or target, target)


def install(plugin: Plugin) -> None:
    """Imports a plug-in, once a process; a worker calls it with what the driver sent.

    A file's source is run as it was sent; a dotted module is imported, which needs it to be installed on the worker.

    Raises:
        PluginError: one line naming the file and the cause.
    """
    if plugin.module:
        _import(plugin.module)
        return
    name = f"{_OF_FILE}{plugin.name}_{plugin.digest[:12]}"
    if name in sys.modules:
        return
    module = types.ModuleType(name)
    module.__file__ = plugin.file
    sys.modules[name] = module  # before execution: annotations are resolved through it
    lines = plugin.source.splitlines(keepends=True)
    linecache.cache[plugin.file] = (len(plugin.source), None, lines, plugin.file)  # docstrings, traces: as it was sent
    try:
        exec(compile(plugin.source, plugin.file, "exec", dont_inherit=True), module.__dict__)
        _refuse_unfinished_classes(module, plugin.file)
    except (Exception, SystemExit) as error:
        _forget(name)
        raise _failure(plugin.file, plugin.file, error) from error


def _read_file(target: str) -> Plugin:
    path = Path(target)
    try:
        source = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise PluginError(f"plugin {target}: is not a text file") from None
    except OSError as error:
        raise PluginError(f"plugin {target}: cannot be read: {error.strerror}") from None
    return Plugin(re.sub(r"\W", "_", path.stem), source, str(path))


def _import(target: str) -> types.ModuleType:
    known = target in sys.modules
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # at the end: what lies here hides nothing that is installed
    try:
        module = importlib.import_module(target)
        if not known:
            _refuse_unfinished_classes(module, module.__file__ or target)
    except (Exception, SystemExit) as error:
        _forget(target)
        raise _failure(target, None, error) from error
    return module


def _forget(module: str) -> None:
    """A failed plug-in leaves nothing behind: mended, it can be loaded again in the same process."""
    sys.modules.pop(module, None)
    withdraw_everywhere(module)


def _refuse_unfinished_classes(module: types.ModuleType, file: str) -> None:
    """An abstract class that nothing in the module completes is one that misses a method."""
    classes = [cls for cls in vars(module).values() if inspect.isclass(cls) and cls.__module__ == module.__name__]
    for cls in classes:
        completed = any(other is not cls and issubclass(other, cls) for other in classes)
        if not inspect.isabstract(cls) or completed:
            continue
        for base in (MemoryModule, Architecture, Task):
            if issubclass(cls, base):
                missing = ", ".join(sorted(cls.__abstractmethods__))
                raise PluginError(f"{file}: class {cls.__name__} ({base.__name__}) does not define {missing}")


def _failure(plugin: str, file: str | None, error: BaseException) -> PluginError:
    """The error in one line, with the place it came from: in the plug-in's own file, else the innermost one."""
    if isinstance(error, PluginError):
        return PluginError(f"plugin {plugin}: {str(error).removeprefix(f'{plugin}: ')}")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    own = [frame for frame in frames if frame.filename == file] or frames
    place = f"{own[-1].filename}:{own[-1].lineno}" if own and own[-1].filename != __file__ else ""
    if isinstance(error, SyntaxError):
        place = f"{error.filename}:{error.lineno}"
    reason = (str(error).splitlines() or [""])[0]
    return PluginError(
        f"plugin {plugin}: failed to import: {type(error).__name__}: {reason}" + (f" ({place})" if place else "")
    )
