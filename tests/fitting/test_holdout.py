"""Whole fits at every origin, their coverage, and what a law must beat."""

from typing import Any

import numpy as np
import pytest

from precisionlaws.fitting import fit, holdout
from precisionlaws.fitting.holdout import LAST
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.laws import law

TRUE = {"A": 300.0, "alpha": 0.33, "B": 900.0, "beta": 0.3, "E": 1.7, "eff_w[4]": 0.5}


@pytest.fixture(scope="module")
def frame() -> Any:
    design = crossed(np.geomspace(1e6, 1e9, 6), np.geomspace(2e7, 2e10, 6), [{"P_w": 4}], seeds=1)
    noisy = simulate(law("neff_free"), TRUE, design, run_sd=0.004, seed=3)
    return noisy.assign(family=noisy["run_id"])


@pytest.fixture(scope="module")
def table(frame: Any) -> Any:
    return holdout(frame, "neff_free", resamples=200)


def test_a_true_law_covers_and_beats_every_baseline(table: Any) -> None:
    pooled = table[table["origin"] == "all"].set_index("model")
    own = pooled.loc["chinchilla+neff_free"]
    assert own["coverage"] >= 0.85
    assert own["coverage_mean"] < own["coverage"]
    assert abs(own["bias"]) <= own["rms"] < 0.01
    assert set(pooled.index[1:]) == {"with E = 0", "chinchilla alone", LAST}
    assert (pooled["rms"][1:] > own["rms"]).all()
    assert pooled["coverage"][1:].isna().all()


def test_pooled_errors_are_those_of_the_origins(table: Any) -> None:
    own = table[table["model"] == "chinchilla+neff_free"]
    each, pooled = own[own["origin"] != "all"], own[own["origin"] == "all"].iloc[0]
    weight = each["predicted"] / each["predicted"].sum()
    assert pooled["rms"] == pytest.approx(np.sqrt((weight * each["rms"] ** 2).sum()))
    assert pooled["coverage"] == pytest.approx((weight * each["coverage"]).sum())
    assert pooled["predicted"] == each["predicted"].sum()
    assert each["up_to"].is_monotonic_increasing


def test_an_origin_is_the_fit_of_the_smaller_runs(frame: Any, table: Any) -> None:
    by_N = holdout(frame, "neff_free", "N", resamples=50)
    last = by_N[(by_N["origin"] != "all") & (by_N["model"] == "chinchilla+neff_free")].iloc[-1]
    small, large = frame[frame["N"] <= last["up_to"]], frame[frame["N"] > last["up_to"]]
    said = fit(small, "neff_free", resamples=50).predict(large)
    error = np.log(large["loss"].to_numpy() / said["loss"].to_numpy())
    assert last["rms"] == pytest.approx(np.sqrt((error**2).mean()))
    assert last["predicted"] == len(large)


def test_wrong_input_is_one_line(frame: Any) -> None:
    with pytest.raises(ValueError, match="by one of compute, N, D, got 'flops'"):
        holdout(frame, "neff_free", "flops")
    with pytest.raises(ValueError, match=r"no hold-out by N: 12 rows have 1 level\(s\) of N"):
        holdout(frame[frame["N"] == frame["N"].min()], "neff_free", "N")
