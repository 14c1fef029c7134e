"""Loading a researcher's own module: `--plugin FILE.py` or `--plugin package.module`, only when named."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import types
from dataclasses import dataclass
from pathlib import Path

from titanlab.platform.architecture import Architecture
from titanlab.platform.errors import PluginError
from titanlab.platform.memory import MemoryModule
from titanlab.platform.task import Task


@dataclass(frozen=True)
class Plugin:
    """A loaded plug-in, with its source so that it can travel to workers."""

    name: str
    """The file's stem or the dotted module: the `plugin.<name>` tag of a run."""
    source: str
    file: str

    @property
    def digest(self) -> str:
        """sha256 of the source."""
        return hashlib.sha256(self.source.encode()).hexdigest()


def load_plugin(target: str) -> Plugin:
    """Imports a plug-in, which registers what it holds.

    Raises:
        PluginError: one line naming the file and the cause.
    """
    if target.endswith(".py") or "/" in target:
        path = Path(target)
        try:
            source = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PluginError(f"plugin {target}: cannot be read: {error}") from None
        plugin = Plugin(re.sub(r"\W", "_", path.stem), source, str(path))
        install(plugin)
        return plugin
    try:
        module = importlib.import_module(target)
    except Exception as error:
        raise PluginError(f"plugin {target}: failed to import: {_cause(error, target)}") from error
    _refuse_unfinished_classes(module, target)
    file = inspect.getsourcefile(module) or target
    return Plugin(target, inspect.getsource(module), file)


def install(plugin: Plugin) -> None:
    """Imports a plug-in from its source text, once a process; a worker calls it with what the driver sent.

    Raises:
        PluginError: one line naming the file and the cause.
    """
    name = f"titanlab_plugin_{re.sub(r'[^0-9A-Za-z_]', '_', plugin.name)}_{plugin.digest[:12]}"
    if name in sys.modules:
        return
    module = types.ModuleType(name)
    module.__file__ = plugin.file
    sys.modules[name] = module  # before execution: annotations are resolved through it
    try:
        exec(compile(plugin.source, plugin.file, "exec"), module.__dict__)
        _refuse_unfinished_classes(module, plugin.file)
    except PluginError:
        del sys.modules[name]
        raise
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise PluginError(f"plugin {plugin.file}: failed to import: {_cause(error, plugin.file)}") from error


def _refuse_unfinished_classes(module: types.ModuleType, file: str) -> None:
    for cls in vars(module).values():
        if not (inspect.isclass(cls) and cls.__module__ == module.__name__ and inspect.isabstract(cls)):
            continue
        for base in (MemoryModule, Architecture, Task):
            if issubclass(cls, base):
                missing = ", ".join(sorted(cls.__abstractmethods__))
                raise PluginError(f"plugin {file}: class {cls.__name__} ({base.__name__}) does not define {missing}")


def _cause(error: BaseException, file: str) -> str:
    """The error in one line, with the plug-in's line it came from."""
    line = getattr(error, "lineno", None)
    for frame in inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []:
        if frame.filename == file:
            line = frame.lineno
    reason = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {reason}" + (f" (line {line})" if line else "")
