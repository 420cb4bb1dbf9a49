"""The examples run as they are shown, and say what they promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import precisionlaws as pl

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def execute(name: str, cwd: Path, **variables: str) -> str:
    command = [sys.executable, "-W", "error", str(NOTEBOOKS / f"{name}.py")]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=os.environ | variables
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_your_own_loop(tmp_path: Path) -> None:
    store = tmp_path / "store"
    out = execute("your_own_loop", tmp_path, PRECISIONLAWS_STORE=str(store))
    frame = pl.load(store)
    assert len(frame) == 8
    assert (frame.loss < 0.66).all()  # all learned: a coin has .69, the labels themselves .33
    assert (frame[frame.P_w == 16].loss > 0.33).all()
    assert "2304" in out
    stamps = {p: p.stat().st_mtime_ns for p in store.rglob("result.json")}
    assert execute("your_own_loop", tmp_path, PRECISIONLAWS_STORE=str(store)) == out
    assert {p: p.stat().st_mtime_ns for p in store.rglob("result.json")} == stamps


@pytest.mark.slow
def test_anyones_csv(tmp_path: Path) -> None:
    out = execute("anyones_csv", tmp_path)
    found = re.search(r"at 4 bits: ([\d.]+), 95% interval ([\d.]+) to ([\d.]+)", out)
    assert found
    eff, low, high = map(float, found.groups())
    assert low <= 0.80 <= high
    assert eff == pytest.approx(0.80, abs=0.08)
    assert "at a minimum" in out
    assert "NOT at a minimum" not in out
