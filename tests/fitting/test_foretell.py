"""δ of larger runs foretold by that of smaller ones, beside naive predictors and other laws."""

from typing import Any

import numpy as np
import pytest

from precisionlaws.fitting import fit
from precisionlaws.fitting.compare import verdict
from precisionlaws.fitting.foretell import LAST, NONE, compare_delta, holdout_delta
from precisionlaws.fitting.rolling import NoOrigin
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.laws import law

TRUE = {
    "A": 30.0, "alpha": 0.5, "B": 150.0, "beta": 0.45, "E": 1.0,
    "C_T": 0.018, "gamma_D": 0.69, "gamma_N": 0.25, "gamma_post": 0.63,
}  # fmt: skip


@pytest.fixture(scope="module")
def frame() -> Any:
    N, D = np.geomspace(5e3, 3e5, 4), np.geomspace(6e4, 2e6, 4)
    design = crossed(N, D, seeds=2, post=(3, 4, 5))
    noise = {"run_sd": 0.004, "delta_sd": (3e-4, 0.05), "delta_family_sd": 0.02}
    return simulate(law("ptq_kumar"), TRUE, design, **noise, seed=1)


def test_the_true_law_covers_and_beats_every_baseline(frame: Any) -> None:
    table: Any = holdout_delta(frame, "ptq_kumar", resamples=100)
    pooled = table[table["origin"] == "all"].set_index("model")
    own = pooled.iloc[0]
    assert set(pooled.index[1:]) == {LAST, NONE}
    assert own["coverage"] >= 0.8
    assert (pooled["rms"][1:] > 2 * own["rms"]).all()
    assert pooled["coverage"][1:].isna().all()


def test_an_origin_is_the_fit_of_the_smaller_runs(frame: Any) -> None:
    table: Any = holdout_delta(frame, "ptq_kumar", "N", resamples=30)
    last = table[(table["origin"] != "all") & (table["model"] != LAST)].iloc[-2]
    small, large = frame[frame["N"] <= last["up_to"]], frame[frame["N"] > last["up_to"]]
    large = large[large["P_post"] < 16]
    one = fit(small, "ptq_kumar", resamples=30)
    error = large["delta_ptq"] - one.law.penalty(one.params, one.law.read(large), one.law.paired)
    assert last["rms"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-6)
    assert last["predicted"] == len(large)


def test_laws_of_delta_are_ranked_at_larger_runs(frame: Any) -> None:
    table: Any = compare_delta(frame, ["ptq_qid", "ptq_kumar"])
    assert table["law"].tolist() == ["ptq_kumar", "ptq_qid"]
    assert (table["of"] == "delta").all()
    assert table["excess"].iloc[0] == 0
    assert table["excess"].iloc[1] > 0
    assert "predicts δ of larger runs best" in verdict(table)[0]
    assert "sd of its noise" in verdict(table)[0]


def test_nothing_to_foretell(frame: Any) -> None:
    with pytest.raises(ValueError, match="has no PTQ term"):
        holdout_delta(frame, "chinchilla")
    with pytest.raises(NoOrigin, match="no hold-out of δ by N"):
        holdout_delta(frame[frame["N"] == frame["N"].min()], "ptq_kumar", "N")
