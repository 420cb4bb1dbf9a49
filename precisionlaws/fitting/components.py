"""Which part of the residuals a family shares, which part its runs of one D share, and what is left.

Henderson's method with fixed effects removed: sums of residuals over each kind of group, squared, are set
equal to what they are expected to be once the fitted parameters have absorbed their share of all noises.
Without that correction a fit of few families would seem to have no noise of families at all.
"""

from collections.abc import Sequence

import numpy as np

from precisionlaws.laws.base import Array

RANK = 1e-10  # singular values below, of 1, are directions that no parameter moves


def components(r: Array, J: Array, groups: Sequence[Array]) -> tuple[float, ...]:
    """Variances of each kind of group, then of single rows, none below 0.

    r (n,) residuals; J (p, n) their derivatives by the fitted parameters; groups: labels (n,), coarse to
    fine.
    """
    from scipy.optimize import nnls

    V, s, _ = np.linalg.svd(np.nan_to_num(J).T, full_matrices=False)
    V = V[:, s > RANK * s.max(initial=0.0)]  # (n, rank), orthonormal: what the fit has absorbed
    n, rank = V.shape
    index = [np.unique(g, return_inverse=True)[1] for g in groups]
    S = [_sums(V, i) for i in index]  # (G, rank) each
    K = len(index)
    A = np.empty((K + 1, K + 1))
    for i in range(K):
        for j in range(K):
            A[i, j] = _overlap(index[i], index[j], S[i], S[j])
        A[i, K] = A[K, i] = n - (S[i] ** 2).sum()
    A[K, K] = n - rank
    seen = np.array([*((np.bincount(i, r) ** 2).sum() for i in index), (r**2).sum()])
    scale = np.maximum(np.diag(A), 1e-300)
    return tuple(float(v) for v in nnls(A / scale[:, None], seen / scale)[0])


def _sums(V: Array, index: Array) -> Array:
    """Sums of the rows of V over groups."""
    out = np.zeros((int(index.max()) + 1, V.shape[1]))
    for k, column in enumerate(V.T):
        out[:, k] = np.bincount(index, column)
    return out


def _overlap(i: Array, j: Array, Si: Array, Sj: Array) -> float:
    """|Zᵢᵀ M Zⱼ|² of the groups' indicators Z and the projection M = 1 - V Vᵀ, without making either."""
    cells, count = np.unique(np.stack([i, j], 1), axis=0, return_counts=True)
    a, b = cells.T
    along = (count * (Si[a] * Sj[b]).sum(1)).sum()
    return float((count**2).sum() - 2 * along + ((Si.T @ Si) * (Sj.T @ Sj)).sum())
