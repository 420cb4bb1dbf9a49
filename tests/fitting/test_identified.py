"""Designs that cannot identify a base are called so in words; good ones are not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from precisionlaws.fitting import Fit, fit
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.laws import law
from precisionlaws.planning import plan

HOFFMANN = {"A": 482.01, "alpha": 0.3478, "B": 2085.43, "beta": 0.3658, "E": 1.8172}
KUMAR = {"A": 4299.0, "alpha": 0.4965, "B": 18060.0, "beta": 0.4965, "E": 2.7648}


def ladder(seed: int, sd: float = 0.005) -> Any:
    """Four sizes at 1, 2, 5 and 10 times 20 tokens per parameter (Bhagia et al. 2024, arXiv 2412.04403)."""
    points = [(n, 20 * n * k) for n in (190e6, 370e6, 760e6, 1.3e9) for k in (1, 2, 5, 10)]
    return losses(HOFFMANN, points, sd, seed)


def one_ratio(seed: int, sd: float = 0.005) -> Any:
    """Eight sizes, three seeds, 20 tokens per parameter, in whole steps."""
    points = [
        (n, round(20 * n / 2**18) * 2**18) for n in np.geomspace(3e7, 3e9, 8) for _ in range(3)
    ]
    return losses(HOFFMANN, points, sd, seed)


def losses(true: dict[str, float], points: list[Any], sd: float, seed: int) -> Any:
    rows = [{"N": n, "D": d, "run_id": str(i), "family": str(i)} for i, (n, d) in enumerate(points)]
    return simulate(law("chinchilla"), true, pd.DataFrame(rows), run_sd=sd, seed=seed)


def good(seed: int, sd: float = 0.005) -> Any:
    design = crossed((3e7, 6e7, 1.1e8, 2.2e8), (1.5e9, 3e9, 6e9, 1.3e10, 2.6e10), seeds=3)
    return simulate(law("chinchilla"), KUMAR, design, family_sd=sd / 2, run_sd=sd, seed=seed)


def isoflops(seed: int, sd: float = 0.01) -> Any:
    """200 runs along lines of equal compute, as in Hoffmann et al."""
    rng = np.random.default_rng(0)
    N = np.exp(rng.uniform(np.log(6e7), np.log(1.2e10), 200))
    D = np.exp(rng.uniform(np.log(2e18), np.log(1e21), 200)) / 6 / N
    return losses(HOFFMANN, list(zip(N, D, strict=True)), sd, seed)


def called(found: Fit) -> bool:
    return any("not identified" in w for w in found.warnings)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("design", [ladder, one_ratio])
def test_bad_designs_are_called_not_identified(design: Callable[[int], Any], seed: int) -> None:
    found = fit(design(seed), "chinchilla", resamples=100)
    assert called(found)
    assert not found.certified  # exit code 3
    assert set(found.unidentified) == {"A", "alpha", "B", "beta", "E"}
    table = found.summary().partition("certificate")[0]
    assert table.count("not identified") == 5 + 2  # and N_opt_exponent, D/N_opt


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("design", [good, isoflops])
def test_good_designs_raise_no_alarm(design: Callable[[int], Any], seed: int) -> None:
    found = fit(design(seed), "chinchilla", resamples=200)
    assert found.certified
    assert not called(found)
    assert found.unidentified == ()
    assert "not identified" not in found.summary()


def test_why_is_said_in_words() -> None:
    few = " ".join(fit(ladder(0), "chinchilla", resamples=50).warnings)
    assert "not identified: 16 losses for the 5 parameters of the base" in few
    tied = " ".join(fit(one_ratio(0), "chinchilla", resamples=50).warnings)
    assert "not identified: N and D move together (D/N = 20, correlation 1.0000)" in tied


def test_what_stays_determined_comes_first() -> None:
    """The loss amid the data and its slope survive where no coefficient does."""
    found = fit(ladder(0), "chinchilla", resamples=200)
    low, high = found.interval("L_centre")
    assert high - low < 0.02
    lines = found.summary().splitlines()
    place = {name: k for k, name in enumerate(line.partition(" ")[0] for line in lines)}
    assert place["L_centre"] < place["N_opt_exponent"] < place["alpha"] < place["A"] < place["E"]
    assert next(line for line in lines if line.startswith("least determined")).count(" with ") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("design", "sd", "least", "most"),
    [(ladder, 0.005, 1.0, 1.0), (ladder, 0.01, 1.0, 1.0), (one_ratio, 0.005, 1.0, 1.0), (good, 0.002, 0.0, 0.0),
     (good, 0.005, 0.0, 0.05), (isoflops, 0.01, 0.0, 0.0)],
)  # fmt: skip
def test_rates_over_100_seeds(design: Any, sd: float, least: float, most: float) -> None:
    share = np.mean([called(fit(design(s, sd), "chinchilla", resamples=100)) for s in range(100)])
    assert least <= share <= most


def test_two_values_of_D_leave_the_base_open() -> None:
    design = good(0)
    found = fit(design[design.D.isin([1.5e9, 2.6e10])], "chinchilla", resamples=100)
    assert set(found.unidentified) == {"A", "alpha", "B", "beta", "E"}
    lines = found.summary().splitlines()
    assert all("not identified" in s for s in lines if s.startswith(("N_opt_exponent", "D/N_opt")))
    said = plan(found, flops=1e19).warnings
    assert any("leaves A, alpha, B, beta, E open" in w for w in said)


def test_roles_never_apart_are_not_ordered() -> None:
    """Only the product of their efficiencies is in the data."""
    true = KUMAR | {"eff_w[4]": 0.8, "eff_a[4]": 0.9, "eff_w[6]": 0.95, "eff_a[6]": 0.97}
    widths = [{"P_w": 4, "P_a": 4}, {"P_w": 6}, {"P_a": 6}]
    design = crossed((3e7, 6e7, 1.1e8), (1.5e9, 6e9, 2.6e10), widths, seeds=3)
    frame = simulate(law("neff_free"), true, design, run_sd=0.002)
    found = fit(frame, "neff_free", resamples=100)
    assert {"eff_w[4]", "eff_a[4]"} <= set(found.unidentified)
    assert "eff_w[6]" not in found.unidentified
    text = found.summary()
    assert "at 4 bits:" not in text
    assert "at 6 bits:" in text


def test_an_interval_excludes_nothing_that_the_profile_allows() -> None:
    found = fit(ladder(0), "chinchilla", resamples=200)
    for name, profile in found.profiles.items():
        low, high = found.interval(name)
        assert low <= profile.interval[0]
        assert high >= profile.interval[1]


def test_losses_that_rise_are_another_column() -> None:
    frame = good(0)
    frame["loss"] = 1 / frame["loss"]
    found = fit(frame, "chinchilla", resamples=100)
    assert any("is `loss` the right column?" in w for w in found.warnings)
    assert not any("right column" in w for w in fit(good(0), "chinchilla", resamples=100).warnings)


def test_a_rejected_product_is_a_warning_and_names_the_remedy() -> None:
    true = KUMAR | {"eff_w[4]": 0.8, "eff_a[4]": 0.9, "kappa[w4a4]": 0.6}
    widths = [{"P_w": 4}, {"P_a": 4}, {"P_w": 4, "P_a": 4}]
    design = crossed((3e7, 6e7, 1.1e8), (1.5e9, 6e9, 2.6e10), widths, seeds=4)
    frame = simulate(law("neff_free+interaction"), true, design, run_sd=0.002)
    found = fit(frame, "neff_free", resamples=100)
    assert any(w.endswith("fit chinchilla+neff_free+interaction") for w in found.warnings)
    assert any("best width rests on it" in w for w in plan(found, flops=1e19).warnings)
