"""The batched solver against scipy, against the best value known, and at its edges."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from precisionlaws.fitting import objective
from precisionlaws.fitting.diagnose import certify
from precisionlaws.fitting.fit import fit
from precisionlaws.fitting.objective import Block, block, huber
from precisionlaws.fitting.rows import centre, select
from precisionlaws.fitting.solve import curvature, derivatives, kronecker, minimise, search
from precisionlaws.laws import law

ROOT = Path(__file__).resolve().parents[2]
EPOCH_MINIMUM = (
    1.0182740178006e-03  # Σ huber(1e-3) over Epoch's 240 points; their published point: 1.0186e-03
)


def loss_block(frame: Any, name: str) -> Block:
    rows = select(frame, law(name))
    return block("loss", law(name).bind(rows.loss), rows.loss, centre(rows.loss))


def delta_block(frame: Any) -> Block:
    rows = select(frame, law("ptq_kumar"))
    sd = 3e-4 + 0.15 * np.abs(rows.delta["delta_ptq"].to_numpy(float))
    return block("delta", law("ptq_kumar").bind(rows.loss), rows.delta, centre(rows.loss), sd)


@pytest.fixture(params=["chinchilla", "neff_kumar", "neff_free", "ptq_kumar"])
def some_block(request: pytest.FixtureRequest, demo: Any) -> Block:
    return delta_block(demo) if request.param == "ptq_kumar" else loss_block(demo, request.param)


@pytest.fixture(scope="module")
def epoch() -> Block:
    path = (
        Path(os.environ.get("PRECISIONLAWS_DATA", ROOT.parent / "shared" / "data"))
        / "epoch_chinchilla.csv"
    )
    if not path.exists():
        pytest.skip(f"no {path}")
    table: Any = pd.read_csv(path)
    N = table["Model Size"].to_numpy()
    frame: Any = pd.DataFrame(
        {"N": N, "D": table["Training FLOP"].to_numpy() / (6 * N), "loss": table["loss"]}
    )
    return loss_block(frame[frame["loss"] < frame["loss"].nlargest(5).min()], "chinchilla")


def test_reaches_the_minimum_of_the_replication_study(epoch: Block) -> None:
    found = search(epoch, 1e-3)
    assert len(epoch.y) == 240
    assert found.value[0] == pytest.approx(EPOCH_MINIMUM, rel=1e-12)
    assert found.converged.all()
    p = {k: v[0] for k, v in epoch.natural(found.u).items()}
    assert p == pytest.approx(
        {"A": 477.826, "alpha": 0.347311, "B": 2143.42, "beta": 0.367172, "E": 1.817218}, rel=1e-5
    )
    evidence = certify(epoch, found, 1e-3)
    assert evidence.ok
    assert evidence.agreeing == evidence.starts
    assert evidence.bounds == ()


def test_jacobian_is_that_of_the_prediction(some_block: Block) -> None:
    u = search_start(some_block)
    f, J = some_block.jacobian(u)
    np.testing.assert_allclose(f, some_block.predict(u), rtol=1e-13)
    for j in range(u.shape[1]):
        e = 1e-6 * (np.arange(u.shape[1]) == j)
        numeric = (some_block.predict(u + e) - some_block.predict(u - e)) / 2e-6
        np.testing.assert_allclose(J[:, j], numeric, atol=1e-6 * (1 + np.abs(numeric).max()))


def test_hessian_is_the_derivative_of_the_gradient(some_block: Block) -> None:
    u, W = search_start(some_block)[:1], np.ones((1, len(some_block.y)))
    H = derivatives(some_block, u, np.inf, W, True)[2][0]
    for j in range(u.shape[1]):
        e = 1e-5 * (np.arange(u.shape[1]) == j)
        up, down = (derivatives(some_block, u + s * e, np.inf, W, False)[1][0] for s in (1, -1))
        np.testing.assert_allclose(H[j], (up - down) / 2e-5, rtol=1e-4, atol=1e-4 * np.abs(H).max())
    assert curvature(some_block, u, W)[0] == pytest.approx(curvature(some_block, u, W)[0].T)


def search_start(b: Block) -> np.ndarray:
    """Two points inside the domain, away from every bound."""
    middle = [np.mean(q.start if q.link == "identity" else np.log(q.start)) for q in b.params]
    return np.array([middle, np.array(middle) + 0.03])


@pytest.mark.parametrize("delta", [np.inf, 1e-2])
def test_no_scipy_start_ends_lower(some_block: Block, delta: float) -> None:
    delta = delta if some_block.kind == "loss" or np.isinf(delta) else 1.345
    found = search(some_block, delta)
    W, rng = np.ones((1, len(some_block.y))), np.random.default_rng(0)

    def value_and_gradient(u: np.ndarray) -> tuple[float, np.ndarray]:
        F, g, _, _ = derivatives(some_block, u[None], delta, W, False)
        return (float(F[0]), g[0]) if np.isfinite(F[0]) else (1e6, np.zeros_like(u))

    bounds = list(zip(some_block.lower, some_block.upper, strict=True))
    for _ in range(4):
        start = found.u[0] + 0.2 * rng.standard_normal(len(found.u[0]))
        start = np.clip(start, some_block.lower, some_block.upper)
        theirs = optimize.minimize(
            value_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds
        )
        assert found.value[0] <= theirs.fun * (1 + 1e-9)
    at_ours = optimize.minimize(
        value_and_gradient, found.u[0], jac=True, method="L-BFGS-B", bounds=bounds
    )
    assert at_ours.fun == pytest.approx(found.value[0], rel=1e-9)


@pytest.mark.parametrize("name", ["chinchilla", "ptq_kumar"])
def test_scipy_as_the_solver_agrees_or_says_that_it_does_not(demo: Any, name: str) -> None:
    ours = fit(demo, name, resamples=2)
    theirs = fit(demo, name, resamples=2, solver="scipy")
    assert ours.objective.value <= theirs.objective.value * (1 + 1e-9)
    assert theirs.objective.value == pytest.approx(ours.objective.value, rel=1e-3)
    higher = theirs.objective.value > ours.objective.value * (1 + 1e-9)
    assert higher == any(w.startswith("loss: scipy ends") for w in theirs.warnings)
    assert not any("BELOW" in w for w in theirs.warnings)
    with pytest.raises(ValueError, match="solver must be one of batched, scipy, got 'newton'"):
        fit(demo, name, solver="newton")


def test_a_batch_is_its_members_one_by_one(demo: Any) -> None:
    b = loss_block(demo, "neff_free")
    start, rng = search(b, np.inf).u[:1], np.random.default_rng(1)
    W = rng.integers(0, 3, (70, len(b.y))).astype(float)
    together = minimise(b, np.repeat(start, 70, 0), np.inf, W=W)
    for i in (0, 40, 69):
        alone = minimise(b, start, np.inf, W=W[i])
        assert together.value[i] == pytest.approx(alone.value[0], rel=1e-10)


def test_bounds_hold_and_are_reported(demo: Any) -> None:
    """The true E is 0: half of all such studies end at the bound."""
    b = loss_block(demo.assign(loss=demo["loss"] - 0.9), "chinchilla")
    found = search(b, np.inf)
    E = [q.name for q in b.params].index("E")
    assert found.u[0, E] == 0.0
    evidence = certify(b, found, np.inf)
    assert evidence.ok
    assert evidence.bounds == ("E",)


def test_a_point_that_is_not_a_minimum_is_not_certified(demo: Any) -> None:
    from dataclasses import replace

    b = loss_block(demo, "chinchilla")
    found = search(b, 1e-3)
    moved = found.u.copy()
    moved[:, 1] += 0.01
    assert not certify(b, replace(found, u=moved, value=found.value * 1.01), 1e-3).ok


def test_huber_is_quadratic_then_linear() -> None:
    r, one = np.array([0.5, 3.0]), np.ones(2)
    assert huber(r[:1], one[:1], 1.0) == 0.125
    assert huber(r[1:], one[1:], 1.0) == 2.5
    assert huber(r, one, np.inf) == pytest.approx(0.5 * (0.25 + 9))


def test_starts_fill_the_cube() -> None:
    points = kronecker(256, 3)
    assert points.min() >= 0
    assert points.max() < 1
    counts = np.histogramdd(points, bins=(4, 4, 4))[0]
    assert counts.min() >= 1


def test_rows_that_repeat_are_evaluated_once(demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds of a design: the same objective, gradient and Hessian as row by row, under any weights."""
    for make in (lambda: loss_block(demo, "neff_free"), lambda: delta_block(demo)):
        b = make()
        u = search(b, 1e-3).u[:3]
        W = np.random.default_rng(0).multinomial(len(b.y), np.full(len(b.y), 1 / len(b.y)), 3)
        assert (b.repeats is not None) == (b.kind == "loss")
        ours = derivatives(b, u, 1e-3, W.astype(float), True)
        with monkeypatch.context() as m:
            m.setattr(objective, "REPEATED", 0.0)
            plain = make()
            assert plain.repeats is None
            by_row = derivatives(plain, u, 1e-3, W.astype(float), True)
        for a, c in zip(ours, by_row, strict=True):
            assert a == pytest.approx(c, rel=1e-7, abs=1e-9 * np.abs(c).max())
        assert b.fitted(u) == pytest.approx(b.predict(u), rel=1e-14)
