"""The wheel is the whole of titanlab: unpacked alone, without the repository, it runs."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("platform", "memory_modules", "architectures", "sweeps", "benchmarks")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built of a copy of the sources (a build leaves files beside them) and unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in (*LAYERS, "src"):
        shutil.copytree(ROOT / name, folder / "copy" / name, symlinks=True, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "copy" / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(folder / "copy")], check=True, timeout=240)
    (wheel,) = folder.glob("titanlab-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.mark.slow
def test_the_wheel_holds_every_source_and_sweep(unpacked: Path) -> None:
    for layer in LAYERS:
        wanted = {path.relative_to(ROOT) for kind in ("*.py", "*.yaml") for path in (ROOT / layer).rglob(kind)}
        held = {path.relative_to(unpacked / "titanlab") for path in (unpacked / "titanlab" / layer).rglob("*.*")}
        assert wanted <= held, sorted(map(str, wanted - held))
    templates = {path.name for path in (ROOT / "src/titanlab/templates").glob("*.*")}
    assert templates and templates == {path.name for path in (unpacked / "titanlab/templates").glob("*.*")}
    assert (unpacked / "titanlab/py.typed").is_file()
    assert not any(path.is_symlink() for path in unpacked.rglob("*"))


@pytest.mark.slow
def test_the_unpacked_wheel_runs_from_any_folder(unpacked: Path, tmp_path: Path) -> None:
    for words in (["list"], ["sweep", "plan", str(unpacked / "titanlab/sweeps/quickstart.yaml")]):
        done = subprocess.run(
            [sys.executable, "-c", "import titanlab; print(titanlab.__file__); import titanlab.__main__ as m; m.main()"]
            + words,
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(unpacked)}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(str(unpacked)), "the checkout was imported, not the wheel"
    assert done.stdout.splitlines()[-1] == "18 trials (9 cells x 2 seeds)"
