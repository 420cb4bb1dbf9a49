"""Profiles: zero at the minimum, the textbook statistic where there is one, as wide as the draws where both hold."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from precisionlaws.fitting import Fit, fit
from precisionlaws.fitting import profiles as module
from precisionlaws.fitting.objective import block
from precisionlaws.fitting.profiles import Profile, profiles
from precisionlaws.fitting.resample import Solved
from precisionlaws.fitting.rows import centre
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.fitting.solve import search
from precisionlaws.laws import law

KUMAR = {"A": 4299.0, "alpha": 0.4965, "B": 18060.0, "beta": 0.4965, "E": 2.7648}
GRID = crossed((3e7, 6e7, 1.1e8, 2.2e8), (1.5e9, 3e9, 6e9, 1.3e10, 2.6e10), seeds=3)


def good(seed: int) -> pd.DataFrame:
    return simulate(law("chinchilla"), KUMAR, GRID, run_sd=0.005, seed=seed)


@pytest.fixture(scope="module")
def one() -> Fit:
    return fit(good(0), "chinchilla", loss="ls", resamples=1000)


def test_every_profile_is_least_at_the_estimate(one: Fit) -> None:
    assert set(one.profiles) == {"alpha", "beta", "E"}
    for name, p in one.profiles.items():
        assert list(p.values) == sorted(p.values)
        assert p.values[int(np.argmin(p.rise))] == pytest.approx(one.params[name])
        assert min(p.rise) == 0.0
        assert p.interval[0] < one.params[name] < p.interval[1]


def test_without_families_it_is_the_likelihood_ratio() -> None:
    """Against scipy: RSS with E held, over the noise."""
    frame = good(1)
    b = block("loss", law("chinchilla").bind(frame), frame, centre(frame))
    u = search(b, np.inf).u[0]
    same = np.full(len(b.y), "one")
    E = profiles(Solved(block=b, u=u, delta=np.inf, cluster=same, run=same))["E"]
    N, D, L = (np.log(frame[c].to_numpy()) for c in ("N", "D", "loss"))

    def residuals(v: Any, held: float) -> Any:
        a, alpha, c, beta = v
        return L - np.log(
            np.exp(a - alpha * (N - N.mean())) + np.exp(c - beta * (D - D.mean())) + held
        )

    free = optimize.least_squares(
        lambda v: residuals(v[:4], v[4]), [-1, 0.5, -1, 0.5, 2.7], xtol=1e-14, ftol=1e-14
    )
    noise = 2 * free.cost / (len(L) - 5)
    picked = [k for k, r in enumerate(E.rise) if 0.5 < r < 20]
    assert len(picked) >= 4
    for k in picked:
        held = optimize.least_squares(
            residuals, free.x[:4], args=(E.values[k],), xtol=1e-14, ftol=1e-14
        )
        assert E.rise[k] == pytest.approx(2 * (held.cost - free.cost) / noise, rel=0.03)
    assert E.limit == pytest.approx(stats.f.ppf(0.95, 1, len(L) - 5))


def test_it_agrees_with_the_draws_where_all_is_determined(one: Fit) -> None:
    for name in ("alpha", "beta", "E"):
        low, high = one.interval(name)
        a, b = one.profiles[name].interval
        assert b - a == pytest.approx(high - low, rel=0.35), name


def test_families_widen_it() -> None:
    frame = simulate(law("chinchilla"), KUMAR, GRID, family_sd=0.01, run_sd=0.001, seed=2)
    grouped = fit(frame, "chinchilla", loss="ls", resamples=50).profiles["alpha"].interval
    alone = (
        fit(frame.drop(columns="family"), "chinchilla", loss="ls", resamples=50)
        .profiles["alpha"]
        .interval
    )
    assert grouped[1] - grouped[0] > 1.3 * (alone[1] - alone[0])


def test_a_flat_side_is_open(demo: Any) -> None:
    p = fit(demo, "chinchilla", resamples=50).profiles["E"]
    assert p.open == (True, False)
    assert p.interval[0] == 0.0
    assert p.interval[1] > 0.2


def test_ends_are_interpolated() -> None:
    p = Profile(values=(0.0, 1.0, 2.0, 3.0), rise=(4.0, 0.0, 1.0, 9.0), limit=4.0)
    assert p.interval == (0.0, 2.5)
    assert p.open == (True, False)


def test_they_are_kept_in_the_json(one: Fit) -> None:
    assert Fit.from_json(one.to_json()).profiles == one.profiles


def test_exponents_of_delta_have_one_too(demo: Any) -> None:
    found = fit(demo, "ptq_kumar", resamples=50)
    assert {"gamma_D", "gamma_N"} <= set(found.profiles)
    low, high = found.profiles["gamma_D"].interval
    assert low < found.params["gamma_D"] < high
    assert high - low < 0.2


def test_intervals_of_efficiencies_hold_their_profiles() -> None:
    truth = {**KUMAR, "eff_w[4]": 0.8}
    design = crossed((3e7, 6e7, 1.1e8), (1.5e9, 3e9, 6e9), [{"P_w": 4}], seeds=2)
    found = fit(simulate(law("neff_free"), truth, design, run_sd=0.008, seed=4), "neff_free", resamples=500)  # fmt: skip
    inner, (low, high) = found.profiles["eff_w[4]"].interval, found.interval("eff_w[4]")
    assert low <= inner[0] < found.params["eff_w[4]"] < inner[1] <= high
    assert found.interval("eff_w(4)") == (low, high)


def test_a_side_that_a_bound_cuts_short_is_filled() -> None:
    """N hardly matters, so that a standard error of α is longer than all that the law allows."""
    flat = simulate(law("chinchilla"), {**KUMAR, "A": 1.0}, GRID, run_sd=0.005, seed=0)
    p = fit(flat, "chinchilla", loss="ls", resamples=50).profiles["alpha"]
    assert p.open == (True, True)
    assert len(p.values) == 17
    assert np.diff(np.log(p.values)).max() < 0.6 * np.log(p.values[-1] / p.values[0])


def test_points_far_away_are_tried_where_no_near_one_is_rejected(
    one: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NEAR", np.array([0.5, 1.0]))
    p = fit(good(0), "chinchilla", loss="ls", resamples=50).profiles["alpha"]
    assert list(p.values) == sorted(p.values)
    assert p.open == (False, False)
    assert p.interval == pytest.approx(one.profiles["alpha"].interval, rel=0.1)
