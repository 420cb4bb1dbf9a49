"""Orders of sensitivity: claimed only beyond what the study could tell apart."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from precisionlaws.fitting import fit
from precisionlaws.fitting.order import detectable, dof, known, order
from precisionlaws.fitting.simultaneous import POWER, spread, together


def test_a_difference_is_claimed_only_where_its_interval_leaves_zero_out(demo: Any) -> None:
    found = fit(demo, "neff_free", resamples=1000)
    said = order(found)
    assert [line.partition(":")[0] for line in said] == ["at 4 bits", "at 6 bits"]
    assert "kv costs less than a (eff differs by 0." in said[0]  # .92 against .75
    assert "w and kv not told apart (eff differs by 0.0" in said[0]  # .87 against .92
    assert ", detectable 0." in said[1]
    assert all(line in found.summary() for line in said)
    swapped = fit(demo.rename(columns={"P_w": "P_a", "P_a": "P_w"}), "neff_free", resamples=1000)
    assert "kv costs less than w" in order(swapped)[0]


def test_more_seeds_detect_less(demo: Any) -> None:
    found = fit(demo, "neff_free", resamples=1000)
    assert 0.02 < detectable(found, "eff_w[4]") < detectable(found, "eff_w[3]") < 1
    low, high = found.interval("eff_w[4]")
    t, power = stats.t.ppf(0.975, 5), stats.t.ppf(POWER, 5)
    assert detectable(found, "eff_w[4]") == pytest.approx(
        (high - low) / 2 * (1 + power / t), rel=0.15
    )


def test_roles_without_an_anchor_are_not_compared(demo: Any) -> None:
    found = fit(demo[(demo["P_w"] == 4)], "neff_free", resamples=50)
    assert not known(found, "w", 4.0)
    assert order(found) == []
    one: Any = demo[(demo["P_a"] != 4) | (demo["family"] == demo["family"].iloc[0])]
    found = fit(one, "neff_free", resamples=50)
    assert found.one_cluster == ("eff_a[4]",)
    assert not known(found, "a", 4.0)
    assert not any("at 4 bits: w and a" in line for line in order(found))


def test_degrees_of_freedom_are_those_of_the_families(demo: Any) -> None:
    assert dof(fit(demo, "neff_free", resamples=20)) == 5
    assert dof(fit(demo.assign(family="all"), "chinchilla", resamples=20)) == 24 - 5


def test_standard_errors_come_back_from_the_draws() -> None:
    rng = np.random.default_rng(0)
    for nu in (3, 5, 40):
        draws = 1.0 + 0.2 * rng.standard_t(nu, (40_000, 2)) * np.array([1.0, 3.0])
        assert spread(draws, np.ones(2), nu) == pytest.approx([0.2, 0.6], rel=0.03)


def test_power_is_what_it_says() -> None:
    """An effect of the detectable size is found four times in five."""
    found = together(np.zeros(1), np.ones(1), 12)
    cut, effect = stats.t.ppf(0.975, 12), float(found.detectable[0])
    assert stats.nct.sf(cut, 12, effect) == pytest.approx(POWER, abs=0.02)
    assert (found.low[0], found.high[0]) == (pytest.approx(-cut), pytest.approx(cut))


def test_several_at_once_are_judged_more_strictly() -> None:
    point, se = np.array([2.3, 0.1, 0.0, -5.0]), np.ones(4)
    alone, every = together(point[:1], se[:1], 20), together(point, se, 20)
    assert alone.low[0] > 0 > every.low[0]
    assert every.high[3] < 0
    assert every.p == pytest.approx(
        [3 * 2 * stats.t.sf(2.3, 20), 1.0, 1.0, 4 * 2 * stats.t.sf(5.0, 20)]
    )


def test_all_intervals_hold_together() -> None:
    rng = np.random.default_rng(1)
    kept = 0
    for _ in range(400):
        x = rng.standard_normal((7, 6))
        found = together(x.mean(0), x.std(0, ddof=1) / np.sqrt(7), 6)
        kept += bool(((found.low < 0) & (found.high > 0)).all())
    assert kept / 400 > 0.93


def test_families_that_are_formats_are_doubted(demo: Any) -> None:
    kind = np.where((demo[["P_w", "P_a", "P_kv"]] < 16).any(axis=1), "qat", "bf16")
    found = fit(demo.assign(family=kind), "neff_free", resamples=20)
    assert any(
        w.startswith("no family holds both a quantized and an unquantized") for w in found.warnings
    )
    assert not any("no family holds" in w for w in fit(demo, "neff_free", resamples=20).warnings)
