"""The covariance of what a fit would find: Huber's scores against simulation, directions that are not determined."""

import numpy as np
import pytest

from precisionlaws.planning.sandwich import huber_covariance, sandwich, student


@pytest.mark.parametrize("rho", [0.3, 0.9, 1.0])
@pytest.mark.parametrize("t", [0.1, 1.345, 5.0])
def test_huber_on_correlated_noise(rho: float, t: float) -> None:
    rng = np.random.default_rng(0)
    x, e = rng.standard_normal((2, 2_000_000))
    y = rho * x + np.sqrt(1 - rho**2) * e
    psi = np.clip(x, -t, t), np.clip(y, -t, t)
    slope = np.mean(np.abs(x) < t)
    assert huber_covariance(rho, t) == pytest.approx(np.mean(psi[0] * psi[1]) / slope**2, rel=0.02)


def test_independent_rows_have_the_textbook_covariance() -> None:
    J = np.random.default_rng(0).standard_normal((50, 3))
    H = J.T @ J
    assert sandwich(H, 0.04 * H, np.eye(3)) == pytest.approx(0.04 * np.diag(np.linalg.inv(H)))


def test_what_no_row_speaks_of_has_no_variance() -> None:
    J = np.random.default_rng(0).standard_normal((50, 3))
    J[:, 2] = J[:, 1]  # only their sum is known
    H = J.T @ J
    L = np.array([[1.0, 0, 0], [0, 1, 0], [0, 1, 1]])
    assert np.isinf(sandwich(H, H, L)).tolist() == [False, True, False]


def test_one_family_has_no_interval() -> None:
    assert student(1) == np.inf
    assert student(12) == pytest.approx(2.201, rel=1e-3)
