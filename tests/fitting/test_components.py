"""Components of variance: against the matrices that are never made, and against what was put in."""

import numpy as np
import pytest

from precisionlaws.fitting.components import _overlap, _sums, components


def test_sums_over_groups_equal_the_dense_matrices() -> None:
    rng = np.random.default_rng(0)
    n = 60
    V = np.linalg.qr(rng.standard_normal((n, 4)))[0]
    M = np.eye(n) - V @ V.T
    groups = [rng.integers(0, 5, n), rng.integers(0, 17, n)]
    index = [np.unique(g, return_inverse=True)[1] for g in groups]
    Z = [(g[:, None] == np.unique(g)).astype(float) for g in groups]
    S = [_sums(V, i) for i in index]
    for a in range(2):
        assert S[a] == pytest.approx(Z[a].T @ V, abs=1e-12)
        for b in range(2):
            dense = ((Z[a].T @ M @ Z[b]) ** 2).sum()
            assert _overlap(index[a], index[b], S[a], S[b]) == pytest.approx(dense, rel=1e-12)


def test_variances_are_found_on_average() -> None:
    rng = np.random.default_rng(1)
    family, branch = np.repeat(np.arange(8), 20), np.repeat(np.arange(40), 4)
    J = rng.standard_normal((5, 160))
    Q = np.linalg.qr(J.T)[0]
    found = []
    for _ in range(300):
        y = 0.3 * rng.standard_normal(8)[family] + 0.2 * rng.standard_normal(40)[branch]
        y += 0.1 * rng.standard_normal(160)
        found.append(components(y - Q @ (Q.T @ y), J, [family, branch]))
    # 300 studies of 8 families: 3% of standard error on the family's variance
    assert np.mean(found, 0) == pytest.approx([0.09, 0.04, 0.01], rel=0.12)


def test_nothing_is_absorbed_by_nothing() -> None:
    r = np.random.default_rng(2).standard_normal(50)
    (run,) = components(r, np.zeros((0, 50)), [])
    assert run == pytest.approx(np.mean(r**2))
