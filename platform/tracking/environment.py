"""What a result was made with: the code's git state and the software around it."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

LONGEST_DIFF = 1_000_000


@dataclass(frozen=True)
class GitState:
    """The commit of the working folder; empty strings outside a repository."""

    sha: str = ""
    dirty: bool = False
    status: str = ""
    diff: str = ""
    """Of tracked files against the commit, cut at 1 MB."""

    def tags(self) -> dict[str, str]:
        """`git.sha` and `git.dirty`, as every run carries them."""
        return {"git.sha": self.sha, "git.dirty": str(self.dirty).lower()} if self.sha else {}

    def text(self) -> str:
        """Commit, status and diff for people and for `git apply`."""
        return f"commit {self.sha}\n\n{self.status}\n{self.diff}" if self.sha else "not in a git repository\n"


def git_state(folder: Path) -> GitState:
    """The state of the repository that holds `folder`."""
    sha = _git(folder, "rev-parse", "HEAD").strip()
    if not sha:
        return GitState()
    status = _git(folder, "status", "--porcelain")
    diff = _git(folder, "diff", "HEAD") if status else ""
    return GitState(sha, bool(status), status, diff[:LONGEST_DIFF])


def environment_text() -> str:
    """Python, platform and every installed distribution with its version, one a line as pip writes it."""
    packages = sorted({f"{item.metadata['Name']}=={item.version}" for item in distributions()}, key=str.lower)
    return "\n".join(
        [f"# Python {sys.version.split()[0]} on {platform.platform()} ({platform.machine()})", *packages, ""]
    )


def _git(folder: Path, *arguments: str) -> str:
    """What git prints, or nothing where there is no git, no repository or no commit."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
