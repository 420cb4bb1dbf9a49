"""The headline under other choices, and that each line is the fit it says."""

from typing import Any

import pytest

from precisionlaws.fitting import Fit, fit


@pytest.fixture(scope="module")
def one(demo: Any) -> Fit:
    plain = demo[(demo["P_post"] == 16) & (demo["P_a"] == 16) & (demo["P_kv"] == 16)]
    frame = plain.assign(N_head=plain["N"] ** 0.5 * 256)
    return fit(frame, "neff_free", resamples=20, sensitivity=True)


def test_each_line_is_the_fit_it_names(one: Fit) -> None:
    lines = {v.choice: v for v in one.sensitivity}
    assert lines["huber 1e-3"].params == pytest.approx(one.params, rel=1e-6)
    for choice, options in (("least squares", {"loss": "ls"}), ("huber 1e-2", {"delta": 1e-2})):
        again = fit(one.rows, "neff_free", resamples=1, **options)  # pyright: ignore[reportArgumentType]
        assert lines[choice].params["eff_w[3]"] == pytest.approx(again.params["eff_w[3]"], rel=1e-6)
    wider = fit(one.rows.assign(N=one.rows["N"] + one.rows["N_head"]), "neff_free", resamples=1)
    assert lines["N + N_head"].params["alpha"] == pytest.approx(wider.params["alpha"], rel=1e-6)


def test_the_worst_runs_are_counted(one: Fit) -> None:
    n = len(one.rows)
    left = {v.n for v in one.sensitivity if v.choice.startswith("without the")}
    assert left == {n - 1, n - 2, n - 5}


def test_it_is_printed_and_kept_only_where_asked_for(one: Fit) -> None:
    text = one.summary()
    for part in ("under", "least absolute", "without the 1 worst", "N + N_head", "eff_w[3]"):
        assert part in text
    assert Fit.from_json(one.to_json()).sensitivity == one.sensitivity
    assert fit(one.rows, "chinchilla", resamples=1).sensitivity == ()
