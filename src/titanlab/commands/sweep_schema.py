"""`titanlab sweep schema`."""

from __future__ import annotations

from titanlab.commands.options import Plugins, load_plugins


def schema(plugins: Plugins = None) -> None:
    """Print the JSON schema of a sweep file, for completion and checks in an editor; `> sweep.schema.json` keeps it."""
    import sys

    from titanlab.sweeps.language.schema import schema_text

    load_plugins(plugins)
    sys.stdout.write(schema_text())
