"""Which of several laws may be the best predictor: the model confidence set (Hansen, Lunde & Nason 2011).

While equality of all laws still in the set is rejected, one of them is removed: the statistic is T_R, the
largest difference of two laws' mean squared errors in standard errors, and the law that is worse in it goes.
The p-value of a law is the largest at which it, or any law removed before it, was removed; the set at level
1 − α is every law with p > α, and holds the best with probability at least 1 − α.

A family is one observation, because its runs share noise. Were two laws equally good, the difference of
their errors in a family would be as often one sign as the other; the null distribution is that of t with
the signs of whole families drawn at random, the same for all pairs. That holds its level with any number
of families, where resampling them does not (tried: 6 equal laws, 5 families, all kept in 89% of studies
at a nominal 95%), but fewer than ENOUGH families can then rule out nothing at 95%. Errors are those of the
refits at hand: that other small runs would have been fitted differently is not in them.
"""

import numpy as np

from precisionlaws.laws.base import Array

DRAWS = 4000
ENOUGH = 6  # families with which p can be below 0.05: 2 of 2^6 patterns of signs
SAME = 1e-9  # relative: differences below are rounding


def p_values(losses: Array, cluster: Array, seed: int = 0) -> Array:
    """p (m,) of m laws; losses (n, m) are those of one prediction per row, cluster (n,) their families."""
    t, null = _statistics(by_family(losses, cluster), seed)
    m = losses.shape[1]
    p, left, sofar = np.ones(m), list(range(m)), 0.0
    while len(left) > 1:
        at = np.ix_(left, left)
        reached = null[:, *at].max((1, 2)) >= (1 - SAME) * t[at].max()
        sofar = max(sofar, float((1 + reached.sum()) / (1 + DRAWS)))
        p[left.pop(int(np.argmax(t[at].max(1))))] = sofar
    return p


def by_family(losses: Array, cluster: Array) -> Array:
    """Sums over the predictions of each family, (G, m)."""
    names, index = np.unique(cluster, return_inverse=True)
    total = np.zeros((len(names), losses.shape[1]))
    np.add.at(total, index, losses)
    return total


def _statistics(total: Array, seed: int) -> tuple[Array, Array]:
    """t of every pair (m, m), positive where the first law is worse, and |t| of the draws (DRAWS, m, m)."""
    G, m = total.shape
    gap = (total[:, :, None] - total[:, None, :]).reshape(G, m * m)
    # Laws that predict the same differ by rounding, which no t may magnify.
    gap[:, np.abs(gap).sum(0) <= SAME * np.abs(total).sum(0).max()] = 0.0
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (DRAWS, G))
    t, null = _t(np.ones((1, G)), gap), np.abs(_t(signs, gap))
    return t.reshape(m, m), null.reshape(DRAWS, m, m)


def _t(signs: Array, gap: Array) -> Array:
    """t statistics of the sums of signed gaps, (draws, pairs)."""
    G, square = len(gap), (gap**2).sum(0)
    total = signs @ gap
    spread = np.maximum((square - total**2 / G) * G / (G - 1), SAME * square)
    return total / np.sqrt(np.where(square > 0, spread, np.inf))


def spread(losses: Array, cluster: Array, seed: int = 0) -> tuple[Array, Array]:
    """Mean loss (m,) and draws of its error (DRAWS, m).

    Raises: ValueError with one family, which tells nothing of its own error.
    """
    names, index = np.unique(cluster, return_inverse=True)
    G = len(names)
    if G < 2:
        raise ValueError(
            f"the predicted runs are of one family ({names[0]}): laws are compared over families, and need at least 2"
        )
    mean = losses.mean(0)
    influence = np.zeros((G, losses.shape[1]))
    np.add.at(influence, index, (losses - mean) / len(losses))
    rng = np.random.default_rng(seed)
    half = (DRAWS + 1) // 2
    z = rng.standard_normal((half, G)) / np.sqrt(rng.chisquare(G - 1, (half, 1)) / (G - 1))
    z = np.concatenate([z, -z])[:DRAWS] * np.sqrt(G / (G - 1))  # ± pairs: less Monte Carlo noise
    return mean, z @ influence
