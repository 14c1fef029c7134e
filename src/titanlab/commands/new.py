"""`titanlab new`: a plug-in that works, its test and a sweep, to be changed into one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from titanlab.platform.errors import ConfigError

KINDS = {
    "memory": ("titanlab.platform.memory", "MEMORY_MODULES"),
    "architecture": ("titanlab.platform.architecture", "ARCHITECTURES"),
    "task": ("titanlab.platform.task", "TASKS"),
}
"""What can be begun, each with the module and name of its registry."""

FILES = {"{kind}.py": "{name}.py", "{kind}_test.py": "test_{name}.py", "{kind}.yaml": "{name}.yaml"}
"""The files of titanlab.templates, and what they become."""


def new(
    kind: Annotated[str, typer.Argument(help="memory, architecture, task or sweep.")],
    name: Annotated[str, typer.Argument(help="Its name in YAML, and the files' names: a word such as my_memory.")],
    folder: Annotated[Path, typer.Option(help="Where the files are written.")] = Path("."),
) -> None:
    """Write a memory, an architecture or a task that works, with its test and a sweep of two cells; or a sweep."""
    from titanlab.commands.new_sweep import write_sweep
    from titanlab.platform.errors import unknown_name

    if kind == "sweep":
        write_sweep(name, folder)
        return
    if kind not in KINDS:
        raise _refusal(unknown_name("kind", kind, [*KINDS, "sweep"]))
    _check_word(name)
    texts = {folder / target.format(name=name): _template(source.format(kind=kind)) for source, target in FILES.items()}
    _check_free(kind, name, texts)
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        with path.open("x", encoding="utf-8") as file:
            file.write(text.replace("Template", _class_name(name)).replace("template", name))
    typer.echo(f"wrote {', '.join(map(str, texts))}")
    typer.echo("\n".join(("next:", *(f"  {command}" for command in _next_commands(kind, *texts)))))


def _refusal(message: str) -> ConfigError:
    from titanlab.platform.errors import ConfigError, Problem

    return ConfigError(Problem(message))


def _check_word(name: str) -> None:
    import keyword

    if not (name.isidentifier() and name.isascii() and name[0].isalpha()) or keyword.iskeyword(name):
        raise _refusal(
            f"'{name}' names no Python file: expected letters, digits and '_', a letter first, and no word of Python's "
            "own, as in my_memory"
        )


def _check_free(kind: str, name: str, texts: dict[Path, str]) -> None:
    """Refuses to overwrite, to take a registered name, or to hide a Python module or a class."""
    from importlib import import_module
    from importlib.util import find_spec

    there = [str(path) for path in texts if path.exists()]
    if there:
        raise _refusal(f"{', '.join(there)}: already there; nothing was written. Choose another name or --folder")
    module, attribute = KINDS[kind]
    registry = getattr(import_module(module), attribute)
    if name in registry:
        raise _refusal(f"the name '{name}' is taken in {registry.kind}; taken are {', '.join(registry)}")
    if find_spec(name) is not None:
        raise _refusal(f"{name}.py would hide the Python module '{name}' from everything in its folder; choose another")
    used = {_class_name(name), f"{_class_name(name)}Config"} & _names(texts)
    if used:
        raise _refusal(f"its class would be called {min(used)}, which is the name of something else; choose another")


def _names(texts: dict[Path, str]) -> set[str]:
    """What the Python files call by a name."""
    import ast
    import keyword

    trees = [ast.walk(ast.parse(text)) for path, text in texts.items() if path.suffix == ".py"]
    nodes = [node for tree in trees for node in tree]
    imported = {node.asname or node.name for node in nodes if isinstance(node, ast.alias)}
    return imported | {node.id for node in nodes if isinstance(node, ast.Name)} | set(keyword.kwlist)


def _class_name(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _template(file: str) -> str:
    from importlib.resources import files

    return files("titanlab.templates").joinpath(file).read_text(encoding="utf-8")


def _next_commands(kind: str, plugin: Path, test: Path, sweep: Path) -> list[str]:
    import shlex

    commands = [
        ["titanlab", "check", str(plugin)],
        ["python", "-m", "pytest", str(test)],
        ["titanlab", "sweep", "run", str(sweep), "--plugin", str(plugin)],
        ["titanlab", "sweep", "report", str(sweep), "--plugin", str(plugin)],
    ]
    return [shlex.join(command) for command in (commands[1:] if kind == "task" else commands)]
