"""Origins: what is fitted, what is predicted, and that the batch finds what a fit of those rows alone finds."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from precisionlaws.fitting.objective import block
from precisionlaws.fitting.rolling import NoOrigin, beyond, distinct, errors, levels, origins, refit
from precisionlaws.fitting.rows import centre, select
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.fitting.solve import search
from precisionlaws.laws import law

TRUE = {
    "A": 300.0,
    "alpha": 0.33,
    "B": 900.0,
    "beta": 0.3,
    "E": 1.7,
    "eff_w[3]": 0.4,
    "eff_w[4]": 0.7,
}


@pytest.fixture(scope="module")
def table() -> Any:
    design = crossed(
        np.geomspace(1e6, 6.4e7, 4), np.geomspace(2e7, 3e9, 4), [{"P_w": 3}, {"P_w": 4}]
    )
    noisy = simulate(law("neff_free"), TRUE, design, family_sd=0.004, run_sd=0.004, seed=2)
    return select(noisy, law("neff_free")).loss


def test_sizes_that_are_close_are_one_level_and_many_become_ten() -> None:
    assert levels(np.array([100.0, 1.0, 103.0, 10.0])).tolist() == [2, 0, 2, 1]
    many = levels(np.repeat(np.geomspace(1, 1e6, 50), 3))
    assert many.max() == 9
    assert np.bincount(many).tolist() == [15] * 10
    assert (np.diff(many) >= 0).all()


@pytest.mark.parametrize("by", ["compute", "N", "D"])
def test_only_larger_runs_of_known_widths_are_predicted(table: Any, by: str) -> None:
    at = origins(table, [law("neff_free")], by)
    size = {"compute": table["N"] * table["D"], "N": table["N"], "D": table["D"]}[by].to_numpy()
    for fitted, scored, edge in zip(at.fitted, at.scored, at.edge, strict=True):
        assert not (fitted & scored).any()
        assert size[fitted].max() == edge < size[scored].min()
        assert set(table["P_w"][scored]) <= set(table["P_w"][fitted])


def test_a_width_that_was_not_fitted_is_not_predicted(table: Any) -> None:
    late = table[(table["P_w"] != 3) | (table["N"] > 3e7)].reset_index(drop=True)
    at = origins(late, [law("neff_free")], "N")
    assert at.scored[0].any()
    assert not (at.scored[0] & (late["P_w"] == 3)).any()


def test_one_batch_finds_what_each_fit_of_those_rows_finds(table: Any) -> None:
    one = law("neff_free")
    at = origins(table, [one])
    b = block("loss", one.bind(table), table, centre(table))
    found = errors(b, refit(b, 1e-3, table, at.fitted), at)
    for k, (fitted, scored) in enumerate(zip(at.fitted, at.scored, strict=True)):
        part = table[fitted]
        alone = block("loss", one.bind(part), part, centre(part))
        p = {name: v[0] for name, v in alone.natural(search(alone, 1e-3).u[:1]).items()}
        there = np.log(table["loss"] / one.bind(part).loss(p, table))[scored]
        assert found[at.pairs()[0] == k] == pytest.approx(there.to_numpy(), abs=2e-4)


def test_distance_is_the_farthest_of_N_D_and_compute() -> None:
    known = pd.DataFrame({"N": [1.0, 10.0], "D": [10.0, 1.0]})  # N·D = 10
    new = pd.DataFrame({"N": [2.0, 20.0, 0.5, 10.0], "D": [5.0, 1.0, 20.0, 10.0]})
    assert beyond(new, known) == pytest.approx(np.log([1, 2, 2, 10]))


def test_what_no_hold_out_can_do_is_said_in_a_line(table: Any) -> None:
    one = [law("neff_free")]
    with pytest.raises(ValueError, match="by one of compute, N, D, got 'flops'"):
        origins(table, one, "flops")
    with pytest.raises(
        NoOrigin, match=r"no hold-out by N: 24 rows have 1 level\(s\) of N, 1 of N and 4 of D"
    ):
        origins(table[table["N"] == table["N"].min()], one, "N")
    with pytest.raises(NoOrigin, match=r"more rows than the 7 parameters of chinchilla\+neff_free"):
        origins(table[:6], one)


def test_values_spread_evenly_are_many() -> None:
    assert distinct(np.geomspace(1e7, 1e9, 5000)) == 91  # ln 100 / SAME, from the first
    assert distinct([1e7, 1.01e7, 3e7, 1e9]) == 3
