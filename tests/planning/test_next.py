"""What to train next: new, cheap for what it tells, and paired where pairing helps."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from precisionlaws.fitting import Fit, fit
from precisionlaws.laws import law
from precisionlaws.planning.next import candidates, lines, next_runs, question_of, seen
from tests.planning.conftest import TRUE

FLOPS = 1e12
KEY = ["N", "D", "P_w", "P_a", "P_kv", "seed"]


def test_nothing_is_trained_twice(fits: dict[str, Fit]) -> None:
    one = fits["neff_free"]
    table = next_runs(one, 8, flops=FLOPS)
    done = set(one.rows[KEY].itertuples(index=False, name=None))
    picked = list(table[KEY].itertuples(index=False, name=None))
    assert not done & set(picked)
    assert len(set(picked)) == 8
    assert (np.diff(table["left"]) <= 0).all()
    assert 0 < table["left"].iloc[-1] < table["left"].iloc[0] <= 1
    assert "next, to settle" in lines(table, "FLOP")[0]


def test_first_pick_is_the_best_single_run_by_brute_force(fits: dict[str, Fit]) -> None:
    one = fits["neff_kumar"]
    table = next_runs(one, 1, flops=FLOPS)
    every = candidates(one)
    F, h = seen(one, every), question_of(one, FLOPS, "paper")[1]
    own, family = one.residual["run_sd"] ** 2, one.residual["family_sd"] ** 2
    worth = []
    for k in range(len(every)):
        n = sum((one.rows["N"] == every["N"][k]) & (one.rows["seed"] == every["seed"][k]))
        noise = own + (1 / (1 / family + n / own) if family else 0.0)
        cov = np.cov(F[:, k], h, ddof=0)
        worth.append(cov[0, 1] ** 2 / (cov[0, 0] + noise) / every["seconds"][k])
    best = every.iloc[int(np.argmax(worth))]
    assert list(table[KEY].iloc[0]) == list(best[KEY])


def test_promised_variance_is_what_a_refit_finds(demo: pd.DataFrame) -> None:
    """Train what is asked for (from the truth) and fit again: the question's spread falls about as foretold."""
    small: Any = demo[(demo["seed"] == 0) & (demo["P_post"] == 16)]
    before = fit(small, "neff_kumar", resamples=400)
    asked = next_runs(before, 40, flops=FLOPS)
    rng = np.random.default_rng(0)
    truth = law("neff_free+ptq_kumar")
    known = asked["P_w"].isin([3, 4, 6, 16]) & asked["P_a"].isin([4, 6, 16])
    known &= asked["P_kv"].isin([4, 16])
    new: Any = asked[known].assign(P_post=16.0)
    new["family"] = [f"{N:g}-s{s}" for N, s in zip(new["N"], new["seed"], strict=True)]
    new["loss"] = truth.loss(TRUE, new) * np.exp(0.012 * rng.standard_normal(len(new)))
    after = fit(pd.concat([small, new], ignore_index=True), "neff_kumar", resamples=400)
    spread = [np.ptp(np.quantile(question_of(f, FLOPS, "paper")[1], [0.1, 0.9])) for f in (before, after)]  # fmt: skip
    assert spread[1] < spread[0]


def test_runs_that_tell_two_laws_apart(fits: dict[str, Fit]) -> None:
    table = next_runs(fits["neff_free"], 3, flops=FLOPS, other=fits["chinchilla"])
    assert (table[["P_w", "P_a", "P_kv"]].min(axis=1) < 16).iloc[
        0
    ]  # they differ only below 16 bits
    assert (np.diff(table["left"]) >= 0).all()


def test_seconds_are_those_of_the_study(fits: dict[str, Fit]) -> None:
    one = fits["neff_free"]
    timed = replace(one, rows=one.rows.assign(seconds=6 * one.rows["N"] * one.rows["D"] / 2e9))
    table = candidates(timed)
    assert table["seconds"].to_numpy() == pytest.approx(
        (6 * table["N"] * table["D"] / 2e9).to_numpy()
    )


def test_a_law_without_bits_has_nothing_to_settle(fits: dict[str, Fit]) -> None:
    with pytest.raises(ValueError, match="no width below 16 bits"):
        next_runs(fits["chinchilla"], 3, flops=FLOPS)
    with pytest.raises(ValueError, match="next must be at least 1, got 0"):
        next_runs(fits["neff_free"], 0, flops=FLOPS)
