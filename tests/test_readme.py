"""The README says only what runs: its files are written and its commands run, in order, in an empty folder."""

import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.strip().splitlines()]
TITANLAB = [str(Path(sys.executable).parent / "titanlab")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with the files that the README shows, under the names in their first lines."""
    folder = tmp_path_factory.mktemp("reader")
    for kind, text in BLOCKS:
        if kind in ("yaml", "python"):
            name = re.match(r"# (\S+)\n", text)
            assert name, f"a {kind} block of the README does not say its file's name"
            (folder / name[1]).write_text(text)
    return folder


def titanlab(folder: Path, command: str) -> "subprocess.CompletedProcess[str]":
    arguments = TITANLAB + shlex.split(command)[1:]
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=280)


def test_the_readme_is_short_and_its_plugin_too() -> None:
    assert len(README.splitlines()) < 150
    assert all(len(text.splitlines()) <= 40 for kind, text in BLOCKS if kind == "python")


def test_every_command_is_known_to_these_tests() -> None:
    assert {command.split()[0] for command in COMMANDS} == {"make", "titanlab"}
    assert {command for command in COMMANDS if command.startswith("make")} == {"make quickstart", "make test"}


def test_links_and_pictures_are_there() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.slow
def test_titanlab_commands_run_in_order(folder: Path) -> None:
    for command in COMMANDS:
        if command.startswith("titanlab") and not command.startswith("titanlab ui"):
            done = titanlab(folder, command)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            if " plan " in command:
                assert done.stdout.splitlines()[-1] == "10 trials (5 cells x 2 seeds)"
    assert (folder / "titanlab-store/sweeps/my-ablation/report/comparison.png").stat().st_size > 10_000
    assert len(list((folder / "titanlab-store/sweeps/mine/trials").iterdir())) == 6
    _check_that_the_link_is_served(folder)


def _check_that_the_link_is_served(folder: Path) -> None:
    (command,) = [command for command in COMMANDS if command.startswith("titanlab ui")]
    arguments, wide = TITANLAB + shlex.split(command)[1:], {**os.environ, "COLUMNS": "400"}
    with subprocess.Popen(arguments, cwd=folder, stdout=subprocess.PIPE, text=True, env=wide) as process:
        try:
            link = next(match[0] for match in _matches(process, r"http://127\.0\.0\.1:\d+\S*"))
            with urllib.request.urlopen(link.partition("#")[0], timeout=20) as answer:
                assert answer.status == 200
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) in (0, 130)


def _matches(process: "subprocess.Popen[str]", pattern: str) -> Iterator["re.Match[str]"]:
    assert process.stdout is not None
    for line in process.stdout:
        if match := re.search(pattern, line):
            yield match
