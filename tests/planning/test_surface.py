"""The optimum for any law and any cost: published plans, closed forms, brute force."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from precisionlaws.laws import law
from precisionlaws.planning.costs import cost
from precisionlaws.planning.shipping import best_shipped, rounded
from precisionlaws.planning.surface import Budget, Question, best_P, loss, scales_at, solve, waste

ROLES = ("w", "a", "kv")
CHINCHILLA = {"A": 482.0, "alpha": 0.35, "B": 2085.0, "beta": 0.37, "E": 1.8}


def ask(name: str, model: str = "paper", **more: Any) -> tuple[Question, dict[str, np.ndarray]]:
    """A question of a published law, and its constants as one draw."""
    one = law(name)
    budget = Budget(
        flops=more.pop("flops", 1e20), cost=cost(model), served=more.pop("served", 0.0), head=more.pop("head", (0.0, 0.0))
    )  # fmt: skip
    q = Question(law=one, budget=budget, **{"roles": ROLES, "low": 3.2, **more})
    return q, {k: np.array([[v]]) for k, v in (one.published or {}).items()}


def at(q: Question, p: dict[str, np.ndarray], P: float) -> tuple[float, float, float]:
    width = np.array([[P]])
    N, D, value = (np.ravel(v)[0] for v in solve(q, p, width, scales_at(q, p, width)))
    return float(N), float(D), float(value)


@pytest.mark.golden
def test_suns_optimum(goldens: Path) -> None:
    plans = json.loads((goldens / "law_goldens.json").read_text())["plans"]
    if "sun_joint" not in plans:
        pytest.skip("sun_joint is not in this folder of reference vectors")
    for case in plans["sun_joint"]["cases"]:
        q, p = ask("sun_fp", flops=case["C"], low=2.0, G=case["block"])
        P = float(best_P(q, p)[0])
        N, D, value = at(q, p, P)
        assert value == pytest.approx(case["loss"], rel=1e-6)
        # The vectors come from a search over a flat minimum, printed to six digits.
        assert pytest.approx(case["P_star"], abs=2e-4) == P
        assert pytest.approx((case["N_star"], case["D_star"]), rel=2e-4) == (N, D)


@pytest.mark.golden
def test_best_rounding_of_a_given_number_of_bytes(goldens: Path) -> None:
    plans = json.loads((goldens / "law_goldens.json").read_text())["plans"]
    if "kumar_inference_bits/no_b" not in plans:
        pytest.skip("kumar_inference_bits is not in this folder of reference vectors")
    one = law("ptq_kumar")
    p = dict(one.published or {})
    for case in plans["kumar_inference_bits/no_b"]["cases"]:
        memory = case["C_bits"] / 8
        P = best_shipped(one, p, memory)
        assert pytest.approx(case["P_star"], abs=1e-6) == P
        N, D, value = rounded(one, p, np.array(P), memory)
        assert pytest.approx((case["N_star"], case["D_star"]), rel=1e-6) == (float(N), float(D))
        assert float(value) == pytest.approx(case["loss"], rel=1e-9)


def test_a_budget_caps_what_is_shipped() -> None:
    one = law("ptq_kumar")
    p = dict(one.published or {})
    N, D, value = rounded(one, p, np.array(4.0), 1e9, flops=1e19)
    assert pytest.approx(1e19) == 6 * N * D
    assert N < 8e9 / 4
    around = N * np.geomspace(0.5, 2, 21)
    x = {"N": around, "D": 1e19 / (6 * around), "P_post": np.full(21, 4.0)}
    assert value <= one.loss(p, x).min() + 1e-12


def test_search_agrees_with_the_closed_form() -> None:
    """The same question, once with a token served, which costs nothing but goes the other way."""
    closed, p = ask("neff_kumar")
    searched, _ = ask("neff_kumar", served=1e-9)
    assert closed.closed
    assert not searched.closed
    assert best_P(searched, p) == pytest.approx(best_P(closed, p), abs=1e-9)
    assert at(searched, p, 5.0) == pytest.approx(at(closed, p, 5.0), rel=1e-9)
    held = {"D": 1e10}
    closed, p = ask("neff_kumar", fixed=held)
    searched, _ = ask("neff_kumar", fixed=held, served=1e-9)
    assert best_P(searched, p) == pytest.approx(best_P(closed, p), abs=1e-6)


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("head16", {"head": (60.0, 0.5)}),
        ("paper", {"served": 1e11}),
        ("paper", {"fixed": {"memory": 3e8}}),
        ("paper", {"fixed": {"memory": 3e8}, "served": 1e11}),
        ("paper", {"fixed": {"N": 1e9}, "served": 1e9}),
        ("weights_only", {"roles": ("w",), "served": 1e12}),
    ],
)
@pytest.mark.parametrize("name", ["neff_kumar", "sun_fp"])
def test_search_is_not_beaten_by_a_fine_grid(name: str, model: str, more: dict[str, Any]) -> None:
    q, p = ask(name, model, G=128.0, **more)
    P = float(best_P(q, p)[0])
    N, D, best = at(q, p, P)
    assert D * q.budget.per_token(N, P) + q.budget.serving(N, P) == pytest.approx(1e20, rel=1e-9)
    widths = np.linspace(q.low, 15.99, 80)[:, None]
    sizes = np.geomspace(1e7, 1e12, 300) if "N" not in q.fixed else np.array([1e9])
    tokens = q.budget.D(sizes, widths)
    fits = (tokens > 0) & (sizes <= q.most_N(widths))
    value = loss(q, p, sizes, np.where(fits, tokens, np.nan), widths, scales_at(q, p, widths))
    assert best <= np.nanmin(value) + 1e-12
    assert best == pytest.approx(np.nanmin(value), abs=2e-3)  # and the grid comes close to it


def test_memory_binds_only_where_it_is_short() -> None:
    free, p = ask("neff_kumar")
    N = at(free, p, 6.0)[0]
    roomy, _ = ask("neff_kumar", fixed={"memory": N})
    short, _ = ask("neff_kumar", fixed={"memory": N / 10})
    assert at(roomy, p, 6.0) == pytest.approx(at(free, p, 6.0), rel=1e-9)
    assert at(short, p, 6.0)[0] == pytest.approx(0.8 * N / 6)


def test_what_cannot_be_met_has_no_number() -> None:
    q, p = ask("neff_kumar", fixed={"N": 1e12, "memory": 1e9})
    assert np.isnan(at(q, p, 4.0)).all()
    q, p = ask("neff_kumar", fixed={"N": 1e12}, served=1e12)
    assert np.isnan(at(q, p, 16.0)[1:]).all()


@pytest.mark.parametrize("more", [{"fixed": {"D": 1e10}}, {"fixed": {"D": 1e10}, "served": 1e-9}])
def test_waste_is_the_compute_the_best_width_could_save(more: dict[str, Any]) -> None:
    """With D fixed the loss depends on N·eff only, so waste is 1 − (eff/c)/max, as with nothing fixed."""
    q, p = ask("neff_kumar", **more)
    P = np.array([4.0, 6.0, 8.0, 16.0])
    s = scales_at(q, p, P[None])
    value = solve(q, p, P[None], s)[2]
    gain = s[0] / (P / 16)
    star = np.argmax(gain, 1)
    own = s[0][[0], star][:, None], s[1][[0], star][:, None]
    found = waste(q, p, P[star][:, None], own, value)
    assert found == pytest.approx(1 - gain / gain.max(), abs=2e-6)


def test_the_best_width_of_an_additive_law_grows_with_compute() -> None:
    """Sun et al.: 4.2 bits at 1e21, 7.6 at 1e31; a law that only multiplies says one number."""
    found = []
    for flops in (1e21, 1e31):
        q, p = ask("sun_fp", flops=flops, low=2.0, G=128.0)
        found.append(float(best_P(q, p)[0]))
    assert found == pytest.approx([4.19, 7.58], abs=0.01)
