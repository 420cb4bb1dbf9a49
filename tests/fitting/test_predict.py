"""Intervals of new runs hold what they promise, also where the law is not the truth."""

import json
from typing import Any

import numpy as np
import pytest

from precisionlaws.fitting import Fit, fit, holdout
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.laws import law

CURVED = {"A": 1.52e5, "alpha": 0.589, "B": 5.25e5, "beta": 0.544, "gamma": 0.274, "E": 1.35}


def curved(seed: int = 0) -> Any:
    """Independent runs of a law with γ = 0.27, at D/N between 1 and 400."""
    design: Any = crossed(np.geomspace(3e7, 3e10, 9), np.geomspace(1e9, 1e12, 9), seeds=2)
    design = design[np.abs(np.log(design["D"] / design["N"] / 20)) < 3]
    frame = simulate(law("gamma"), CURVED, design, run_sd=0.003, seed=seed)
    return frame.assign(family=frame["run_id"])


def split(frame: Any, share: float) -> tuple[Any, Any]:
    """The runs of least compute, and the rest."""
    compute = frame["N"] * frame["D"]
    small = compute <= compute.quantile(share)
    return frame[small], frame[~small]


def covered(rows: Any, said: Any, low: str, high: str) -> float:
    loss = rows["loss"].to_numpy()
    return float(((said[low] <= loss) & (loss <= said[high])).mean())


def test_a_law_that_is_not_the_truth_is_caught_by_its_own_past_errors() -> None:
    mean, noise, run = [], [], []
    for seed in range(2):
        frame = curved(seed)
        compute = frame["N"] * frame["D"]
        small, large = split(frame, 0.4)
        large = large[compute[large.index] <= compute.quantile(0.7)]
        said = fit(small, "chinchilla", resamples=200).predict(large)
        mean.append(covered(large, said, "low", "high"))
        run.append(covered(large, said, "run_low", "run_high"))
        half = 1.96 * np.hypot(said["sd_parameters"], said["sd_residual"])
        noise.append((np.abs(large["loss"].to_numpy() - said["loss"]) <= half).mean())
    assert np.mean(mean) < 0.4
    assert np.mean(noise) < 0.4
    assert np.mean(run) >= 0.9


def test_it_is_the_distance_that_is_paid_for() -> None:
    """Pooled over all rolling origins of runs that follow another law, intervals cover."""
    table = holdout(curved(), "chinchilla", resamples=100)
    pooled = table[table["origin"] == "all"].iloc[0]
    assert pooled["coverage"] >= 0.85
    assert pooled["coverage_mean"] < 0.6


def test_intervals_of_the_true_law_are_not_blown_up() -> None:
    widths, run = [], []
    for seed in range(2):
        small, large = split(curved(seed), 0.6)
        said: Any = fit(small, "gamma", resamples=300).predict(large)
        run.append(covered(large, said, "run_low", "run_high"))
        widths.append(float(((said["run_high"] - said["run_low"]) / said["loss"]).median()))
    assert np.mean(run) >= 0.9
    assert np.mean(widths) < 0.03  # of the wrong law: 0.1


def test_noise_of_families_and_runs_is_told_apart() -> None:
    design = crossed(np.geomspace(1e6, 1e8, 4), np.geomspace(2e7, 2e9, 4), [{"P_w": 4}], seeds=20)
    true = {"A": 300.0, "alpha": 0.33, "B": 900.0, "beta": 0.3, "E": 1.7, "eff_w[4]": 0.7}
    exact = simulate(law("neff_free"), true, design)
    rng = np.random.default_rng(0)
    _, family = np.unique(design["family"], return_inverse=True)
    log_noise = 0.01 * rng.standard_normal(80)[family] + 0.004 * rng.standard_normal(len(design))
    noisy = exact.assign(loss=exact["loss"] * np.exp(log_noise))
    said = fit(noisy, "neff_free", loss="ls", resamples=10).residual
    assert said["family_sd"] == pytest.approx(0.01, rel=0.2)  # 80 families: 8% of standard error
    assert said["run_sd"] == pytest.approx(0.004, rel=0.1)
    alone = fit(noisy.assign(family=noisy["run_id"]), "neff_free", loss="ls", resamples=10).residual
    assert alone["family_sd"] == 0.0
    assert alone["run_sd"] == pytest.approx(np.hypot(0.01, 0.004), rel=0.2)


def test_misfit_grows_with_distance_and_is_absent_among_the_data() -> None:
    found = fit(split(curved(), 0.6)[0], "chinchilla", resamples=200)
    reach = {"N": [3e8, 3e9, 3e11], "D": [6e9, 6e10, 6e12]}
    said: Any = found.predict(reach)
    assert said["sd_misfit"][0] == 0.0 == said["beyond"][0]
    share = (said["sd_misfit"] / said["loss"]).to_numpy()
    assert share == pytest.approx(found.misfit["sd"] * np.log(10) * said["beyond"].to_numpy())
    assert 0 < share[1] < share[2]
    assert (said["sd_residual"] / said["loss"]).to_numpy() == pytest.approx(
        found.residual["run_sd"]
    )
    sd = said[["sd_parameters", "sd_residual", "sd_misfit"]].to_numpy()
    width = (said["run_high"] - said["run_low"]).to_numpy()
    assert width == pytest.approx(3.92 * np.sqrt((sd**2).sum(1)), rel=0.25)


def test_rounding_a_finished_run_adds_the_noise_of_delta(demo: Any) -> None:
    found = fit(demo, "neff_free+ptq_kumar", resamples=100)
    said: Any = found.predict({"N": [20480.0] * 2, "D": [250e3] * 2, "P_post": [16.0, 3.0]})
    delta = said["loss"][1] - said["loss"][0]
    extra = np.hypot(found.noise["sigma0"], found.noise["r"] * delta)
    share = np.hypot(found.residual["family_sd"], found.residual["run_sd"])
    assert said["sd_residual"][0] == pytest.approx(share * said["loss"][0])
    assert said["sd_residual"][1] == pytest.approx(np.hypot(share * said["loss"][1], extra))


def test_without_an_origin_there_is_no_misfit_and_a_warning() -> None:
    frame = curved()
    found = fit(frame[frame["N"] < 1.3e8], "chinchilla", resamples=50)
    assert not found.misfit
    assert any("hold no misfit: no hold-out by compute" in w for w in found.warnings)
    said: Any = found.predict({"N": [1e9], "D": [1e10]})
    assert said["sd_misfit"].isna().all()


def test_a_stored_fit_predicts_the_same() -> None:
    found = fit(split(curved(), 0.6)[0], "chinchilla", resamples=50)
    assert json.loads(found.to_json())["misfit"] == found.misfit
    assert f"misfit sd {found.misfit['sd']:.2%}" in found.summary()
    at = {"N": [1e10], "D": [1e12]}
    assert Fit.from_json(found.to_json()).predict(at).equals(found.predict(at))
    with pytest.raises(ValueError, match="level must be between 0 and 1, got 95"):
        found.predict(at, level=95)
    old = {k: v for k, v in json.loads(found.to_json()).items() if k != "residual"}
    with pytest.raises(ValueError, match="of an older version"):
        Fit.from_json(json.dumps(old))
