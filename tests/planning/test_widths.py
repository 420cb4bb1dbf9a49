"""Efficiency tables without a formula."""

import numpy as np
import pandas as pd
import pytest

from precisionlaws.fitting import Fit, fit
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.laws import law
from precisionlaws.planning.widths import _between, isotonic, widths


def test_isotonic_without_covariance_is_the_nearest_monotone_table() -> None:
    from scipy.optimize import isotonic_regression

    rng = np.random.default_rng(0)
    y, weight = rng.random((50, 6)) - 0.7, rng.random(6) + 0.1
    ours = isotonic(y, np.diag(1 / weight), (4, 2))
    for row, fitted in zip(y, ours, strict=True):
        blocks = [isotonic_regression(row[i], weights=weight[i]).x for i in (np.s_[:4], np.s_[4:])]
        np.testing.assert_allclose(fitted, np.minimum(np.concatenate(blocks), 0), atol=1e-6)


def test_isotonic_is_a_projection_in_its_metric() -> None:
    """What is nearest is no farther from any point of the cone than the row itself (Kolmogorov)."""
    rng = np.random.default_rng(1)
    root = rng.standard_normal((5, 5))
    cov = root @ root.T
    y, inside = rng.standard_normal((20, 5)), -np.sort(rng.random((30, 5)))[:, ::-1]
    ours = isotonic(y, cov, (5,))
    assert (np.diff(ours) >= -1e-12).all()
    assert (ours <= 1e-12).all()
    metric = np.linalg.inv(cov)
    away = np.einsum("ri,ij,rkj->rk", y - ours, metric, inside[None] - ours[:, None])
    assert away.max() < 1e-4 * np.abs(metric).max()


def test_a_monotone_table_is_left_alone() -> None:
    y = np.log([[0.2, 0.5, 0.9]])
    np.testing.assert_allclose(isotonic(y, np.eye(3), (3,)), y, rtol=1e-6)


def test_a_width_that_was_only_trained_together_keeps_its_product() -> None:
    """The start of a fit decides how the product is split, and monotony must not act on that."""
    true = {"A": 6.53, "alpha": 0.278, "B": 17.3, "beta": 0.188, "E": 0.5,
            **{f"eff_{r}[{P}]": v for r, eff in {"w": (0.9, 0.99), "a": (0.8, 0.98), "kv": (0.92, 0.99)}.items()
               for P, v in zip((4, 8), eff, strict=True)}}  # fmt: skip
    settings = [{f"P_{r}": 4} for r in ("w", "a", "kv")] + [
        {f"P_{r}": P for r in ("w", "a", "kv")} for P in (4, 8)
    ]
    design = crossed((6656, 20480, 50000), (62e3, 125e3, 250e3, 500e3), settings)
    rows = simulate(law("neff_free"), true, design, family_sd=0.01, run_sd=1e-3, seed=3)
    for seed in range(3):
        found = fit(rows, "neff_free", resamples=200, seed=seed)
        table = widths(found)
        at = list(table.P).index(8)
        product = min(found.quantity("eff(8)")[0], 1.0)
        assert table.eff[at] == pytest.approx(product, rel=2e-3)
        low, high = np.quantile(table.draws[:, at], [0.025, 0.975])
        assert low < 0.98 * 0.99 * 0.99 < high
        assert table.eff[0] == pytest.approx(0.9 * 0.8 * 0.92, rel=0.03)
        # One part alone is between the product and 1, and no more is known of it.
        alone = widths(found, ("w",))
        parts = alone.draws[:, list(alone.P).index(8)]
        assert parts.min() > 0.9
        assert np.quantile(parts, 0.9) > 0.999
        assert np.quantile(parts, 0.1) < product + 0.01


def test_between_is_exact_at_trained_widths_and_monotone() -> None:
    P = np.arange(3.0, 17.0)
    eff = _between(P, (3.0, 4.0, 6.0), np.array([[0.5, 0.8, 0.9]]))[0]
    assert eff[[0, 1, 3, 13]] == pytest.approx([0.5, 0.8, 0.9, 1.0])
    assert (np.diff(eff) > 0).all()


def test_table_spans_the_widths_all_roles_share(fits: dict[str, Fit]) -> None:
    table = widths(fits["neff_free"])
    assert list(table.P) == list(range(4, 17))  # weights from 3, activations and KV cache from 4
    assert list(table.P[table.trained]) == [4, 16]
    assert table.eff[-1] == 1
    assert (table.draws[:, -1] == 1).all()
    assert (np.diff(table.draws, axis=1) >= -1e-12).all()


@pytest.mark.parametrize("resamples", [1, 2, 30])
def test_few_draws_give_a_table_too(demo: pd.DataFrame, resamples: int) -> None:
    table = widths(fit(demo, "neff_free", resamples=resamples))
    assert table.draws.shape == (resamples, len(table.P))
    assert ((table.draws > 0) & (table.draws <= 1)).all()


def test_a_law_without_bits_has_one_width(fits: dict[str, Fit]) -> None:
    assert list(widths(fits["chinchilla"]).P) == [16]
