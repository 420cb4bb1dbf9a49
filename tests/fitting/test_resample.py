"""Intervals cover: the delete-one-family jackknife under noise that runs of a family share."""

import numpy as np
import pytest

from precisionlaws.fitting.fit import fit
from precisionlaws.fitting.objective import Block, block
from precisionlaws.fitting.resample import Solved, draw
from precisionlaws.fitting.rows import centre, select
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


def coverage(replicates: int, method: str, *, family_sd: float, run_sd: float) -> dict[str, float]:
    """Share of nominal 95% intervals that hold the truth, with 4 sizes × 3 seeds = 12 families."""
    one = law("neff_free")
    design = crossed(np.geomspace(5e3, 3e5, 4), np.geomspace(6e4, 2e6, 4), WIDTHS, seeds=3)
    hits = dict.fromkeys(TRUE, 0.0)
    for r in range(replicates):
        rows = select(simulate(one, TRUE, design, family_sd=family_sd, run_sd=run_sd, seed=r), one)
        b = block("loss", one.bind(rows.loss), rows.loss, centre(rows.loss))
        u = minimise(b, start(b), np.inf).u[0]
        names = np.unique(rows.loss["family"], return_inverse=True)[1]
        solved = Solved(block=b, u=u, delta=np.inf, cluster=names, run=np.arange(len(names)))
        samples = b.natural(draw((solved,), method, 400, r).u[0])
        for name, true in TRUE.items():
            low, high = np.quantile(samples[name], [0.025, 0.975])
            hits[name] += float(low <= true <= high) / replicates
    return hits


def start(b: Block) -> np.ndarray:
    """The truth, in the space of the search."""
    v = {
        **TRUE,
        "A": TRUE["A"] * b.centre["N"] ** -TRUE["alpha"],
        "B": TRUE["B"] * b.centre["D"] ** -TRUE["beta"],
    }
    return np.array([[v[q.name] if q.link == "identity" else np.log(v[q.name]) for q in b.params]])


def test_jackknife_covers_shared_noise_where_rows_do_not() -> None:
    ours = coverage(60, "family", family_sd=0.01, run_sd=0.004)
    naive = coverage(60, "wald", family_sd=0.01, run_sd=0.004)
    exponents = ("alpha", "beta", "E")
    assert min(ours[k] for k in TRUE) >= 0.85  # 95% less three standard errors of 60 replicates
    assert ours["alpha"] >= naive["alpha"] + 0.1
    assert np.mean([ours[k] for k in exponents]) > np.mean([naive[k] for k in exponents])


@pytest.mark.slow
@pytest.mark.parametrize(("family_sd", "run_sd"), [(0.0, 0.008), (0.01, 0.004), (0.02, 0.008)])
def test_coverage_over_many_replicates(family_sd: float, run_sd: float) -> None:
    hits = coverage(300, "family", family_sd=family_sd, run_sd=run_sd)
    assert min(hits.values()) >= 0.90, hits
    assert np.mean(list(hits.values())) >= 0.93, hits


def test_draws_are_centred_on_the_estimate() -> None:
    one = law("neff_free")
    design = crossed((1e4, 1e5), (1e5, 4e5, 1.6e6), WIDTHS, seeds=3)
    found = fit(
        simulate(one, TRUE, design, family_sd=0.002, run_sd=0.002), one, loss="ls", resamples=2000
    )
    for name in ("eff_w[3]", "eff_w[4]", "beta"):
        assert np.median(found.samples[name]) == pytest.approx(found.params[name], rel=0.02)
    assert all(len(v) == 2000 for v in found.samples.values())
