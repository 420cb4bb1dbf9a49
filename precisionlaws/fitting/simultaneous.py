"""Several quantities judged at once: intervals that all hold together, and the least effect that would be seen.

Bonferroni over Student's t. The maximum of the joint draws would be shorter, but with six families its
draws share one denominator that the estimates do not, and it rejects too often (see tests).
"""

from dataclasses import dataclass

import numpy as np

from precisionlaws.laws.base import Array

POWER = 0.8
MOST = 60  # refits without a cluster


@dataclass(frozen=True, kw_only=True)
class Together:
    """Arrays are (K,): one entry per quantity, each held against zero."""

    point: Array
    low: Array
    high: Array
    p: Array  # adjusted for all K (Holm 1979)
    detectable: Array  # the least |effect| that is found with probability POWER


def together(point: Array, spread: Array, dof: float, level: float = 0.95) -> Together:
    """point and its standard error, (K,); t with `dof` degrees of freedom."""
    from scipy import stats

    K = len(point)
    cut = float(stats.t.ppf(1 - (1 - level) / (2 * K), dof))
    raw = 2 * stats.t.sf(np.abs(point) / np.maximum(spread, 1e-300), dof)
    order = np.argsort(raw)
    p = np.empty(K)
    p[order] = np.minimum(np.maximum.accumulate(raw[order] * np.arange(K, 0, -1)), 1.0)
    return Together(
        point=point, low=point - cut * spread, high=point + cut * spread, p=p,
        detectable=(cut + float(stats.t.ppf(POWER, dof))) * spread,
    )  # fmt: skip


def spread(draws: Array, point: Array, dof: float) -> Array:
    """Standard errors (K,) behind draws (R, K) that follow t with `dof` degrees of freedom, from their bulk."""
    from scipy import stats

    bulk = np.quantile(np.abs(draws - point), 0.6827, axis=0)
    return bulk / float(stats.t.ppf(0.5 + 0.6827 / 2, dof))


def blocked(cluster: Array) -> Array:
    """Clusters as numbers from 0, joined into at most MOST: so many refits tell a variance well enough."""
    names, code = np.unique(cluster, return_inverse=True)
    return np.ravel(code) if len(names) <= MOST else np.ravel(code) % MOST
