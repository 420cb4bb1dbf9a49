"""Intervals cover: the delete-one-family jackknife under noise that runs of a family share."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from precisionlaws.fitting.fit import fit
from precisionlaws.fitting.objective import Block, block
from precisionlaws.fitting.resample import Solved, draw
from precisionlaws.fitting.rows import centre
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.fitting.solve import minimise
from precisionlaws.laws import law

TRUE = {
    "A": 30.0,
    "alpha": 0.5,
    "B": 150.0,
    "beta": 0.45,
    "E": 1.0,
    "eff_w[3]": 0.55,
    "eff_w[4]": 0.87,
}
WIDTHS = [{"P_w": 3}, {"P_w": 4}]


def coverage(
    replicates: int, method: str, *, delta: float = np.inf, first: int = 0, **noise: Any
) -> dict[str, float]:
    """Share of nominal 95% intervals that hold the truth, with 4 sizes × 3 seeds = 12 families."""
    one = law("neff_free")
    design = crossed(np.geomspace(5e3, 3e5, 4), np.geomspace(6e4, 2e6, 4), WIDTHS, seeds=3)
    hits = dict.fromkeys(TRUE, 0.0)
    for r in range(first, first + replicates):
        solved = solve(simulate(one, TRUE, design, **noise, seed=r), delta)
        samples = solved.block.natural(draw((solved,), method, 400, r).u[0])
        for name, true in TRUE.items():
            low, high = np.quantile(samples[name], [0.025, 0.975])
            hits[name] += float(low <= true <= high) / replicates
    return hits


def solve(frame: pd.DataFrame, delta: float = np.inf) -> Solved:
    """The loss block at its minimum."""
    one = law("neff_free")
    b = block("loss", one.bind(frame), frame, centre(frame))
    u = minimise(b, start(b), delta, tol=1e-9, steps=500).u[0]
    family, run = (np.unique(frame[c], return_inverse=True)[1] for c in ("family", "run_id"))
    return Solved(block=b, u=u, delta=delta, cluster=family, run=run)


def start(b: Block) -> np.ndarray:
    """The truth, in the space of the search."""
    v = {
        **TRUE,
        "A": TRUE["A"] * b.centre["N"] ** -TRUE["alpha"],
        "B": TRUE["B"] * b.centre["D"] ** -TRUE["beta"],
    }
    return np.array([[v[q.name] if q.link == "identity" else np.log(v[q.name]) for q in b.params]])


def test_jackknife_covers_shared_noise_where_rows_do_not() -> None:
    ours = coverage(40, "family", family_sd=0.01, run_sd=0.004)
    naive = coverage(40, "wald", family_sd=0.01, run_sd=0.004)
    exponents = ("alpha", "beta", "E")
    assert min(ours[k] for k in TRUE) >= 0.845  # 95% less three standard errors of 40 replicates
    assert ours["alpha"] >= naive["alpha"] + 0.1
    assert np.mean([ours[k] for k in exponents]) > np.mean([naive[k] for k in exponents])


@pytest.mark.slow
@pytest.mark.parametrize("noise", [{}, {"family_sd": 0.02}, {"family_sd": 0.02, "slope_sd": 0.01}])
def test_default_intervals_cover_under_each_noise(noise: dict[str, float]) -> None:
    """A guard on `benchmarks/bench_coverage.py`: other seeds, fewer replicates, the same loss and noise."""
    hits = coverage(150, "family", delta=1e-3, first=20_000, run_sd=0.008, **noise)
    assert min(hits.values()) >= 0.93 - 3.3 * (0.93 * 0.07 / 150) ** 0.5, hits
    assert np.mean(list(hits.values())) >= 0.93, hits


def families(sizes: int, seeds: int) -> pd.DataFrame:
    design = crossed(np.geomspace(5e3, 3e5, sizes), np.geomspace(6e4, 2e6, 4), WIDTHS, seeds=seeds)
    return simulate(law("neff_free"), TRUE, design, family_sd=2e-3, run_sd=1e-3, seed=5)


def test_few_families_get_the_spread_of_CR3_and_the_tails_of_t() -> None:
    """Against refits done one by one: Var = (G−1)/G Σ (u₋g − u)², times ν/(ν−2) for t_ν."""
    s = solve(families(4, 3), 1e-3)
    names = np.unique(s.cluster)
    G = len(names)
    refits = [
        minimise(s.block, s.u[None], s.delta, W=(s.cluster != g).astype(float), exact=True, tol=1e-12).u[0]
        for g in names
    ]  # fmt: skip
    spread = np.sqrt((G - 1) / G * ((np.array(refits) - s.u) ** 2).sum(0))
    draws = draw((s,), "family", 4000, 0)
    assert draws.clusters == G == 12
    assert "t with 11 degrees of freedom" in draws.method
    assert draws.converged == 1.0
    ends = np.quantile(draws.u[0] - s.u, [0.025, 0.975], axis=0)
    assert (ends[1] - ends[0]) / 2 == pytest.approx(2.201 * spread, rel=0.08)  # t_11 at .975


def test_many_families_are_bootstrapped_wider() -> None:
    s = solve(families(4, 6))
    draws = draw((s,), "family", 500, 0)
    assert draws.clusters == 24
    names = np.unique(s.cluster)
    counts = np.random.default_rng(0).multinomial(24, np.full(24, 1 / 24), 500).astype(float)
    W = counts[:, np.searchsorted(names, s.cluster)]
    plain = minimise(s.block, np.repeat(s.u[None], 500, 0), s.delta, W=W, tol=1e-10).u
    widened = np.sqrt(24 / 23) * 2.0687 / 1.9600  # t_23 and normal at .975
    assert (draws.u[0] - s.u) == pytest.approx(widened * (plain - s.u), rel=1e-4, abs=1e-9)


def test_slopes_and_levels_belong_to_families() -> None:
    one = law("neff_free")
    design = crossed((1e4, 1e5), (1e5, 4e5), WIDTHS, seeds=4)
    quiet = simulate(one, TRUE, design)["loss"].to_numpy()
    away = np.log(design["D"].to_numpy()) - np.log(design["D"].to_numpy()).mean()
    tilt = simulate(one, TRUE, design, slope_sd=0.01, seed=2)["loss"].to_numpy() - quiet
    slopes: Any = pd.Series(tilt / away).groupby(design["family"])
    assert slopes.std().max() < 1e-9
    assert slopes.mean().nunique() == 8
    assert slopes.mean().std() == pytest.approx(0.01, rel=0.6)
    level: Any = pd.Series(simulate(one, TRUE, design, family_sd=0.02)["loss"] - quiet)
    assert level.groupby(design["family"]).std().max() < 1e-9


def test_a_family_may_be_hurt_more_by_rounding() -> None:
    one = law("ptq_kumar")
    true = {**TRUE, "C_T": 0.018, "gamma_D": 0.69, "gamma_N": 0.25, "gamma_post": 0.63}
    design = crossed((1e4, 1e5), (1e5, 4e5), seeds=3, post=(3, 4))
    quiet, loud = (simulate(one, true, design, delta_family_sd=sd) for sd in (0.0, 0.2))
    ratio: Any = (loud["delta_ptq"] / quiet["delta_ptq"]).groupby(design["family"])
    assert ratio.std().max() < 1e-9
    assert ratio.mean().nunique() == 6
    extra = (loud["delta_ptq"] - quiet["delta_ptq"]).fillna(0)
    assert (loud["loss"] - quiet["loss"]).to_numpy() == pytest.approx(extra.to_numpy(), abs=1e-12)


def test_draws_are_centred_on_the_estimate() -> None:
    one = law("neff_free")
    design = crossed((1e4, 1e5), (1e5, 4e5, 1.6e6), WIDTHS, seeds=3)
    found = fit(
        simulate(one, TRUE, design, family_sd=0.002, run_sd=0.002), one, loss="ls", resamples=2000
    )
    for name in ("eff_w[3]", "eff_w[4]", "beta"):
        assert np.median(found.samples[name]) == pytest.approx(found.params[name], rel=0.02)
    assert all(len(v) == 2000 for v in found.samples.values())
