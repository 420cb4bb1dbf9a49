"""`fit` on a study of the demo's size: what it finds, what it says, and what it refuses."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from precisionlaws.fitting import Fit, fit
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.laws import law


@pytest.fixture(scope="module")
def free(demo: Any) -> Fit:
    return fit(demo, "neff_free", resamples=400)


@pytest.fixture(scope="module")
def ptq(demo: Any) -> Fit:
    return fit(demo, "ptq_kumar", resamples=400)


def test_efficiencies_are_found_where_E_is_not(free: Fit, true: dict[str, float]) -> None:
    assert free.certified
    for name in (n for n in free.params if n.startswith("eff")):
        low, high = free.interval(name)
        assert low <= true[name] <= high, name
        assert free.params[name] == pytest.approx(true[name], abs=0.1)
    assert any(w.startswith("E not identified: anything from 0 to") for w in free.warnings)
    assert any(w.startswith("not told from 16 bits") and "w at 6" in w for w in free.warnings)
    assert not any("w at 3" in w for w in free.warnings)


def test_delta_is_fitted_pair_by_pair(ptq: Fit, true: dict[str, float], demo: Any) -> None:
    assert ptq.certified
    rows: Any = ptq.delta_rows
    assert (rows["delta_ptq"] < 0).any()  # no row is chosen by its outcome
    assert len(rows) == (demo["P_post"] < 16).sum()
    assert len(ptq.rows) == 24  # the base: unquantized runs only
    for name, far in (("gamma_D", 0.08), ("gamma_N", 0.08), ("gamma_post", 0.03)):
        assert ptq.params[name] == pytest.approx(true[name], abs=far)  # three sd of such studies
    assert ptq.noise["r"] == pytest.approx(0.15, rel=0.4)
    assert ptq.noise["sigma0"] == pytest.approx(3e-4, rel=0.4)


def test_noise_of_the_total_loss_does_not_reach_delta(ptq: Fit, demo: Any) -> None:
    shaken = demo.assign(loss=demo["loss"] * np.where(demo["P_post"] < 16, 1.5, 1.0))
    again = fit(shaken, "ptq_kumar", resamples=2)
    assert again.params["gamma_post"] == pytest.approx(ptq.params["gamma_post"], rel=1e-9)


def test_json_holds_everything(free: Fit, ptq: Fit) -> None:
    for one in (free, ptq):
        text = one.to_json()
        back = Fit.from_json(text)
        assert back.to_json() == text
        assert back.params == one.params
        assert back.interval("alpha") == one.interval("alpha")
        assert back.summary() == one.summary()
        assert json.loads(text)["sha256"] == one.sha256
    with pytest.raises(ValueError, match="not a fit"):
        Fit.from_json("{}")


def test_same_seed_same_draws(free: Fit, demo: Any) -> None:
    again = fit(demo, "neff_free", resamples=400)
    assert again.to_json() == free.to_json()
    other = fit(demo, "neff_free", resamples=400, seed=1)
    assert other.params == free.params
    assert not np.array_equal(other.samples["alpha"], free.samples["alpha"])


def test_row_order_does_not_matter(demo: Any, free: Fit) -> None:
    again = fit(demo.sample(frac=1, random_state=0), "neff_free", resamples=2)
    assert again.objective.value == pytest.approx(free.objective.value, rel=1e-9)


def test_summary_tells_what_was_done(free: Fit, ptq: Fit) -> None:
    text = free.summary()
    assert text.startswith("chinchilla+neff_free   Frantar")
    for part in ("Σ huber(0.001) of log loss", "n = 168", "6 clusters", "jackknife (CR3)", "eff_w[3]", "N_opt_exponent",
                 "at a minimum", "starts agree", "left out: 120 rows, P_post < 16", "warning: E not identified"):  # fmt: skip
        assert part in text, part
    assert "of (δ − fitted)/sd" in ptq.summary()


def test_derived_quantities_have_intervals(free: Fit) -> None:
    assert free.quantity("eff_w(4)")[0] == free.params["eff_w[4]"]
    assert free.interval("eff(4)")[0] < free.quantity("eff(4)")[0] < free.interval("eff(4)")[1]
    point = free.params["beta"] / (free.params["alpha"] + free.params["beta"])
    assert free.quantity("N_opt_exponent")[0] == pytest.approx(point)
    with pytest.raises(ValueError, match=r"no quantity 'gamma'.*eff_w\(P\)"):
        free.interval("gamma")


def test_prediction_interval_holds_the_confidence_interval(free: Fit) -> None:
    rows: Any = free.rows
    out: Any = free.predict(rows)
    assert ((out["run_low"] < out["low"]) & (out["high"] < out["run_high"])).mean() > 0.95
    inside = (rows["loss"] >= out["run_low"]) & (rows["loss"] <= out["run_high"])
    assert inside.mean() > 0.9


@pytest.mark.parametrize("loss", ["ls", "lad"])
def test_other_losses(demo: Any, true: dict[str, float], loss: str) -> None:
    found = fit(demo, "neff_free", loss=loss, resamples=50)
    assert found.params["eff_w[3]"] == pytest.approx(true["eff_w[3]"], abs=0.1)


@pytest.mark.parametrize(("intervals", "text"), [("run", "bootstrap of 24 runs"), ("wald", "Wald")])
def test_other_intervals(demo: Any, intervals: str, text: str) -> None:
    found = fit(demo, "chinchilla", intervals=intervals, resamples=60)
    assert text in found.intervals


def test_many_families_are_bootstrapped(demo: Any) -> None:
    found = fit(
        demo.assign(family=demo["family"] + demo["D"].astype(str)), "chinchilla", resamples=60
    )
    assert found.clusters == 24
    assert "bootstrap of 24 families" in found.intervals


def test_without_families_every_run_stands_alone(demo: Any) -> None:
    found = fit(demo.drop(columns=["family"]), "chinchilla", resamples=20)
    assert found.clusters == 24
    assert any(
        "no family column: every run there is taken as independent" in w for w in found.warnings
    )
    found = fit(
        demo[["N", "D", "P_w", "P_a", "P_kv", "P_post", "loss"]], "chinchilla", resamples=20
    )
    assert any("every row there is taken as independent" in w for w in found.warnings)


def test_one_family_is_no_ground_for_an_interval(demo: Any) -> None:
    found = fit(demo.assign(family="all"), "chinchilla", resamples=20)
    assert "one family: nothing to resample" in found.intervals


def test_a_width_of_one_family_has_no_interval(demo: Any) -> None:
    one = (demo["P_w"] != 3) | (demo["family"] == demo["family"].iloc[0])
    found = fit(demo[one], "neff_free", resamples=50)
    assert found.one_cluster == ("eff_w[3]",)
    assert found.interval("eff_w[3]") == (1e-4, 10.0)
    assert any("no interval for eff_w[3]" in w for w in found.warnings)


def test_one_width_cannot_tell_an_offset(demo: Any) -> None:
    found = fit(demo, "neff_kumar", resamples=50)
    assert "n_kv" not in found.params
    assert any("n_kv is taken as 0" in w for w in found.warnings)


def test_mixed_machines_are_named(demo: Any) -> None:
    found = fit(
        demo.assign(**{"exec.threads": np.arange(len(demo)) % 2}), "chinchilla", resamples=2
    )
    assert any("exec.threads (6 families)" in w for w in found.warnings)


def test_two_sizes_leave_E_open(demo: Any) -> None:
    found = fit(demo[demo["N"] < 3e4], "chinchilla", resamples=20)
    assert any(
        w.startswith("N takes 2 value(s): alpha and E are not separable") for w in found.warnings
    )


def test_unfinished_and_undecayed_rows_are_counted(demo: Any) -> None:
    k = np.arange(len(demo))
    marked = demo.assign(
        status=np.where(k % 24 == 0, "failed", "finished"), phase=np.where(k % 24 == 1, "stable", "final"),
        loss=np.where(k % 24 == 0, np.nan, demo["loss"]),
    )  # fmt: skip
    found = fit(marked, "neff_free", resamples=2)
    reasons = dict(found.left_out)
    assert reasons["status is not finished"] == 12
    assert sum(n for why, n in found.left_out if why.startswith("phase")) == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": np.inf}, r"loss must be positive and finite, got inf in row 3 \("),
        ({"loss": -1.0}, "loss must be positive and finite, got -1.0"),
        ({"loss": 0.0}, "loss must be positive and finite, got 0.0"),
        ({"N": 0.0}, "N must be positive"),
        ({"objective": "mlm"}, "different objectives"),
        (
            {"P_w": 0.0},
            r"P_w must be a positive number of bits \(16 or more: not quantized\), got 0.0 in row 3 \(",
        ),
        ({"P_a": -4.0}, "P_a must be a positive number of bits"),
        ({"P_kv": "int8"}, "P_kv must be a positive number of bits.*got 'int8'"),
        ({"P_post": 0.0}, "P_post must be a positive number of bits"),
    ],
)
def test_bad_rows_are_named(demo: Any, change: dict[str, object], message: str) -> None:
    frame = demo.assign(objective="causal").astype(dict.fromkeys(["P_w", "P_a", "P_kv"], object))
    for column, value in change.items():
        frame.loc[frame.index[3], column] = value
    with pytest.raises(ValueError, match=message):
        fit(frame, "neff_free")


def test_more_than_16_bits_are_not_quantized(demo: Any, free: Fit) -> None:
    bits = ["P_w", "P_a", "P_kv", "P_post"]
    wide = demo.assign(
        **{c: demo[c].replace(16.0, 32.0) for c in bits[:2]}, P_kv=demo["P_kv"].replace(16.0, 18.5)
    )
    again = fit(wide, "neff_free", resamples=400)
    assert again.sha256 == free.sha256
    assert again.params == free.params
    assert (again.rows[bits].to_numpy() <= 16).all()


@pytest.mark.parametrize(
    ("rows", "name", "message"),
    [
        (slice(0, 0), "chinchilla", "the frame is empty"),
        (slice(0, 4), "neff_free", "4 losses cannot determine 8 parameters"),
        (slice(1, 7), "chinchilla", "no row is left to fit"),
        (slice(0, 1), "ptq_kumar", "no row has P_post < 16"),
    ],
)
def test_too_little_data_is_refused(demo: Any, rows: slice, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(demo[rows], name)


def test_a_ptq_law_needs_paired_differences(demo: Any) -> None:
    with pytest.raises(ValueError, match=r"needs the column\(s\) delta_ptq"):
        fit(demo.drop(columns=["delta_ptq"]), "ptq_kumar")
    with pytest.raises(ValueError, match="different PTQ methods"):
        fit(demo.assign(ptq=np.where(demo.index % 2, "rtn", "gptq")), "ptq_kumar")


def test_two_bits_are_outside_the_regime_of_a_ptq_law(demo: Any) -> None:
    low = demo.assign(P_post=demo["P_post"].replace(3, 2))
    assert (
        dict(fit(low, "ptq_kumar", resamples=2).left_out)[
            "P_post < 3: outside the regime of the term"
        ]
        == 24
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [({"loss": "mse"}, "huber, ls, lad"), ({"delta": 0.0}, "delta"), ({"intervals": "cell"}, "family, run, wald"), ({"resamples": 0}, "resamples")],
)  # fmt: skip
def test_options_are_checked(demo: Any, option: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(demo, law("chinchilla"), **option)  # pyright: ignore[reportArgumentType]


def test_a_delta_of_a_quantized_run_is_outside_the_law(demo: Any) -> None:
    """Rounding a run that was trained at 4 bits is another experiment (Kumar et al., Eq. 9)."""
    pairs = demo[demo["P_post"] < 16]
    extra = pairs.assign(P_w=4, run_id=pairs["run_id"] + "x")
    both = fit(pd.concat([demo, extra]), "neff_free+ptq_kumar", resamples=2)
    assert dict(both.left_out)["P_w < 16: the law has no PTQ term for it"] == len(pairs)
    assert len(both.rows) == 168
    assert both.certified


@pytest.fixture(scope="module")
def trained() -> Any:
    """Runs trained at 16, 4 and 6 bits, each rounded to 3, 4 and 5."""
    one = law("kumar_unified")
    p = {**(one.published or {}), "C_w": 0.4}
    post = [{"P_post": P} for P in (3, 4, 5)]
    widths: list[Any] = [
        {"P_w": 4},
        {"P_w": 6},
        *post,
        *({**q, "P_w": P} for q in post for P in (4, 6)),
    ]
    design = crossed((3e7, 1e8, 2.2e8), (1.5e9, 6e9, 2.6e10), widths, seeds=2)
    return simulate(one, p, design, family_sd=2e-3, run_sd=1e-3, delta_sd=(1e-5, 0.05), seed=3)


def test_rounding_acts_on_the_effective_size(trained: Any) -> None:
    found = fit(trained, "kumar_unified", resamples=200)
    assert found.certified
    assert set(found.params) == {"A", "alpha", "B", "beta", "E", "gamma_w", "n_w", "C_T", "gamma_D", "gamma_N", "gamma_post", "C_w"}  # fmt: skip
    truth = {"gamma_D": 0.5068, "gamma_N": 0.3439, "gamma_post": 0.5907, "C_w": 0.4}
    for name, true in truth.items():
        low, high = found.interval(name)
        assert low < found.params[name] < high
        assert found.params[name] == pytest.approx(true, rel=0.1), name
    assert "gamma_w" not in (found.penalty_certificate or found.certificate).bounds
    assert Fit.from_json(found.to_json()).params == found.params


@pytest.mark.parametrize("intervals", ["run", "wald"])
def test_other_intervals_of_two_blocks(trained: Any, intervals: str) -> None:
    """What rounding does to N_eff moves with each draw of the scales."""
    found = fit(trained, "kumar_unified", intervals=intervals, resamples=40)
    assert found.samples["gamma_w"].std() > 0
    assert found.samples["C_w"].std() > 0
    assert len(found.samples) == 12


def test_nats_added_in_training_are_part_of_the_loss() -> None:
    one = law("chen_qat")
    widths: list[Any] = [{"P_w": 4, "P_a": 4, "G": G} for G in (32, 128)] + [{"P_w": 4, "G": 32}]
    design = crossed((7e7, 2e8, 6e8), (1e10, 3e10, 1e11), widths)
    p = {**(one.published or {}), "k[w4]": 0.08}
    frame = simulate(one, p, design, family_sd=1e-4, run_sd=1e-4)
    found = fit(frame.drop(columns="G").assign(**{"quant.weights.group": frame["G"], "quant.activations.group": frame["G"]}), one, resamples=50)  # fmt: skip
    assert found.certified
    low, high = found.interval("gG")
    assert low < 0.7779 < high
    assert found.params["k[w4]"] / found.params["k[w4a4]"] == pytest.approx(0.08 / 0.1582, rel=0.05)
    back = Fit.from_json(found.to_json())
    assert back.predict(back.rows)["loss"].equals(found.predict(found.rows)["loss"])
    with pytest.raises(ValueError, match="needs G, the number of values"):
        fit(frame.drop(columns="G"), one)


def test_without_quantized_runs_a_law_of_bits_is_its_base(demo: Any) -> None:
    plain = demo[(demo[["P_w", "P_a", "P_kv", "P_post"]] == 16).all(axis=1)]
    found = fit(plain, "neff_free", resamples=20)
    assert set(found.params) == {"A", "alpha", "B", "beta", "E"}
    assert any(w.startswith("no run below 16 bits") for w in found.warnings)


def test_a_point_that_occurs_twice_is_refused(demo: Any) -> None:
    frame = demo.assign(eval_id=demo["P_post"].astype(str))
    with pytest.raises(ValueError, match="occur twice"):
        fit(pd.concat([frame, frame.iloc[:1]]), "neff_free")


def test_a_base_that_bends_otherwise_is_said_to_misfit(demo: Any, free: Fit) -> None:
    assert not any("misfits" in w for w in free.warnings)
    bent = demo.assign(loss=demo["loss"] - 0.15 * np.log(demo["D"] / 1.8e5) ** 2)
    found = fit(bent, "neff_free", resamples=20)
    assert any(w.startswith("the base misfits: all seeds agree") for w in found.warnings)


def test_efficiencies_without_an_anchor_at_16_bits_are_called_free(demo: Any) -> None:
    low: Any = demo[demo["P_w"] == 3]
    said = " ".join(fit(low, "neff_free", resamples=50).warnings)
    assert "no run has P_w at 16 bits: eff_w is known only up to a factor, which A absorbs" in said
    assert "some combination of the parameters is free" in said


def test_undecayed_rows_are_fitted_where_nothing_else_is_given(demo: Any) -> None:
    found = fit(demo.assign(phase="stable"), "ptq_kumar", resamples=50)
    assert len(found.rows) == 24
    assert any("weights before the decay" in w for w in found.warnings)
