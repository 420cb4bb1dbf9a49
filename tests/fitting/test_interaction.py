"""The product law is not rejected where it holds, is where it does not, and is not judged where nobody could."""

from typing import Any

import pytest

from precisionlaws.fitting import Fit, fit
from precisionlaws.fitting.interaction import product_law, sentence
from precisionlaws.fitting.objective import block
from precisionlaws.fitting.resample import Solved
from precisionlaws.fitting.rows import centre
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.fitting.solve import search
from precisionlaws.laws import law

TRUE = {
    "A": 6.53,
    "alpha": 0.278,
    "B": 17.3,
    "beta": 0.188,
    "E": 0.0,
    "eff_w[4]": 0.87,
    "eff_a[4]": 0.75,
    "eff_kv[4]": 0.92,
}
ALONE: list[dict[str, float]] = [{"P_w": 4}, {"P_a": 4}, {"P_kv": 4}]
JOINT: list[dict[str, float]] = [{"P_w": 4, "P_a": 4}, {"P_w": 4, "P_a": 4, "P_kv": 4}]


def study(
    seed: int, joint: float, widths: list[dict[str, float]] | None = None, sd: float = 0.004
) -> Any:
    design = crossed(
        (6656, 20480, 50000), (125e3, 250e3, 500e3), ALONE + JOINT if widths is None else widths
    )
    noise: dict[str, Any] = {"family_sd": 0.012, "branch_sd": 0.02, "run_sd": sd}
    p = TRUE if widths == ALONE else {**TRUE, "kappa[w4a4]": 1.0, "kappa[w4a4kv4]": joint}
    return simulate(
        law("neff_free" if widths == ALONE else "neff_free+interaction"),
        p,
        design,
        **noise,
        seed=seed,
    )


def test_a_product_is_not_rejected() -> None:
    found = fit(study(100, 1.0), "neff_free", resamples=200)
    assert found.interaction is not None
    assert set(found.interaction.factor) == {"w4a4", "w4a4kv4"}
    assert found.interaction.rejected == ()
    assert "product of roles not rejected (p = " in found.summary()
    assert Fit.from_json(found.to_json()).interaction == found.interaction


@pytest.mark.parametrize("name", ["neff_free", "neff_free+interaction", "neff_kumar"])
def test_a_joint_format_that_is_worth_less_is_found(name: str) -> None:
    found = fit(study(1, 0.6), name, resamples=200)
    assert found.interaction is not None
    assert found.interaction.rejected == ("w4a4kv4",)
    assert found.interaction.p < 0.01
    k, low, high = found.interaction.factor["w4a4kv4"]
    assert low < 0.6 < high < 1
    assert k == pytest.approx(0.6, abs=0.12)
    assert "product of roles REJECTED" in found.summary()


def test_without_joint_formats_there_is_nothing_to_say() -> None:
    found = fit(study(0, 1.0, ALONE), "neff_free", resamples=50)
    assert found.interaction is None
    assert "product of roles" not in found.summary()
    assert fit(study(0, 1.0), "chinchilla", resamples=50).interaction is None


def test_what_was_not_trained_alone_is_taken_on_trust() -> None:
    frame = study(0, 1.0)
    few = frame[(frame["P_kv"] == 16) | (frame["P_w"] == 4)]  # KV only together with the others
    found = fit(few, "neff_free", resamples=50).interaction
    assert found is not None
    assert (set(found.factor), found.untested) == ({"w4a4"}, ("w4a4kv4",))
    assert "taken on trust, no part or one family alone: w4a4kv4" in sentence(found)
    none = fit(few[(few["P_a"] == 16) | (few["P_kv"] == 4)], "neff_free", resamples=50).interaction
    assert none is not None
    assert sentence(none).startswith("product of roles not tested; taken on trust")


def test_one_family_is_not_enough_for_a_format() -> None:
    frame = study(0, 1.0)
    first = frame["family"].iloc[0]
    both = (frame["P_w"] == 4) & (frame["P_kv"] == 4)
    found = fit(frame[~both | (frame["family"] == first)], "neff_free", resamples=50).interaction
    assert found is not None
    assert found.untested == ("w4a4kv4",)


def test_a_plan_counts_what_roles_are_worth_together() -> None:
    from precisionlaws.planning.widths import widths

    found = fit(study(1, 0.6), "neff_free+interaction", resamples=50)
    table = widths(found)
    assert table.eff[0] == pytest.approx(found.quantity("eff(4)")[0])
    assert table.eff[0] < 0.8 * widths(fit(study(1, 1.0), "neff_free", resamples=50)).eff[0]


@pytest.mark.slow
def test_false_alarms_are_as_rare_as_promised() -> None:
    """40 studies in which the product holds: at most 5% expected, 15% would be chance once in 200 times."""
    alarms = 0
    for seed in range(40):
        frame = study(seed + 100, 1.0)
        b = block("loss", law("neff_free").bind(frame), frame, centre(frame))
        family = frame["family"].to_numpy(str)
        s = Solved(block=b, u=search(b, 1e-3).u[0], delta=1e-3, cluster=family, run=family)
        found = product_law(b.law, frame, s)
        assert found is not None
        alarms += bool(found.rejected)
    assert alarms <= 6
