"""`make quickstart`, as a newcomer runs it; in a file of its own, for a worker of its own."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_make_quickstart_works_alone_on_a_fresh_clone_and_its_winner_has_learned(tmp_path: Path) -> None:
    """Installs anew, as a newcomer does; the winner must be far above chance (1 in 16 values, 1 in 4 of the row)."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is nothing to clone")
    subprocess.run(["git", "clone", "--quiet", str(ROOT), "clone"], cwd=tmp_path, check=True)
    clean = {
        name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS")
    }
    done = subprocess.run(["make", "quickstart"], cwd=tmp_path / "clone", env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    rows = (tmp_path / "clone/titanlab-store/sweeps/quickstart/report/report.csv").read_text().splitlines()
    columns = rows[0].split(",")
    best = dict(zip(columns, rows[1].split(","), strict=False))
    assert len(rows) == 10 and float(best["mean"]) > 0.6, rows[:2]
