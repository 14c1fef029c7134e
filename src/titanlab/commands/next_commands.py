"""What to type after a sweep: the same options again, since without its `--set` a verb would look for other trials."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

DEFAULT_STORE = Path("titanlab-store")


def given(option: str, *values: str | None) -> list[str]:
    """The option once for each value that was given."""
    return [word for value in values if value is not None for word in (option, value)]


@dataclass(frozen=True)
class NextCommands:
    """The commands about the sweep that a command line named."""

    file: str
    overrides: tuple[str, ...]
    plugins: tuple[str, ...]
    store: Path
    only: str | None = None

    def run(self, *options: str) -> str:
        """The same command again."""
        return shlex.join(["titanlab", "sweep", "run", *self._sweep(), *options])

    def retry(self) -> str:
        """What failed, diverged or was stopped, again."""
        return shlex.join(["titanlab", "sweep", "retry", *self._sweep()])

    def lines(self) -> list[str]:
        """How to look at the results."""
        # `ui` takes no --set: a sweep renamed by one is found among all of the store.
        renamed = any(override.partition("=")[0].strip() == "name" for override in self.overrides)
        ui = ["titanlab", "ui", *([] if renamed else [self.file]), *self._where()]
        report = ["titanlab", "sweep", "report", *self._sweep()]
        return [f"rank the variants:  {shlex.join(report)}", f"compare in MLflow:  {shlex.join(ui)}"]

    def _sweep(self) -> list[str]:
        part = given("--only", self.only)
        return [self.file, *given("--set", *self.overrides), *given("--plugin", *self.plugins), *part, *self._where()]

    def _where(self) -> list[str]:
        return [] if self.store == DEFAULT_STORE else ["--store", str(self.store)]
