"""The printed report: what the data determine best comes first."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from precisionlaws.fitting import Fit, fit
from precisionlaws.fitting.derived import _largest, blocks


@pytest.fixture(scope="module")
def free(demo: Any) -> Fit:
    return fit(demo, "neff_free+ptq_kumar", resamples=300)


def test_every_quantity_of_the_table_has_a_value_and_draws(free: Fit) -> None:
    names = [name for rows in blocks(free) for name, _ in rows]
    assert len(names) == len(set(names))
    assert set(free.params) <= set(names)
    for name in names:
        value, draws = free.quantity(name)
        assert np.isfinite(value), name
        assert draws.shape == (300,), name
        assert free.value(name, free.params) == value


def test_bits_come_first_and_raw_coefficients_last(free: Fit) -> None:
    bits, base, shape, coefficients = ([name for name, _ in rows] for rows in blocks(free))
    assert bits[:3] == ["eff_w[3]", "eff_w[4]", "eff_w[6]"]
    assert bits[6:] == ["compute(4)", "gamma_D", "gamma_N", "gamma_post", "delta(3)", "delta(4)"]
    assert base == ["L_centre", "N_opt_exponent", "D/N_opt"]
    assert shape == ["alpha", "beta"]
    assert coefficients == ["A", "B", "E", "C_T"]


def test_derived_quantities_are_what_they_say(free: Fit) -> None:
    p: Any = free.params
    rows: Any = free.rows
    N, D = (float(np.exp(np.log(rows[c]).mean())) for c in ("N", "D"))
    at = free.predict({"N": [N], "D": [D]})
    assert free.quantity("L_centre")[0] == pytest.approx(at["loss"][0])
    assert free.quantity("compute(4)")[0] == pytest.approx(4 * free.quantity("eff(4)")[0])
    K, ratio = float((rows["N"] * rows["D"]).max()), free.quantity("D/N_opt")[0]
    best = free.law.loss(
        p,
        {
            "N": np.sqrt(K / ratio) * np.array([0.9, 1.0, 1.1]),
            "D": np.sqrt(K * ratio) / np.array([0.9, 1.0, 1.1]),
        },
    )
    assert best[1] == best.min()
    pairs: Any = free.delta_rows
    n, d = (float(np.exp(np.log(pairs[c]).mean())) for c in ("N", "D"))
    delta = p["C_T"] * d ** p["gamma_D"] / n ** p["gamma_N"] * np.exp(-3 / p["gamma_post"])
    assert free.quantity("delta(3)")[0] == pytest.approx(delta)


@pytest.mark.parametrize("name", ["gamma", "eff_x(4)", "delta()", "compute(x)"])
def test_an_unknown_quantity_is_answered_with_what_there_is(free: Fit, name: str) -> None:
    with pytest.raises(ValueError, match=r"no quantity .*compute\(4\).*N_opt_exponent"):
        free.interval(name)


def test_a_law_without_bits_has_no_efficiencies(demo: Any) -> None:
    found = fit(demo, "chinchilla", resamples=20)
    for name in ("eff(4)", "compute(4)", "delta(3)"):
        with pytest.raises(ValueError, match="no quantity"):
            found.interval(name)
    assert "detectable" not in found.summary()


def test_kaplan_has_an_optimum_and_no_E(demo: Any) -> None:
    found = fit(demo, "kaplan", resamples=20)
    assert [n for rows in blocks(found) for n, _ in rows] == [
        "L_centre",
        "D/N_opt",
        "alpha_N",
        "alpha_D",
        "N_c",
        "D_c",
    ]


def test_the_largest_run_may_exceed_64_bits() -> None:
    rows = pd.DataFrame({"N": [800_000_000, 7], "D": [80_000_000_000, 7]})
    assert _largest(rows) == 6.4e19
