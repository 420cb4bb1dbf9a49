"""The optimum against published numbers, brute force, and its own theory."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from precisionlaws.laws import Law, law
from precisionlaws.planning.costs import FLOPS_PER_TOKEN, relative_cost
from precisionlaws.planning.critical import critical_D
from precisionlaws.planning.optimum import best_width, split
from precisionlaws.planning.widths import efficiency

PAPER = relative_cost("paper")
ROLES = ("w", "a", "kv")
LOW = {"offset": 3.2, "no_offset": 1.0}  # bits: just above where the factor of activations is zero


def columns(p: dict[str, float]) -> dict[str, np.ndarray]:
    return {k: np.array([v]) for k, v in p.items()}


def optimum(
    p: dict[str, float], flops: float, low: float, fixed: dict[str, float]
) -> tuple[float, float, float, float]:
    one, q = law("neff_kumar"), columns(p)
    P = best_width(one, q, flops, PAPER, low, ROLES, fixed)
    N, D, loss = split(
        one, q, flops / (FLOPS_PER_TOKEN * PAPER(P)), efficiency(one, q, P, ROLES), fixed
    )
    return P[0], N[0], D[0], loss[0]


def reference(goldens: Path, section: str, key: str) -> list[dict[str, Any]]:
    plans = json.loads((goldens / "law_goldens.json").read_text())[section]
    if key not in plans:
        pytest.skip(f"{key} is not in this folder of reference vectors")
    return plans[key]["cases"]


def kumar(key: str) -> dict[str, float]:
    published = law("neff_kumar").published
    assert published is not None
    return {k: v for k, v in published.items() if key == "offset" or not k.startswith("n_")}


@pytest.mark.golden
@pytest.mark.parametrize("key", ["offset", "no_offset"])
def test_joint_optimum(goldens: Path, key: str) -> None:
    for case in reference(goldens, "plans", f"kumar_joint/{key}"):
        P, N, D, loss = optimum(kumar(key), case["C"], LOW[key], {})
        assert pytest.approx(
            (case["P_star"], case["N_star"], case["D_star"], case["loss"]), rel=1e-10
        ) == (P, N, D, loss)


@pytest.mark.golden
def test_optimum_at_fixed_N(goldens: Path) -> None:
    for case in reference(goldens, "plans", "kumar_fixed_N/offset"):
        P, N, D, loss = optimum(kumar("offset"), case["C"], LOW["offset"], {"N": case["N"]})
        assert case["N"] == N
        assert pytest.approx(case["P_star"], abs=1e-6) == P
        assert pytest.approx((case["D_star"], case["loss"]), rel=1e-6) == (D, loss)


@pytest.mark.golden
@pytest.mark.parametrize("key", ["kumar_ptq/no_b", "kumar_ptq/with_b", "sun_fp"])
def test_tokens_beyond_which_training_hurts(goldens: Path, key: str) -> None:
    entry = json.loads((goldens / "law_goldens.json").read_text())["laws"].get(key)
    if entry is None:
        pytest.skip(f"{key} is not in this folder of reference vectors")
    one = law("sun_fp" if key == "sun_fp" else "ptq_kumar")
    p = dict(one.published or {})
    if key.endswith("with_b"):
        p["C_T"] *= np.exp(entry["params"]["b_post"])
    names: dict[str, str] = {"Eb": "E", "Mb": "M", "block": "G"}
    for case in entry["cases"]:
        x = {str(names.get(k, k)): v for k, v in case["inputs"].items()}
        assert critical_D(one, p, x) == pytest.approx(case["D_crit"], rel=1e-10)


def test_without_growth_there_is_no_such_point() -> None:
    one = law("ptq_kumar")
    p = {**(one.published or {}), "gamma_D": -0.1}
    assert critical_D(one, p, {"N": 1e8, "P_post": 4}) == np.inf


def test_published_constants_give_seven_bits_and_without_offsets_three_and_a_half() -> None:
    assert optimum(kumar("offset"), 1e20, 3.2, {})[0] == pytest.approx(7.00210936834, abs=1e-10)
    assert optimum(kumar("no_offset"), 1e20, 1.0, {})[0] == pytest.approx(3.46875132353, abs=1e-10)


def test_the_best_width_needs_neither_budget_nor_base() -> None:
    P = {
        optimum({**kumar("offset"), "E": E, "alpha": a}, C, 3.2, {})[0]
        for E in (0, 2)
        for a in (0.2, 0.7)
        for C in (1e15, 1e25)
    }
    assert max(P) - min(P) < 1e-12


def test_where_nothing_is_gained_16_bits_are_best() -> None:
    one, q = law("neff_kumar"), columns(kumar("offset"))
    assert best_width(one, q, 1e20, relative_cost("flat"), 3.2, ROLES, {})[0] == 16.0


def test_split_is_the_minimum_along_the_budget() -> None:
    one, q = (
        law("chinchilla"),
        columns({"A": 482.0, "alpha": 0.35, "B": 2085.0, "beta": 0.37, "E": 1.8}),
    )
    N, D, loss = split(one, q, np.array([1e19]), np.array([0.6]), {})
    around = N * np.geomspace(0.5, 2, 41)
    assert N[0] * D[0] == pytest.approx(1e19)
    assert loss[0] <= one.base.loss(q, around * 0.6, 1e19 / around).min()


def test_a_base_without_a_closed_form_is_searched() -> None:
    known = law("chinchilla")
    q = columns({"A": 482.0, "alpha": 0.35, "B": 2085.0, "beta": 0.37, "E": 1.8})
    blind = Law(name="blind", base=SimpleNamespace(loss=known.base.loss))  # pyright: ignore[reportArgumentType]
    K, eff = np.array([1e15, 1e20]), np.array([0.5, 0.9])
    assert split(blind, q, K, eff, {})[0] == pytest.approx(split(known, q, K, eff, {})[0], rel=1e-6)


def test_unknown_cost() -> None:
    with pytest.raises(ValueError, match="cost must be one of .*paper"):
        relative_cost("free")
