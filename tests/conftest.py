"""Shared by all tests: where the reference vectors are, and small stores."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of reference vectors; skips where there is none."""
    folder = Path(os.environ.get("PRECISIONLAWS_GOLDENS", ROOT.parent / "shared" / "goldens"))
    if not folder.is_dir():
        pytest.skip(f"no reference vectors at {folder} (PRECISIONLAWS_GOLDENS)")
    return folder
