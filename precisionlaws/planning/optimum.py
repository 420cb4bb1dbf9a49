"""The best N, D and P for a budget, for one or many parameter draws at once.

With N_eff = N·eff(P) and cost C = 6 N D c(P), the least loss depends on P only through eff(P)/c(P),
because the budget fixes N_eff·D = C·eff(P)/(6 c(P)). So the best P maximises eff(P)/c(P) for any base
and any budget, and needs neither E nor the exponents. Fixing N or D breaks this, and then the loss
itself is minimised over P.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from precisionlaws.laws import OFF, Law
from precisionlaws.laws.base import Array
from precisionlaws.planning.costs import FLOPS_PER_TOKEN
from precisionlaws.planning.widths import efficiency

GRID = 0.05  # bits: fine enough to bracket the one maximum of a formula in P


def split(
    law: Law, p: Mapping[str, Any], K: Any, eff: Any, fixed: Mapping[str, float], data: Any = 1.0
) -> tuple[Any, Any, Any]:
    """N, D and the base's loss where N·D = K, for N_eff = N·eff and D_eff = D·data."""
    if "N" in fixed:
        N = K * 0.0 + fixed["N"]
    elif "D" in fixed:
        N = K / fixed["D"]
    elif hasattr(law.base, "optimal_N"):
        N = law.base.optimal_N(p, K * eff * data) / eff
    else:
        N = _golden(lambda N: law.base.loss(p, N * eff, K / N * data), np.log(K)) + 0.0 * eff
    D = K * 0.0 + fixed["D"] if "D" in fixed else K / N
    return N, D, law.base.loss(p, N * eff, D * data)


def best_width(
    law: Law, p: Mapping[str, Any], flops: float, c: Callable[[Any], Any], low: float, roles: tuple[str, ...],
    fixed: Mapping[str, float],
) -> Array:  # fmt: skip
    """The best real-valued P in [low, 16] for each draw of p, (R,); 16 means not quantized."""
    q = {k: np.reshape(v, (-1, 1)) for k, v in p.items()}

    def merit(P: Any) -> Any:
        eff = efficiency(law, q, P, roles)
        if not fixed:
            return np.log(eff / c(P))
        return -split(law, q, flops / (FLOPS_PER_TOKEN * c(P)), eff, fixed)[2]

    grid = np.append(np.arange(low, OFF, GRID), OFF)
    value = np.where(np.isnan(merit(grid[None])), -np.inf, merit(grid[None]))
    best = np.argmax(value, 1)
    inner = np.clip(best, 1, len(grid) - 2)
    left, right = grid[inner - 1][:, None], np.minimum(grid[inner + 1], OFF - 1e-9)[:, None]
    for _ in range(60):  # bisection on the derivative, which a complex step gives to rounding
        middle = 0.5 * (left + right)
        rising = np.imag(merit(middle + 1e-30j)) > 0
        left, right = np.where(rising, middle, left), np.where(rising, right, middle)
    P = 0.5 * (left + right)
    keep = best == len(grid) - 1
    # At 16 the role is exactly off, which may beat the top of the formula just below.
    return np.where(keep, OFF, np.where(best == 0, grid[0], P[:, 0]))


def _golden(fn: Callable[[Any], Any], log_K: Any) -> Any:
    """Argument of the minimum of fn over (1, K), by golden section on its logarithm."""
    g = (np.sqrt(5.0) - 1) / 2
    a, b = 0.0 * log_K, log_K
    for _ in range(90):
        x, y = b - g * (b - a), a + g * (b - a)
        left = fn(np.exp(x)) < fn(np.exp(y))
        a, b = np.where(left, a, x), np.where(left, y, b)
    return np.exp(0.5 * (a + b))
