"""The covariance of what a fit would find, from the design's Jacobian and the noise that its rows share.

The objective weighs all rows alike while their noise is shared within families and within (family, D),
hence the sandwich H⁻¹ G H⁻¹ with H = Σ J Jᵀ and G = Var(Σ J ψ), a sum over families. Huber's ψ of
correlated Gaussian noise follows from its Hermite expansion (Mehler): for a threshold far below the noise
it costs up to π/2 in the variance of single rows, and hardly anything in what rows share.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from precisionlaws.laws.base import Array
from precisionlaws.planning.prior import Noise

FREE = 1e-11  # scaled curvature, of 1, below which a direction is not determined at all
GONE = (
    1e-6  # of the largest slope: what rounding leaves of a parameter whose every run was taken away
)
TERMS = 61  # of the Hermite expansion

Table = Any  # a DataFrame


class Sums:
    """H and G of one block, and how they change when runs go. Rows are sorted by branch within family."""

    def __init__(self, J: Array, table: Table, noise: Noise, threshold: float) -> None:
        self.J = J  # (n, p)
        self.family = np.unique(table["family"].to_numpy(str), return_inverse=True)[1]
        self.branch = table.groupby(["family", "D"], sort=True).ngroup().to_numpy()
        self.single, self.within, self.shared = variances(noise, threshold)
        self.H = J.T @ J
        b, f = self.by_branch, self.by_family = _sums(J, self.branch), _sums(J, self.family)
        self.G = self.single * self.H + self.within * b.T @ b + self.shared * f.T @ f
        self.rows: dict[str, Array] = {
            str(run): np.asarray(at) for run, at in table.groupby("run_id").indices.items()
        }

    def moved(self, runs: Iterable[str], sign: float) -> tuple[Array, Array]:
        """H and G if these runs were not trained (-1), or trained besides (1)."""
        return self._moved(self._at(runs), sign)

    def change(self, runs: Iterable[str], sign: float) -> None:
        at = self._at(runs)
        self.H, self.G = self._moved(at, sign)
        np.add.at(self.by_branch, self.branch[at], sign * self.J[at])
        np.add.at(self.by_family, self.family[at], sign * self.J[at])

    def _moved(self, at: Array, sign: float) -> tuple[Array, Array]:
        if not len(at):
            return self.H, self.G
        J = sign * self.J[at]
        more = J.T @ self.J[at]
        H, G = self.H + more, self.G + self.single * more
        for labels, sums, weight in (
            (self.branch, self.by_branch, self.within),
            (self.family, self.by_family, self.shared),
        ):
            touched, where = (labels[at], [0]) if len(at) == 1 else np.unique(labels[at], return_inverse=True)  # fmt: skip
            old = sums[touched]
            new = old.copy()
            np.add.at(new, where, J)
            G = G + weight * (new.T @ new - old.T @ old)
        return H, G

    def _at(self, runs: Iterable[str]) -> Array:
        found = [self.rows[r] for r in dict.fromkeys(runs) if r in self.rows]
        return np.concatenate(found) if found else np.zeros(0, int)


def sandwich(H: Array, G: Array, L: Array) -> Array:
    """diag(L H⁻¹ G H⁻¹ Lᵀ); infinite for a row of L that reaches into what H does not determine."""
    d = np.sqrt(np.maximum(np.diag(H), 0.0))
    moved = d > GONE * d.max(initial=0.0)
    s = np.where(moved, 1 / np.where(moved, d, 1.0), 0.0)
    ev, V = np.linalg.eigh(H * np.outer(s, s))
    known = ev > FREE
    scaled = L * s
    y = scaled @ V
    size = np.abs(y).max(1, initial=0.0)
    lost = (np.abs(y[:, ~known]) > 1e-4 * size[:, None]).any(1) | (np.abs(L[:, ~moved]) > 0).any(1)
    x = (y[:, known] / ev[known]) @ V[:, known].T * s
    out = np.maximum(((x @ G) * x).sum(1), 0.0)
    return np.where(lost, np.inf, out)


def student(families: float) -> float:
    """t of a two-sided 95% interval; infinite for one family."""
    if families <= 1:
        return np.inf
    from scipy import special

    return float(special.stdtrit(families - 1, 0.975))


def variances(noise: Noise, threshold: float) -> tuple[float, float, float]:
    """What ψ's sums have in variance, in units of its slope: of a row alone, shared in a branch, in a family."""
    total = noise.family + noise.branch + noise.row
    if total == 0:
        return 0.0, 0.0, 0.0
    t = threshold / np.sqrt(total)
    in_branch, in_family = (noise.family + noise.branch) / total, noise.family / total
    alone, branch, family = (
        total * huber_covariance(rho, t) for rho in (1.0, in_branch, in_family)
    )
    return max(alone - branch, 0.0), max(branch - family, 0.0), family


def huber_covariance(rho: float, t: float) -> float:
    """Cov(ψ(x), ψ(y)) / E[ψ']² of standard normal x, y with correlation rho and Huber's ψ at threshold t."""
    from scipy import special

    slope = float(special.erf(t / np.sqrt(2)))  # E ψ', the first Hermite coefficient
    phi = float(np.exp(-t * t / 2) / np.sqrt(2 * np.pi))
    if rho >= 1:
        return (slope - 2 * t * phi + t * t * (1 - slope)) / slope**2
    total, h = slope**2 * rho, [1.0, t]  # normalised Hermite polynomials at t
    for k in range(2, TERMS):
        if k % 2:
            total += (2 * phi * h[k - 2]) ** 2 / (k * (k - 1)) * rho**k
        h.append((t * h[k - 1] - np.sqrt(k - 1) * h[k - 2]) / np.sqrt(k))
    return total / slope**2


def _sums(J: Array, labels: Array) -> Array:
    out = np.zeros((labels.max(initial=-1) + 1, J.shape[1]))
    np.add.at(out, labels, J)
    return out
