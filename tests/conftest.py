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


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 kB of learnable text, the same on every machine."""
    import random

    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(1, 6))) for _ in range(60)]
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(" ".join(rng.choices(words, k=15_000))[:60_000])
    return path


@pytest.fixture
def tiny(text_file: Path) -> list[str]:
    """Overrides of a run that trains in a tenth of a second."""
    return [
        "data=text",
        f"data.path={text_file}",
        "data.context=32",
        "data.eval_tokens=1024",
        "size=7k",
        "batch_tokens=128",
        "tokens=2560",
        "lr_schedule.warmup=3",
    ]
