"""Fits of the simulated study of tests/planning, and a store of the same runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import precisionlaws as pl
from precisionlaws.fitting import Fit
from precisionlaws.plots import reads_store
from tests.planning.conftest import demo, fits

__all__ = ["demo", "drawn", "fits", "store"]

DATA = {
    "optimal-bits": ("neff_kumar", "neff_free"), "ptq": ("ptq_kumar",), "pareto": ("neff_free", "ptq_kumar"),
    "effective": ("neff_free", "neff_kumar"), "beliefs": ("neff_free", "neff_kumar"),
}  # fmt: skip


@pytest.fixture(scope="session")
def drawn(fits: dict[str, Fit], store: Path) -> dict[str, object]:
    """What each figure is drawn of."""
    from precisionlaws.plots import kinds

    return {
        kind: store if reads_store(kind) else [fits[n] for n in DATA.get(kind, ("neff_free",))]
        for kind in kinds()
    }


@pytest.fixture(scope="session")
def store(demo: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained runs of the study, recorded with a curve each."""
    root = tmp_path_factory.mktemp("plots") / "store"
    rows = demo[(demo["P_post"] == 16) & (demo["D"] >= 250e3)]
    for r in rows.to_dict("records"):
        bits = {f"P_{k}": r[f"P_{k}"] for k in ("w", "a", "kv")}
        with pl.record(root, N=int(r["N"]), D=int(r["D"]), seed=int(r["seed"]), **bits) as run:
            for step in range(30):
                run.log(step, float(r["loss"]) + 3 * np.exp(-step / 5))
            run.loss(float(r["loss"]))
    return root
