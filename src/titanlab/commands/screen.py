"""What verbs print on: nothing that a name or an error holds can move the cursor, and no password is shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from titanlab.platform.printable import visible
from titanlab.platform.redaction import redacted


class Screen(Console):
    """Rich's console; what it is told to print is text, and only its own colours reach the terminal as commands."""

    def render_str(self, text: str, **options: Any) -> Text:
        """See `rich.console.Console.render_str`."""
        return super().render_str(visible(redacted(text)), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See `rich.console.Console.render`."""
        for segment in super().render(renderable, options):
            shown = segment.text if segment.control else visible(segment.text)
            yield segment if shown == segment.text else Segment(shown, segment.style)


def say(text: str, *, err: bool = False) -> None:
    """Prints a line without rich's colours."""
    typer.echo(visible(redacted(text)), err=err)
