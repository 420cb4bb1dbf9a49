"""Efficiency tables without a formula."""

import numpy as np
import pytest

from precisionlaws.fitting import Fit
from precisionlaws.planning.widths import _between, isotonic, widths


def test_isotonic_is_the_nearest_monotone_table() -> None:
    from scipy.optimize import isotonic_regression

    rng = np.random.default_rng(0)
    y, weight = rng.random((50, 6)), rng.random(6) + 0.1
    ours = isotonic(y, weight)
    for row, fitted in zip(y, ours, strict=True):
        np.testing.assert_allclose(fitted, isotonic_regression(row, weights=weight).x, atol=1e-12)


def test_a_monotone_table_is_left_alone() -> None:
    y = np.array([[0.2, 0.5, 0.9]])
    np.testing.assert_allclose(isotonic(y, np.ones(3)), y, rtol=1e-14)


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


def test_a_law_without_bits_has_one_width(fits: dict[str, Fit]) -> None:
    assert list(widths(fits["chinchilla"]).P) == [16]
