"""Laws side by side on the same rows."""

from typing import Any

import numpy as np
import pytest

from precisionlaws.fitting import compare
from precisionlaws.fitting.compare import on_bases, verdict
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.laws import law


def test_the_richer_law_fits_no_worse_and_the_table_says_what_was_held_out(
    demo: Any,
) -> None:
    table: Any = compare(demo, ["neff_kumar", "neff_free"]).set_index("law")
    assert (table["n"] == 168).all()
    assert (table["heldout"] >= 17).all()
    assert table["heldout"].nunique() == table["origins"].nunique() == 1
    assert table.loc["neff_free", "huber"] <= table.loc["neff_kumar", "huber"] * (1 + 1e-9)
    assert np.isfinite(table[["rms", "aicc", "heldout_rms"]].to_numpy(float)).all()


def test_laws_are_compared_on_the_rows_that_all_speak_of(demo: Any) -> None:
    assert set(compare(demo, ["chinchilla", "neff_free"])["n"]) == {24}


def test_too_few_rows_to_hold_out(demo: Any) -> None:
    with pytest.raises(
        ValueError, match="more rows than the 11 parameters of chinchilla.neff_free"
    ):
        compare(demo[demo["P_post"] == 16][:8], ["neff_free"])


@pytest.fixture(scope="module")
def ranked() -> Any:
    """Runs of γ-law losses with efficiencies that no formula of one γ has, on two bases and two terms."""
    true = {
        "A": 1.52e5, "alpha": 0.589, "B": 5.25e5, "beta": 0.544, "gamma": 0.274, "E": 1.35, "eff_w[3]": 0.2, "eff_w[4]": 0.7,
        "eff_a[4]": 0.9,
    }  # fmt: skip
    design = crossed(np.geomspace(3e7, 3e10, 6), np.geomspace(1e9, 1e12, 6), [{"P_w": 3}, {"P_w": 4}, {"P_a": 4}], seeds=1)  # fmt: skip
    frame = simulate(law("gamma+neff_free"), true, design, run_sd=0.002, seed=0)
    laws = on_bases([law("neff_free"), law("neff_kumar_tied")], ["chinchilla", "gamma"])
    return compare(frame.assign(family=frame["run_id"]), laws)


def test_the_true_law_is_in_the_set_and_worse_ones_are_not(ranked: Any) -> None:
    assert ranked["full_name"][0] == "gamma+neff_free"
    best = ranked.iloc[0]
    assert best["in_set"]
    assert best["excess"] == best["excess_low"] == best["excess_high"] == 0.0
    assert best["low"] < best["heldout_rms"] < best["high"]
    rest = ranked.iloc[1:]
    assert (rest["excess_low"] > 0).all()
    assert not rest["in_set"].any()
    assert (rest["p"] < 0.05).all()
    assert len(ranked) == 4


def test_the_verdict_is_a_sentence_each(ranked: Any) -> None:
    said = verdict(ranked)
    assert said[0].startswith("gamma+neff_free predicts larger runs best: rms 0.")
    assert "origins by compute" in said[0]
    assert said[1].startswith("chance does not explain how much worse")
    unsure = verdict(ranked.assign(in_set=True, families=5))
    assert unsure[1].startswith("the data do not separate gamma+neff_free, ")
    assert unsure[2] == "at 95% that takes predictions of at least 6 families"


def test_a_ranking_of_terms_that_hangs_on_the_base_is_said(ranked: Any) -> None:
    order = {"gamma+neff_free": 0, "gamma+neff_kumar_tied": 1, "chinchilla+neff_kumar_tied": 2, "chinchilla+neff_free": 3}  # fmt: skip
    flipped = ranked.iloc[ranked["full_name"].map(order).argsort()]
    assert verdict(flipped)[-1] == (
        "the ranking of terms flips with the base: with gamma neff_free, with chinchilla neff_kumar_tied is best"
    )
    same = ranked.sort_values("terms", kind="stable")
    assert not any("flips" in sentence for sentence in verdict(same))


def test_terms_go_on_every_base_once(demo: Any) -> None:
    laws = on_bases([law("neff_free"), law("gamma+neff_free"), law("ptq_kumar")], ["gamma", "kaplan"])  # fmt: skip
    assert [one.full_name for one in laws] == ["gamma+neff_free", "gamma+ptq_kumar", "kaplan+neff_free", "kaplan+ptq_kumar"]  # fmt: skip
    with pytest.raises(ValueError, match="a base has no terms, got chinchilla.neff_free"):
        on_bases(laws, ["neff_free"])
