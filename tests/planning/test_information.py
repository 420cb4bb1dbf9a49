"""What a study would tell: expected intervals against fits of simulated studies."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from precisionlaws.fitting import Fit, fit
from precisionlaws.fitting.components import components
from precisionlaws.fitting.objective import block
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.fitting.solve import minimise
from precisionlaws.laws import law
from precisionlaws.planning import information as info
from precisionlaws.planning import prior as priors
from precisionlaws.planning.information import HUBER, Design, Worth
from precisionlaws.planning.sandwich import student

TRUE = {
    "A": 60.0, "alpha": 0.5, "B": 40.0, "beta": 0.3, "E": 1.2, "eff_w[3]": 0.55, "eff_w[4]": 0.87, "eff_a[4]": 0.75,
    "C_T": 0.018, "gamma_D": 0.69, "gamma_N": 0.25, "gamma_post": 0.63,
}  # fmt: skip
NOISE = {"family": 0.003, "branch": 0.004, "row": 0.003}  # sd of log loss
WIDTHS = [{"P_w": 3}, {"P_w": 4}, {"P_a": 4}]
LAW = law("neff_free+ptq_kumar")


def points(seeds: int = 3, D: tuple[float, ...] = (62e3, 125e3, 250e3, 500e3, 1e6)) -> pd.DataFrame:
    return crossed((6656, 20480, 50000, 110000), D, WIDTHS, post=(3, 4, 5), seeds=seeds)


def noisy(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Losses with noise in proportion to them, as the model of the noise has it."""
    made = simulate(LAW, TRUE, table, delta_sd=(3e-4, 0.2), seed=seed)
    rng = np.random.default_rng(seed)
    factor = np.zeros(len(made))
    for sd, keys in zip(NOISE.values(), (["family"], ["family", "D"], ["run_id"]), strict=True):
        group = made.groupby(keys, sort=False).ngroup().to_numpy()
        factor += sd * rng.standard_normal(group.max() + 1)[group]
    before = made["loss"] - made["delta_ptq"].fillna(0.0)
    return made.assign(loss=before * np.exp(factor) + made["delta_ptq"].fillna(0.0))


@pytest.fixture(scope="module")
def one() -> Fit:
    return fit(noisy(points(), 0), LAW, resamples=200)


@pytest.fixture(scope="module")
def known(one: Fit) -> priors.Prior:
    """The truth, as a prior."""
    made = priors.from_fit(replace(one, params=TRUE, noise={"sigma0": 3e-4, "r": 0.2}), "truth")
    exact = priors.Noise(**{k: v**2 for k, v in NOISE.items()})
    return replace(made, noise={"loss": exact, "delta": priors.Noise(family=0, branch=0, row=1)})


def test_half_widths_are_the_spread_of_fits_within_15_percent(known: priors.Prior) -> None:
    """400 studies, each fitted from the truth: base, efficiencies, and what rows share cancels or not."""
    table = points()
    d = Design(known, table)
    rows = d.rows[d.rows["P_post"] == 16]
    b = replace(block("loss", known.law, rows, known.centre), params=known.blocks["loss"].params)
    rng, R = np.random.default_rng(1), 400
    y = np.repeat(b.y[None], R, 0)
    for sd, keys in zip(NOISE.values(), (["family"], ["family", "D"], ["run_id"]), strict=True):
        group = rows.groupby(keys, sort=False).ngroup().to_numpy()
        y += sd * rng.standard_normal((R, group.max() + 1))[:, group]
    found = b.natural(minimise(b, np.repeat(known.u["loss"][None], R, 0), HUBER, y=y, steps=200).u)
    t = student(d.families)
    assert d.families == 12
    for e in d.expected():
        if e.name in found and e.name not in ("A", "B"):  # their spread is skewed
            assert e.half / t == pytest.approx(np.std(found[e.name]), rel=0.15), e.name
    exponent = found["beta"] / (found["alpha"] + found["beta"])
    expected = {e.name: e for e in d.expected()}["N_opt_exponent"]
    assert expected.half / t == pytest.approx(np.std(exponent), rel=0.15)


@pytest.mark.slow
def test_half_widths_are_the_spread_of_whole_fits(known: priors.Prior) -> None:
    d, names = (
        Design(known, points()),
        ("eff_w[3]", "eff_w[4]", "eff_a[4]", "gamma_D", "gamma_post"),
    )
    fits = [fit(noisy(points(), s), LAW, intervals="wald", resamples=1) for s in range(100)]
    t = student(d.families)
    for e in d.expected():
        if e.name in names:
            ratio = e.half / t / np.std([f.params[e.name] for f in fits])
            # γ_post comes out narrower than expected: on the safe side, and known.
            assert 0.8 <= ratio <= (1.6 if e.name == "gamma_post" else 1.25), e.name


def test_a_fit_foretells_its_own_intervals(one: Fit) -> None:
    d = Design(priors.from_fit(one, "one"), points())
    for e in d.expected():
        if info.is_stiff(e.name):
            low, high = one.interval(e.name)
            assert 0.5 < (high - low) / (e.high - e.low) < 2.2, e.name


def test_noise_is_found_again(one: Fit) -> None:
    found = priors.from_fit(one, "one").noise
    assert found["loss"].sd == pytest.approx(tuple(NOISE.values()), rel=0.6)
    assert found["loss"].sd[2] == pytest.approx(NOISE["row"], rel=0.15)  # 180 degrees of freedom
    assert sum(v**2 for v in found["delta"].sd) == pytest.approx(1, abs=0.3)


