"""Fits of a simulated study of the size of the demo."""

import pandas as pd
import pytest

from precisionlaws.fitting import Fit, fit
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.laws import law

TRUE = {
    "A": 6.53, "alpha": 0.278, "B": 17.3, "beta": 0.188, "E": 0.0, "eff_w[3]": 0.55, "eff_w[4]": 0.87, "eff_w[6]": 0.98,
    "eff_a[4]": 0.75, "eff_a[6]": 0.97, "eff_kv[4]": 0.92, "C_T": 0.018, "gamma_D": 0.69, "gamma_N": 0.25, "gamma_post": 0.63,
}  # fmt: skip
WIDTHS = [{"P_w": 3}, {"P_w": 4}, {"P_w": 6}, {"P_a": 4}, {"P_a": 6}, {"P_kv": 4}]


@pytest.fixture(scope="session")
def demo() -> pd.DataFrame:
    design = crossed(
        (6656, 20480, 50000), (62e3, 125e3, 250e3, 500e3), WIDTHS, post=(3, 4, 5, 6, 8)
    )
    noise = {"family_sd": 0.012, "branch_sd": 0.02, "run_sd": 0.008, "delta_sd": (3e-4, 0.15)}
    return simulate(law("neff_free+ptq_kumar"), TRUE, design, **noise, seed=1)


@pytest.fixture(scope="session")
def fits(demo: pd.DataFrame) -> dict[str, Fit]:
    """By law; few draws, for speed."""
    return {
        name: fit(demo, name, resamples=300)
        for name in ("chinchilla", "neff_kumar", "neff_free", "ptq_kumar")
    }
