"""Runs interpreted*.py in a process whose triton interprets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")


@pytest.mark.parametrize("name", ["interpreted.py", "interpreted_types.py"])
@pytest.mark.parametrize("marked", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_triton_interpreted_equals_the_reference(marked: str, name: str) -> None:
    file = Path(__file__).with_name(name)
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PRECISIONLAWS_KERNELS": "interpret",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marked, str(file)],
        env=environment,
        capture_output=True,
        text=True,
        cwd=file.parents[2],
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
