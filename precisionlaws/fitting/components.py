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
    fine. Memory grows with n times the number of groups.
    """
    from scipy.optimize import nnls

    V, s, _ = np.linalg.svd(np.nan_to_num(J).T, full_matrices=False)
    V = V[:, s > RANK * s.max(initial=0.0)]  # (n, rank), orthonormal: what the fit has absorbed
    n, rank = V.shape
    Z = [_indicator(g) for g in groups]
    VZ = [V.T @ z for z in Z]
    K = len(Z)
    A = np.empty((K + 1, K + 1))
    for i in range(K):
        for j in range(K):
            A[i, j] = ((Z[i].T @ Z[j] - VZ[i].T @ VZ[j]) ** 2).sum()
        A[i, K] = A[K, i] = n - (VZ[i] ** 2).sum()
    A[K, K] = n - rank
    seen = np.array([*(((z.T @ r) ** 2).sum() for z in Z), (r**2).sum()])
    scale = np.maximum(np.diag(A), 1e-300)
    return tuple(float(v) for v in nnls(A / scale[:, None], seen / scale)[0])


def _indicator(labels: Array) -> Array:
    index = np.unique(labels, return_inverse=True)[1]
    Z = np.zeros((len(index), index.max(initial=-1) + 1))
    Z[np.arange(len(index)), index] = 1.0
    return Z