def test_components_are_not_taken_down_by_what_a_fit_absorbs() -> None:
    rng, family = np.random.default_rng(0), np.repeat(np.arange(8), 20)
    branch = np.repeat(np.arange(32), 5)
    J = rng.standard_normal((4, 8))[:, family]  # moves whole families
    M = np.eye(160) - J.T @ np.linalg.pinv(J.T)
    seen = []
    for _ in range(1000):
        e = 2 * rng.standard_normal(8)[family] + rng.standard_normal(32)[branch]
        seen.append(components(M @ (e + 0.5 * rng.standard_normal(160)), J, (family, branch)))
    assert np.mean(seen, 0) == pytest.approx([4, 1, 0.25], rel=0.12)


def test_more_seeds_narrow_and_the_target_names_how_many(known: priors.Prior) -> None:
    d = Design(known, points())
    now = {e.name: e.half for e in d.expected()}
    for name in ("gamma_D", "eff_w[3]", "E"):
        seeds = d.seeds_for(name, now[name] / 2)
        assert seeds is not None
        assert {e.name: e for e in d.expected(seeds)}[name].half <= now[name] / 2
        assert {e.name: e for e in d.expected(seeds - 1)}[name].half > now[name] / 2
        trained = {e.name: e for e in Design(known, points(seeds)).expected()}[name]
        assert trained.half == pytest.approx(now[name] / 2, rel=0.1)
        assert d.seeds_for(name, now[name]) == 3
    with pytest.raises(ValueError, match="no quantity 'gamma_d' in this study; there are A, alpha"):
        d.seeds_for("gamma_d", 0.1)
    with pytest.raises(ValueError, match="must be a positive half width, got 0"):
        d.seeds_for("gamma_D", 0)


def test_no_number_of_seeds_identifies_what_the_grid_does_not(known: priors.Prior) -> None:
    d = Design(known, points(D=(250e3,)))
    half = {e.name: e.half for e in d.expected()}
    assert half["beta"] == half["gamma_D"] == half["E"] == np.inf
    assert np.isfinite(half["gamma_post"])
    assert d.seeds_for("gamma_D", 100.0) is None
    assert d.seeds_for("gamma_post", half["gamma_post"] / 3) is not None


def test_runs_that_go_and_come_back(known: priors.Prior) -> None:
    table = points()
    gone = sorted(set(table["run_id"]))[::7] + [
        r for r in set(table["run_id"]) if r[:7] == "6656-62"
    ]
    d, rest = Design(known, table), Design(known, table[~table["run_id"].isin(gone)])
    whole = d.half_widths()
    assert d.half_widths(gone) == pytest.approx(rest.half_widths(), rel=1e-6)
    d.change(gone, -1.0)
    assert d.half_widths() == pytest.approx(rest.half_widths(), rel=1e-6)
    assert d.families == rest.families
    assert d.half_widths(gone, 1.0) == pytest.approx(whole, rel=1e-6)
    d.change(gone, 1.0)
    assert d.half_widths() == pytest.approx(whole, rel=1e-6)


def test_worth_is_1_for_all_and_infinite_where_a_question_has_no_answer(
    known: priors.Prior,
) -> None:
    table = points()
    worth = Worth([Design(known, table)])
    assert worth.criterion() == pytest.approx(1)
    at_4 = set(table.loc[table["P_a"] == 4, "run_id"])
    assert worth.criterion(at_4) == np.inf
    assert 1 < worth.criterion(set(table.loc[table["seed"] == 0, "run_id"])) < 3


def test_published_constants_and_the_demo_are_priors() -> None:
    table = crossed((30e6, 60e6, 110e6), (1.5e9, 6e9, 26e9), [{"P_a": b} for b in (3, 4, 8)])
    d = Design(priors.published("neff_kumar", table), table)
    expected = {e.name: e for e in d.expected()}
    assert expected["gamma_a"].value == 2.2102
    assert expected["n_a"].value == 1.4072
    assert "gamma_w" not in expected
    assert d.left_out == 3 * 3 * 2  # at 3 bits the published law is not defined
    default = {e.name: e for e in Design(priors.default(table), table).expected()}
    assert {"eff_a[3]", "eff_a[4]", "eff_a[8]"} < set(default)
    with pytest.raises(
        ValueError,
        match="chinchilla\\+deff_free has no published constants to plan with; these have: .*neff_kumar",
    ):
        priors.published("chinchilla+deff_free", table)


def test_points_that_a_fit_would_refuse_to_mix_are_not_replicates(known: priors.Prior) -> None:
    table = points()
    table["ptq.granularity"] = np.where(table["P_post"] < 16, "group", "none")
    twice = pd.concat([table, table[table["P_post"] < 16].assign(**{"ptq.granularity": "row"})])
    half = [Design(known, t).half_widths() for t in (table, twice)]
    assert half[0] == pytest.approx(half[1])


def test_a_best_width_has_an_interval() -> None:
    each = [{role: b} for role in ("P_w", "P_a", "P_kv") for b in (4, 6, 8)]
    table = crossed((30e6, 60e6, 110e6), (1.5e9, 6e9, 26e9), each)
    star = {e.name: e for e in Design(priors.published("neff_kumar", table), table).expected()}[
        "P*"
    ]
    assert star.value == pytest.approx(7.0021, abs=1e-4)  # of the paper, from its constants
    assert 5 < star.low < star.value < star.high < 9
