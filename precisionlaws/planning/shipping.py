"""How many bits to round finished weights to, when they must fit into so many bytes.

A model trained at 16 bits is rounded to P bits, so memory M holds up to 8 M / P parameters: fewer bits buy a
larger model and a larger δ. N is the best that the budget allows, if it fits; D is what the budget leaves,
or D_crit where more would hurt (Kumar et al. 2024, Appendix E; there with D free, where all memory is used).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.laws import OFF, Law
from precisionlaws.laws.base import Array
from precisionlaws.planning.costs import FLOPS_PER_TOKEN
from precisionlaws.planning.critical import critical_D
from precisionlaws.planning.surface import BITS_PER_BYTE, Question

if TYPE_CHECKING:
    import pandas as pd

LEAST = 3.0  # bits: below, the damage of published laws saturates
HALVINGS = 80


def ship(fit: Fit, q: Question) -> "pd.DataFrame":
    """By whole P_post that was measured: N, D, loss with 95% intervals; empty without memory or PTQ."""
    import pandas as pd

    if "memory" not in q.fixed or not fit.law.paired or {"N", "D"} & set(q.fixed):
        return pd.DataFrame()
    rows = []
    for P in sorted(set(fit.delta_rows["P_post"])):
        (N, D, loss), (N_draws, D_draws, draws) = (
            rounded(fit.law, p, np.array(P), q.fixed["memory"], q.budget.flops)
            for p in (fit.params, fit.samples)
        )
        N_low, N_high = np.quantile(N_draws + 0.0 * draws, [0.025, 0.975], method="nearest")
        D_low, D_high = np.quantile(D_draws, [0.025, 0.975], method="nearest")
        low, high = np.quantile(draws, [0.025, 0.975], method="nearest")
        rows.append({
            "P_post": P, "N": float(N), "N_low": N_low, "N_high": N_high, "D": float(D), "D_low": D_low, "D_high": D_high,
            "loss": float(loss), "loss_low": low, "loss_high": high,
        })  # fmt: skip
    return pd.DataFrame(rows)


def rounded(
    law: Law, p: Mapping[str, Any], P: Array, memory: float, flops: float = np.inf
) -> tuple[Any, Any, Any]:
    """N, D and loss after rounding to P bits in `memory` bytes."""
    N = BITS_PER_BYTE * memory / P
    with np.errstate(all="ignore"):
        if np.isfinite(flops):
            N = np.minimum(N, _best_N(law, p, P, flops / FLOPS_PER_TOKEN))
        D = np.minimum(critical_D(law, p, {"N": N, "P_post": P}), flops / (FLOPS_PER_TOKEN * N))
        return N, D, law.evaluate(p, law.read({"N": N + 0.0 * D, "D": D, "P_post": P + 0.0 * D}))


def _best_N(law: Law, p: Mapping[str, Any], P: Array, K: float) -> Array:
    """Parameters of least loss after rounding where N·D = K."""
    x = law.read({"N": P, "D": P, "P_post": P})
    shape = np.broadcast_shapes(np.shape(P), *map(np.shape, p.values()))
    low, high = np.zeros(shape), np.full(shape, np.log(K))
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        N = np.exp(middle + 1e-30j)
        falls = np.imag(law.evaluate(p, {**x, "N": N, "D": K / N})) < 0
        low, high = np.where(falls, middle, low), np.where(falls, high, middle)
    return np.exp(0.5 * (low + high))


def best_shipped(law: Law, p: Mapping[str, Any], memory: float, flops: float = np.inf) -> float:
    """The real-valued P_post of least loss."""
    grid = np.arange(LEAST, OFF, 0.25)
    k = int(np.argmin(rounded(law, p, grid, memory, flops)[2]))
    low, high = grid[max(k - 1, 0)], grid[min(k + 1, len(grid) - 1)]
    for _ in range(HALVINGS):
        middle = np.asarray(0.5 * (low + high))
        down = _falls(law, p, middle, memory, flops)
        low, high = (float(middle), high) if down else (low, float(middle))
    return float(0.5 * (low + high))


def _falls(law: Law, p: Mapping[str, Any], P: Array, memory: float, flops: float) -> bool:
    """d loss / dP < 0 where N and D are the best at P, or follow it at their limits."""
    N, D, _ = rounded(law, p, P, memory, flops)
    x, step = law.read({"N": N, "D": D, "P_post": P}), P + 1e-30j
    spent = (1 - 1e-9) * flops / (FLOPS_PER_TOKEN * N) <= D
    N = N * P / step if (1 - 1e-9) * BITS_PER_BYTE * memory / P <= N else N
    D = flops / (FLOPS_PER_TOKEN * N) if spent else D
    return bool(np.imag(law.evaluate(p, {**x, "N": N, "D": D, "P_post": step})) < 0)
