"""`titanlab new sweep`: a commented sweep, every option of the language in it."""

from __future__ import annotations

from pathlib import Path

import typer


def write_sweep(name: str, folder: Path) -> None:
    """Writes `<name>.yaml` into the folder.

    Raises:
        ConfigError: the file is there already, or the name makes none.
    """
    import shlex

    from titanlab.platform.errors import ConfigError, Problem
    from titanlab.sweeps.language.sweep_file import SweepConfig
    from titanlab.sweeps.language.template import sweep_template

    longest = 200
    if not 1 <= len(name) <= longest or not name.isprintable():
        raise ConfigError(Problem(f"{name!r} is no name of a sweep: expected 1 to {longest} printable characters"))
    path = folder / f"{SweepConfig(name=name, base={}, cells=[{}]).id}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(sweep_template(name))
    except FileExistsError:
        message = f"{path}: already there; nothing was written. Choose another name or --folder"
        raise ConfigError(Problem(message)) from None
    typer.echo(f"wrote {path}")
    for verb in ("plan", "run", "report"):
        typer.echo(f"  {shlex.join(['titanlab', 'sweep', verb, str(path)])}")
