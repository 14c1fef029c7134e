"""`titanlab sweep schema`."""

from __future__ import annotations

from titanlab.commands.options import Plugins


def schema(plugins: Plugins = None) -> None:
    """Print the JSON schema of a sweep file, for completion and checks in an editor; `> sweep.schema.json` keeps it."""
    import sys

    from titanlab.platform.plugins import load_plugin
    from titanlab.sweeps.language.schema import schema_text

    for target in plugins or ():
        load_plugin(target)
    sys.stdout.write(schema_text())
