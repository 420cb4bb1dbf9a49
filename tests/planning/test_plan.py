"""Plans from fits: what they answer, how sure they are, and what they refuse."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from precisionlaws.fitting import Fit, fit
from precisionlaws.planning import Plan, plan

FLOPS = 1e12


def budget(one: Plan) -> float:
    return 6 * one.N * one.D * one.P / 16


@pytest.mark.parametrize("name", ["chinchilla", "neff_kumar", "neff_free", "ptq_kumar"])
def test_a_plan_spends_its_budget(fits: dict[str, Fit], name: str) -> None:
    for fixed in ({}, {"N": 3e4}, {"D": 1e6}, {"P": 16.0}):
        one = plan(fits[name], flops=FLOPS, fixed=fixed)
        assert budget(one) == pytest.approx(FLOPS, rel=1e-9)
        assert all(getattr(one, k) == v for k, v in fixed.items())
        s = one.samples
        assert s["N"] * s["D"] * s["P"] * 6 / 16 == pytest.approx(FLOPS, rel=1e-9)
        assert one.interval("loss")[0] <= one.loss <= one.interval("loss")[1]


def test_form_free_width_is_the_best_of_the_table(fits: dict[str, Fit]) -> None:
    one = plan(fits["neff_free"], flops=FLOPS)
    table: Any = one.regret
    assert table["P"][table["gain"].idxmax()] == one.P
    assert table["regret"].min() == 0
    assert one.p_set == tuple(table["P"][table["regret"] <= 0.05])
    assert one.P in one.p_set
    assert table["best"].sum() == pytest.approx(1)
    assert {4, 5, 6} >= {*map(int, one.interval("P"))}
    assert set(one.samples["P"]) <= set(table["P"])
    assert not table["interpolated"][table["P"] == 4].any()


def test_the_width_does_not_depend_on_the_budget(fits: dict[str, Fit]) -> None:
    for name in ("neff_kumar", "neff_free"):
        small, large = (plan(fits[name], flops=C) for C in (1e10, 1e18))
        assert abs(small.P - large.P) < 1e-12
        for column in ("gain", "regret", "regret_high", "best"):
            assert small.regret[column].equals(large.regret[column])


def test_fixing_what_is_best_changes_nothing(fits: dict[str, Fit]) -> None:
    free = plan(fits["neff_free"], flops=FLOPS)
    for fixed in ({"N": free.N}, {"D": free.D}, {"P": free.P}):
        held = plan(fits["neff_free"], flops=FLOPS, fixed=fixed)
        assert held.loss == pytest.approx(free.loss, rel=1e-6)
    worse = plan(fits["neff_free"], flops=FLOPS, fixed={"P": 12})
    assert worse.loss > free.loss


def test_fixed_N_and_D_leave_the_width(fits: dict[str, Fit]) -> None:
    one = plan(fits["neff_free"], flops=6 * 3e4 * 1e6 * 8 / 16, fixed={"N": 3e4, "D": 1e6})
    assert (one.P, one.N, one.D) == (8, 3e4, 1e6)
    with pytest.raises(ValueError, match="flops binds: N = 30000 and D = 1e\\+06 cost 4.5e"):
        plan(fits["neff_free"], flops=1e8, fixed={"N": 3e4, "D": 1e6})


def test_critical_tokens_are_where_training_stops_helping(fits: dict[str, Fit]) -> None:
    ptq = fits["ptq_kumar"]
    one = plan(ptq, flops=FLOPS, fixed={"N": 2e4})
    for row in one.critical.to_dict("records"):
        D = row["D_crit"] * np.array([0.9, 1.0, 1.1])
        loss = ptq.law.loss(
            ptq.params, {"N": np.full(3, 2e4), "D": D, "P_post": np.full(3, row["P_post"])}
        )
        assert loss[1] < loss[0]
        assert loss[1] < loss[2]
        assert row["extrapolated"] == (row["D_crit"] > 5e5)
        low, high = one.interval(f"D_crit({row['P_post']:g})")
        assert low <= row["D_crit"] <= high
    assert np.all(np.diff(one.critical["D_crit"]) > 0)


def test_a_plan_says_what_it_rests_on(fits: dict[str, Fit]) -> None:
    text = " | ".join(plan(fits["neff_kumar"], flops=1e15).warnings)
    for part in ("decades above the largest measured", "the interval of P is that of the formula"):
        assert part in text
    text = " | ".join(plan(fits["neff_free"], flops=1e30).warnings)
    assert (
        "not determined: the 95% interval spans a factor of more than 100; the best width does not depend on them"
        in text
    )
    broken = replace(
        fits["neff_free"], certificate=replace(fits["neff_free"].certificate, ok=False)
    )
    assert "not certified" in plan(broken, flops=1e10).warnings[0]


def test_summary_and_json(fits: dict[str, Fit]) -> None:
    for name in ("neff_free", "ptq_kumar"):
        one = plan(fits[name], flops=FLOPS, fixed={"N": 3e4})
        text, out = one.summary(), json.loads(one.to_json())
        assert text.startswith(f"{one.law}: 1e+12 FLOP, cost paper, N = 30000 fixed")
        assert out["P"] == one.P
        assert out["intervals"]["loss"] == list(one.interval("loss"))
    assert "within 5% of the best" in plan(fits["neff_free"], flops=FLOPS).summary()
    assert "D_crit" in plan(fits["ptq_kumar"], flops=FLOPS).summary()


@pytest.mark.parametrize(
    ("flops", "options", "message"),
    [
        (0.0, {}, "flops must be positive"),
        (float("nan"), {}, "flops must be positive"),
        (1e12, {"cost": "gold"}, "cost must be one of"),
        (1e12, {"fixed": {"B": 3}}, "fixed may hold N, D, P, memory, got B"),
        (1e12, {"fixed": {"N": -1}}, "N = -1"),
        (1e12, {"fixed": {"P": 3}}, "P must be one of 4, 5"),
        (1e12, {"fixed": {"N": 1e4, "D": 1e4, "P": 8}}, "all fixed"),
    ],
)
def test_bad_questions_are_refused(
    fits: dict[str, Fit], flops: float, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan(fits["neff_free"], flops=flops, **options)  # pyright: ignore[reportArgumentType]


def test_a_width_below_the_data_is_refused(fits: dict[str, Fit]) -> None:
    with pytest.raises(ValueError, match="P must be from 4 "):
        plan(fits["neff_kumar"], flops=1e12, fixed={"P": 3})


def test_unknown_quantity(fits: dict[str, Fit]) -> None:
    with pytest.raises(
        ValueError, match="no quantity 'alpha' in this plan; there are N, D, P, loss"
    ):
        plan(fits["neff_free"], flops=1e12).interval("alpha")


def test_one_size_is_no_ground_for_a_plan(demo: Any) -> None:
    single = fit(demo[demo["N"] == demo["N"].min()], "chinchilla", resamples=10)
    with pytest.raises(ValueError, match="all runs of this fit have N = 6656"):
        plan(single, flops=FLOPS)


def test_a_law_whose_best_width_moves_with_the_budget_says_so(demo: Any) -> None:
    both = fit(demo, "neff_free+deff_free", resamples=20)
    one = plan(both, flops=FLOPS)
    assert one.separable
    assert budget(one) == pytest.approx(FLOPS, rel=1e-9)
    served = plan(both, flops=FLOPS, served=1e6)
    assert not served.separable
    assert "hangs on the budget" in served.summary()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fixed": {"N": 1e9, "memory": 1e6}}, "memory binds: N = 1e\\+09 takes 5e\\+08 bytes at 4 bits"),
        ({"fixed": {"N": 1e5}, "served": 1e9}, "flops binds: serving 1e\\+09 tokens with N = 100000"),
        ({"fixed": {"D": 1e12}}, "flops binds: D = 1e\\+12 tokens leave less than one parameter"),
        ({"served": -1.0}, "served must be tokens, 0 or more"),
        ({"fixed": {"memory": 0.0}}, "memory must be positive"),
    ],
)  # fmt: skip
def test_what_cannot_be_met_is_named(
    fits: dict[str, Fit], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan(fits["neff_free"], flops=FLOPS, **options)


def test_memory_that_binds_is_named_and_shipping_is_told(fits: dict[str, Fit]) -> None:
    free = plan(fits["ptq_kumar"], flops=FLOPS)
    one = plan(fits["ptq_kumar"], flops=FLOPS, fixed={"memory": free.N / 10})
    assert one.binds == ("flops", "memory")
    assert pytest.approx(one.N) == free.N / 10 * 8 / 16
    assert list(one.shipping["P_post"]) == [3, 4, 5, 6, 8]
    shipped: Any = one.shipping
    assert (shipped["N"] * shipped["P_post"] / 8 <= free.N / 10 * (1 + 1e-9)).all()
    assert "rounded into" in one.summary()


def test_fewer_bits_grow_the_model_where_training_is_not_cheaper(fits: dict[str, Fit]) -> None:
    """With C = 6ND and bits on N alone, N*/N*(16) = eff^(−α/(α+β)) and D*/D*(16) its inverse."""
    f = fits["neff_free"]
    one = plan(f, flops=FLOPS, cost="flat")
    a = f.params["alpha"] / (f.params["alpha"] + f.params["beta"])
    t = one.tradeoff
    assert t["N of 16"].to_numpy() == pytest.approx(one.regret["eff"].to_numpy() ** -a)
    assert t["D of 16"].to_numpy() == pytest.approx(one.regret["eff"].to_numpy() ** a)
    assert "fewer bits grow the model before the data: shown" in one.summary()
